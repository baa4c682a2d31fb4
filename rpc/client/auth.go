package client

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/sasl"
)

// authSASL is SASL among the kinds of authentication that AUTH_LIST names.
const authSASL = 1

// ErrCredentials says that the daemon wants a name and a password before it opens: see Authenticate.
var ErrCredentials = errors.New("the daemon asks for a name and a password")

// Authenticate proves to the daemon at the other end of a new connection who the user is, if it wants to know, and makes sure
// that the daemon knows that user. ask is called when it does. The password does not travel. Afterwards the connection is as
// new, for a Client or any other library. Deadlines are the caller's.
func Authenticate(conn net.Conn, ask func() (name, password string, err error)) error {
	h := &handshake{conn: conn, frames: rpc.NewFrameReader(conn, 0)}
	defer h.frames.Close()
	var auth libvirt.AuthListRet
	if err := h.call(rpc.ProcAuthList, nil, &auth); err != nil {
		return err
	}
	if !slices.Contains(auth.Types, authSASL) {
		return nil
	}
	name, password, err := ask()
	if err != nil {
		return err
	}
	var offer libvirt.AuthSaslInitRet
	if err := h.call(rpc.ProcAuthSaslInit, nil, &offer); err != nil {
		return err
	}
	if !slices.Contains(strings.Split(offer.Mechlist, ","), sasl.Mechanism) {
		return fmt.Errorf("the daemon offers the SASL mechanisms '%s', and %s is not among them", offer.Mechlist, sasl.Mechanism)
	}
	own, err := sasl.NewClient(name, password)
	if err != nil {
		return err
	}
	return h.converse(own)
}

// handshake makes calls one after the other on a connection that has no reader yet. The daemon says nothing unasked before
// it opens, so nothing is left behind in the reader's buffer.
type handshake struct {
	conn   net.Conn
	frames *rpc.FrameReader
	serial uint32
}

func (h *handshake) call(procedure uint32, args, ret any) error {
	h.serial++
	head := rpc.Header{Program: rpc.ProgramRemote, Version: version, Procedure: procedure, Serial: h.serial}
	b, err := message(head, args, nil)
	if err != nil {
		return err
	}
	if _, err := h.conn.Write(b); err != nil {
		return fmt.Errorf("write to the daemon: %w", err)
	}
	got, body, files, err := h.frames.Next()
	if err != nil {
		return fmt.Errorf("read from the daemon: %w", err)
	}
	for _, f := range files {
		f.Close()
	}
	if got.Serial != h.serial || got.Type != rpc.TypeReply {
		return fmt.Errorf("the daemon answered call %d of the handshake with message %d of type %d", h.serial, got.Serial, got.Type)
	}
	return reply{status: got.Status, body: body}.decode(ret)
}

// converse goes through SCRAM's steps until both sides are content.
func (h *handshake) converse(own *sasl.Client) error {
	words, err := own.Step(nil)
	if err != nil {
		return err
	}
	var start libvirt.AuthSaslStartRet
	if err := h.call(rpc.ProcAuthSaslStart, &libvirt.AuthSaslStartArgs{Mech: sasl.Mechanism, Data: rpc.Chars(words)}, &start); err != nil {
		return err
	}
	answer, complete := start.Data, start.Complete
	for {
		if words, err = own.Step(rpc.Octets(answer)); err != nil {
			return fmt.Errorf("the daemon's part of the authentication is wrong: %w", err)
		}
		if complete != 0 {
			break
		}
		var step libvirt.AuthSaslStepRet
		if err := h.call(rpc.ProcAuthSaslStep, &libvirt.AuthSaslStepArgs{Data: rpc.Chars(words)}, &step); err != nil {
			return err
		}
		answer, complete = step.Data, step.Complete
	}
	if !own.Verified() {
		return errors.New("the daemon did not prove that it knows the user")
	}
	return nil
}
