package daemon

import (
	"context"
	"io"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/manager"
	"virtd/rpc"
)

func (d *Daemon) registerConsole(reg *rpc.Registry) {
	on(reg, rpc.ProcDomainOpenConsole, d.domainOpenConsole)
}

func (d *Daemon) domainOpenConsole(_ context.Context, c *rpc.Call, a *libvirt.DomainOpenConsoleArgs) (*none, error) {
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	console, err := dom.OpenConsole(optional(a.DevName), manager.ConsoleFlags(a.Flags))
	if err != nil {
		return nil, err
	}
	c.StartStream(rpc.StreamBoth, func(s *rpc.Stream) error { return join(s, console) })
	return nil, nil
}

// join carries bytes between a client and a console until either ends. What ends it is never an error to the other: the
// client left, the guest stopped, or somebody took the console by force.
func join(s *rpc.Stream, console io.ReadWriteCloser) error {
	go func() {
		_, _ = io.Copy(console, s)
		console.Close() // ends the copy below
	}()
	_, _ = io.Copy(s, console)
	console.Close()
	return nil
}
