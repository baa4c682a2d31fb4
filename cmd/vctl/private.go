package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"virtd/rpc"
	"virtd/rpc/client"
	"virtd/virterr"
)

// callPrivate calls a procedure of virtd's own program, which go-libvirt does not know.
func callPrivate(c *cli.Context, readOnly bool, procedure uint32, args, ret any) error {
	rc, err := openClient(c, readOnly)
	if err != nil {
		return err
	}
	defer rc.Close()
	err = rc.Call(c.Context, rpc.ProgramPrivate, procedure, args, ret)
	var remote *rpc.RemoteError
	if errors.As(err, &remote) && remote.Code == virterr.RPC {
		return fmt.Errorf("%w: %w", errNotVirtd, err)
	}
	return err
}

// errNotVirtd says that the daemon is another one, or older than this vctl.
var errNotVirtd = errors.New("the daemon is not a virtd that has this command")

// openClient connects without go-libvirt, for what that does not know. The caller closes it.
func openClient(c *cli.Context, readOnly bool) (*client.Client, error) {
	t, err := connectionTarget(c)
	if err != nil {
		return nil, err
	}
	if !t.direct() {
		return nil, fmt.Errorf("this command does not work over %s; run vctl on the host itself, or connect over TLS", t.uri.Redacted())
	}
	conn, err := t.dial()
	if err != nil {
		return nil, err
	}
	rc := client.New(conn)
	if err := rc.Open(c.Context, string(t.name), readOnly); err != nil {
		rc.Close()
		return nil, err
	}
	return rc, nil
}
