// Package chardev is the host side of serial ports and consoles: a pty master, a unix socket, a file or nothing, each
// with an optional log that keeps its size between two files.
//
// A front end (UART, virtio console) writes without ever blocking and is told when there is room again; input is read
// only while the front end has room. A pty that nobody has open costs nothing: output is dropped (the log still gets
// it) and no timer runs, because the kernel wakes the reader when the other side writes.
//
// The package leaves out opening files and creating ptys: descriptors come from outside. Start reading at Port.
package chardev
