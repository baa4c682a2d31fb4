package daemon

import (
	"context"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain/keycode"
	"virtd/rpc"
	"virtd/virterr"
)

// How long keys are held: QEMU's time where the client names none, and at most the engine's.
const (
	defaultHold = 100 * time.Millisecond
	longestHold = time.Minute
)

// domainSendKey presses keys all at once. The protocol limits how many they are.
func (d *Daemon) domainSendKey(ctx context.Context, _ *rpc.Call, a *libvirt.DomainSendKeyArgs) (*none, error) {
	if err := onlyFlags(a.Flags, 0, "qemuDomainSendKey"); err != nil {
		return nil, err
	}
	if len(a.Keycodes) == 0 {
		return nil, virterr.New(virterr.InvalidArg, "no keycode is given")
	}
	keys, err := keycode.Translate(a.Codeset, a.Keycodes)
	if err != nil {
		return nil, err
	}
	hold := time.Duration(a.Holdtime) * time.Millisecond
	switch {
	case hold == 0:
		hold = defaultHold
	case hold > longestHold:
		return nil, virterr.New(virterr.InvalidArg, "holdtime of %d ms is more than %d", a.Holdtime, longestHold.Milliseconds())
	}
	dom, err := d.domain(a.Dom)
	if err != nil {
		return nil, err
	}
	return nil, dom.SendKey(ctx, keys, hold)
}
