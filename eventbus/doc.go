// Package eventbus carries events from where they happen to those who wait for them.
//
// Managers emit under their locks; subscribers, such as the RPC server's, are called later and in the order of the
// events, by one goroutine. Emitting never waits for a subscriber.
//
// The package leaves out filters, replay and bounds: subscribers must not block, so that the queue stays short. Start
// reading at Bus.
package eventbus
