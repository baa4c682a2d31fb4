// Package rpc speaks libvirt's wire protocol, as servers do: framing, XDR, authentication handshake rules, keepalive,
// parallel calls, streams, events and file descriptors, for the programs REMOTE (0x20008086), QEMU (0x20008087), KEEPALIVE
// (0x6b656570) and virtd's own private program (0x76697274, see Private).
//
// A Server accepts connections and dispatches calls to handlers that a Registry holds. The handlers are the daemon's; the
// package knows nothing of domains. What it does know is every procedure's number, name, argument and result types, whether
// a read-only connection may call it and whether libvirt treats it as high priority: see Procedure and table_gen.go.
//
// A client is hostile until shown otherwise: lengths are checked before memory is allocated, every queue is bounded, and a
// client that stalls, floods or vanishes holds up nobody else.
//
// What a small call costs is waking who answers it. So what answers from memory is answered in the connection's reader, a
// request on a unix socket wakes one thread and not also the runtime's poller (localConn), and a thread waits by itself for
// the next call of a client that is alone in asking (alone, waitBriefly). The reader also answers what reads and writes
// definitions, one call at a time, and lets another goroutine read on when that takes longer (relay).
//
// The package leaves out passwords (sasl) and the listeners (cmd/virtd has unix sockets, TCP and TLS), and the procedures'
// meaning. Its client side is package rpc/client.
//
// Start reading at Server, then conn.go for the life of one connection, and xdr.go for the codec.
package rpc
