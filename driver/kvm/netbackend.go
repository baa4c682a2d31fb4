package kvm

import (
	"context"

	"virtd/driver"
	"virtd/virterr"
)

// nicBackend is what an engine says of who moves the packets of an interface.
type nicBackend struct {
	ID     string `json:"id"`
	Driver string `json:"driver"`
	Reason string `json:"reason"` // why it is not who was asked for
}

// syncBackends asks the engine who moves packets: vhost-net may have refused the rings before anybody listened. Engines that do
// not know the question said nothing of it either.
func (i *instance) syncBackends(ctx context.Context) {
	var list []nicBackend
	if err := i.execute(ctx, "x-virtd-nics", nil, &list); err != nil {
		if !virterr.Is(err, virterr.OperationUnsupported) {
			i.d.log.Warn("an engine does not tell who moves the packets of its interfaces", "domain", i.name, "err", err)
		}
		return
	}
	for _, b := range list {
		i.backendIs(b)
	}
}

// backendIs notes who moves the packets of an interface, and tells it when that is news. What the engine says is checked: it
// has a guest.
func (i *instance) backendIs(b nicBackend) {
	if b.Driver != "vhost" && b.Driver != "qemu" {
		return
	}
	i.recMu.Lock()
	was, known := i.rec.Runtime.NetDrivers[b.ID]
	if !known || was == b.Driver {
		i.recMu.Unlock()
		return
	}
	i.rec.Runtime.NetDrivers = merged(i.rec.Runtime.NetDrivers, map[string]string{b.ID: b.Driver})
	if b.Driver == "vhost" {
		i.rec.Refused = without(i.rec.Refused, b.ID)
	} else {
		i.rec.Refused = merged(i.rec.Refused, map[string]string{b.ID: printable(b.Reason)})
	}
	i.recMu.Unlock()
	if b.Driver == "qemu" {
		i.d.log.Warn("packets of an interface go through the engine, not through vhost-net", "domain", i.name, "interface", b.ID, "err", printable(b.Reason))
	}
	i.deliver(driver.InterfaceBackend{Alias: b.ID, Driver: b.Driver})
}
