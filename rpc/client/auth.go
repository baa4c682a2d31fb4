package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/sasl"
)

// authSASL is SASL among the kinds of authentication that AUTH_LIST names.
const authSASL = 1

// ErrCredentials says that the daemon wants a name and a password before it opens: call Authenticate first.
var ErrCredentials = errors.New("the daemon asks for a name and a password")

// AskAuth reports whether the daemon wants a name and a password.
func (c *Client) AskAuth(ctx context.Context) (bool, error) {
	var auth libvirt.AuthListRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcAuthList, nil, &auth); err != nil {
		return false, err
	}
	return slices.Contains(auth.Types, authSASL), nil
}

// Authenticate proves to the daemon that the client is user name, and makes sure that the daemon knows that user. The
// password does not travel.
func (c *Client) Authenticate(ctx context.Context, name, password string) error {
	var offer libvirt.AuthSaslInitRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcAuthSaslInit, nil, &offer); err != nil {
		return err
	}
	if !slices.Contains(strings.Split(offer.Mechlist, ","), sasl.Mechanism) {
		return fmt.Errorf("the daemon offers the mechanisms %q, and %s is not among them", offer.Mechlist, sasl.Mechanism)
	}
	own, err := sasl.NewClient(name, password)
	if err != nil {
		return err
	}
	words, err := own.Step(nil)
	if err != nil {
		return err
	}
	var start libvirt.AuthSaslStartRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcAuthSaslStart, &libvirt.AuthSaslStartArgs{Mech: sasl.Mechanism, Data: rpc.Chars(words)}, &start); err != nil {
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
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcAuthSaslStep, &libvirt.AuthSaslStepArgs{Data: rpc.Chars(words)}, &step); err != nil {
			return err
		}
		answer, complete = step.Data, step.Complete
	}
	if !own.Verified() {
		return errors.New("the daemon did not prove that it knows the user")
	}
	return nil
}
