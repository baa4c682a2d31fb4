// Package sasl proves who a client is by a password: SCRAM-SHA-256 (RFC 5802, RFC 7677), the one mechanism that every SASL
// library of libvirt's clients has and that gives away nothing by itself. It keeps what is needed to check passwords, never
// passwords, and it has the client's side for virtd's own programs.
//
// Strangers must not learn which users there are: the conversation with a user who does not exist takes the same steps, the
// same work and ends in the same words as one with a wrong password.
//
// The conversation itself is github.com/xdg-go/scram's. The package leaves out how messages travel (rpc) and what a client may
// do afterwards. It has no security layer: nothing is encrypted after the conversation, so TLS or a unix socket must do that.
//
// Start reading at Users, then Authenticator.
package sasl
