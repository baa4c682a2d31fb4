// Package keycode translates the numbers that clients have for keys (virDomainSendKey) into those of Linux, which virtio's
// keyboards use. Start reading at Translate.
package keycode
