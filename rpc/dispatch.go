package rpc

import (
	"os"

	"virtd/virterr"
)

// call checks a call, and answers it or hands it to its lane. Everything up to the decoded arguments happens here, in the
// reader. The error is errHandedOn or nil.
func (c *Conn) call(h Header, body []byte, files []*os.File) error {
	call, err := c.newCall(h, body)
	if err != nil {
		closeFiles(files)
		c.replyError(h, err)
		if c.refusal != nil {
			c.CloseWhenIdle()
		}
		return nil
	}
	call.Files = files
	// In the reader: the handshake, as a client may send calls right behind CONNECT_OPEN without waiting for the answer, and
	// what is answered at once, unless an earlier answer is still on its way and this one would have to wait for it.
	if beforeOpen(h) || call.handling.quick && c.out.idle() {
		c.tasks.Add(1)
		call.run(c.server.ctx)
		c.tasks.Done()
		c.reader.expect(c.server.alone.asks(c))
		return nil
	}
	l := c.lanes[laneOf(call.Proc)]
	if call.handling.brief && !c.reader.more() && l.enter(call) {
		return c.answer(l, call)
	}
	c.reader.expect(false)
	l.submit(c.server.ctx, call)
	return nil
}

// answer answers a call in the reader, which it may cease to be meanwhile.
func (c *Conn) answer(l *lane, call *Call) error {
	c.relay.begin(call)
	call.run(c.server.ctx)
	c.tasks.Done()
	if next := l.next(); next != nil { // somebody reads already
		go l.work(c.server.ctx, next)
	}
	if !c.relay.end(call) {
		return errHandedOn
	}
	c.reader.expect(c.server.alone.asks(c))
	return nil
}

func (c *Conn) newCall(h Header, body []byte) (*Call, error) {
	p, err := findProcedure(h)
	if err != nil {
		return nil, err
	}
	if c.refusal != nil {
		return nil, c.refusal
	}
	if c.auth.needed() && !authProcedure(h) {
		return nil, rpcError("authentication required")
	}
	if !c.opened.Load() && !beforeOpen(h) {
		return nil, virterr.NewFrom(virterr.FromRPC, virterr.InternalError, "connection not open")
	}
	args, err := newArgs(p, body)
	if err != nil {
		return nil, rpcError("unable to decode message payload: %v", err)
	}
	if c.readOnly.Load() {
		if err := checkReadOnly(p, args); err != nil {
			return nil, err
		}
	}
	handling := c.server.registry.lookup(h.Program, h.Procedure)
	if handling.fn == nil {
		return nil, virterr.New(virterr.NoSupport, "%s", p.API)
	}
	return &Call{Conn: c, Proc: p, header: h, handling: handling, args: args, size: len(body)}, nil
}

// findProcedure names the unknown ones in the words that clients look for.
func findProcedure(h Header) (*Procedure, error) {
	p := LookupProcedure(h.Program, h.Procedure)
	switch h.Program {
	case ProgramRemote, ProgramQEMU, ProgramPrivate:
		if h.Version != programVersion {
			return nil, rpcError("cannot find program %#x version %d; unknown procedure: %d", h.Program, h.Version, h.Procedure)
		}
	default:
		return nil, rpcError("cannot find program %#x version %d; unknown procedure: %d", h.Program, h.Version, h.Procedure)
	}
	if p == nil || p.Message {
		return nil, rpcError("unknown procedure: %d", h.Procedure)
	}
	return p, nil
}

// beforeOpen reports whether a call belongs to the handshake: libvirt's clients authenticate and ask about keepalive before
// they open.
func beforeOpen(h Header) bool {
	if h.Program != ProgramRemote {
		return false
	}
	switch h.Procedure {
	case ProcConnectSupportsFeature, ProcConnectOpen, ProcConnectClose:
		return true
	}
	return authProcedure(h)
}
