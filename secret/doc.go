// Package secret keeps libvirt's secrets: passphrases and keys that definitions name by UUID or by what they are for.
//
// A secret is a definition and, once somebody set it, a value. Both are files of their own, readable by virtd's user alone,
// and on disk before a call returns; those of an ephemeral secret are kept in memory only and end with virtd. The value of a
// private secret is never told to a client.
//
// It leaves out who may ask (rpc, daemon), and any use of the values: nothing that virtd runs needs one yet.
//
// Start reading at Manager, then definition.go for the documents.
package secret
