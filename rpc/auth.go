package rpc

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/sasl"
	"virtd/virterr"
)

// The kinds of authentication that AUTH_LIST names (remote_auth_type).
const (
	authNone libvirt.AuthType = 0
	authSASL libvirt.AuthType = 1
)

// unprovenMessage is the longest message from a client that has not proved who it is, in bytes.
const unprovenMessage = 64 << 10

// authentication is what a connection must prove, and has. Only its reader changes it: the calls of the handshake run there.
type authentication struct {
	sasl *sasl.Authenticator // nil: nothing is to be proved
	conv *sasl.Conversation  // under way
	done atomic.Bool
	name atomic.Pointer[string]
}

// needed reports whether the client has yet to prove who it is.
func (a *authentication) needed() bool { return a.sasl != nil && !a.done.Load() }

// User returns the name that the client proved to have, or "" where nothing was to be proved.
func (c *Conn) User() string {
	if p := c.auth.name.Load(); p != nil {
		return *p
	}
	return ""
}

// HandleAuth registers the procedures of authentication, which are the protocol's own: a connection whose Policy has SASL
// may call nothing else until it has proved who it is.
func HandleAuth(r *Registry) {
	Handle(r, ProgramRemote, ProcAuthList, authList)
	Handle(r, ProgramRemote, ProcAuthSaslInit, authInit)
	Handle(r, ProgramRemote, ProcAuthSaslStart, authStart)
	Handle(r, ProgramRemote, ProcAuthSaslStep, authStep)
	Handle(r, ProgramRemote, ProcAuthPolkit, authPolkit)
}

// authProcedure reports whether a client may make a call before it has proved who it is.
func authProcedure(h Header) bool {
	if h.Program != ProgramRemote {
		return false
	}
	switch h.Procedure {
	case ProcAuthList, ProcAuthSaslInit, ProcAuthSaslStart, ProcAuthSaslStep, ProcAuthPolkit:
		return true
	}
	return false
}

func authList(_ context.Context, c *Call, _ *struct{}) (*libvirt.AuthListRet, error) {
	kind := authNone
	if c.Conn.auth.needed() {
		kind = authSASL
	}
	return &libvirt.AuthListRet{Types: []libvirt.AuthType{kind}}, nil
}

// authPolkit answers clients that ask although it was not offered.
func authPolkit(context.Context, *Call, *struct{}) (*libvirt.AuthPolkitRet, error) {
	return nil, virterr.NewFrom(virterr.FromRPC, virterr.AuthFailed, "polkit is not used here; access is by the socket's group")
}

func authInit(_ context.Context, c *Call, _ *struct{}) (*libvirt.AuthSaslInitRet, error) {
	if !c.Conn.auth.needed() || c.Conn.auth.conv != nil {
		return nil, c.refuseAuth("SASL was asked for out of turn")
	}
	return &libvirt.AuthSaslInitRet{Mechlist: sasl.Mechanism}, nil
}

func authStart(_ context.Context, c *Call, a *libvirt.AuthSaslStartArgs) (*libvirt.AuthSaslStartRet, error) {
	auth := &c.Conn.auth
	if !auth.needed() || auth.conv != nil {
		return nil, c.refuseAuth("SASL was started out of turn")
	}
	conv, err := auth.sasl.Begin(a.Mech)
	if err != nil {
		return nil, c.refuseAuth(err.Error())
	}
	auth.conv = conv
	data, done, err := c.authenticate(a.Data)
	if err != nil {
		return nil, err
	}
	return &libvirt.AuthSaslStartRet{Complete: done, Nil: absent(data), Data: Chars(data)}, nil
}

func authStep(_ context.Context, c *Call, a *libvirt.AuthSaslStepArgs) (*libvirt.AuthSaslStepRet, error) {
	if !c.Conn.auth.needed() || c.Conn.auth.conv == nil {
		return nil, c.refuseAuth("SASL was continued out of turn")
	}
	data, done, err := c.authenticate(a.Data)
	if err != nil {
		return nil, err
	}
	return &libvirt.AuthSaslStepRet{Complete: done, Nil: absent(data), Data: Chars(data)}, nil
}

// authenticate takes the client's next words. complete is 1 when it has proved who it is.
func (c *Call) authenticate(words []int8) (challenge []byte, complete int32, err error) {
	auth := &c.Conn.auth
	challenge, done, err := auth.conv.Step(Octets(words))
	if err != nil {
		return nil, 0, c.refuseAuth(err.Error())
	}
	if !done {
		return challenge, 0, nil
	}
	name := auth.conv.Name()
	auth.name.Store(&name)
	auth.conv = nil
	c.Conn.proved()
	return challenge, 1, nil
}

// proved lets the client's calls through. It runs in the connection's reader.
func (c *Conn) proved() {
	c.auth.done.Store(true)
	c.reader.max = messageLimit(c.readOnly.Load())
	c.server.noLongerAnonymous(c)
	c.server.log.Info("client authenticated", "peer", c.peer, "user", c.User(), "mechanism", sasl.Mechanism)
}

// refuseAuth ends the connection with the same words at the same pace whatever was wrong, so that strangers learn nothing and
// guess slowly. The reason is for the log.
func (c *Call) refuseAuth(reason string) error {
	name := ""
	if conv := c.Conn.auth.conv; conv != nil {
		name = conv.Name()
	}
	c.Conn.server.log.Info("authentication failed", "peer", c.Conn.peer, "user", shorten(name), "reason", shorten(reason))
	select {
	case <-time.After(c.Conn.server.opts.AuthFailureDelay):
	case <-c.Conn.server.ctx.Done():
	case <-c.Conn.gone:
	}
	c.Conn.CloseWhenIdle()
	return virterr.NewFrom(virterr.FromRPC, virterr.AuthFailed, "authentication failed")
}

// shorten keeps a stranger's words in the log within a line.
func shorten(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > 80 {
		return strings.ToValidUTF8(s[:80], "") + "..."
	}
	return s
}

// Octets turns XDR's array of char, which SASL's words are on the wire, into bytes.
func Octets(chars []int8) []byte {
	b := make([]byte, len(chars))
	for i, v := range chars {
		b[i] = byte(v)
	}
	return b
}

// Chars turns bytes into XDR's array of char.
func Chars(b []byte) []int8 {
	out := make([]int8, len(b))
	for i, v := range b {
		out[i] = int8(v)
	}
	return out
}

// absent is 1 for no data, which SASL tells from empty data.
func absent(b []byte) int32 {
	if b == nil {
		return 1
	}
	return 0
}
