// Package fake is a driver without processes: its engines live in memory, do at once what they are told, and report what
// a test makes happen to them. They outlive the Manager that started them, so a test can adopt them with another one.
//
// It leaves out planning and host resources: driver/kvm has them. Start reading at Driver, then Engine.
package fake
