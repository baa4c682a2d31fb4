package firewalld

import (
	"context"
	"time"

	"github.com/godbus/dbus/v5"
)

// retryTime is how long after the end of the message bus, or while there is none, it is looked for again.
const retryTime = 10 * time.Second

// Watch calls changed when firewalld started or was reloaded, which may have put bridges out of their zones, and once it watches,
// until ctx ends.
func (z *Zones) Watch(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		z.watch(ctx, changed)
		select {
		case <-ctx.Done():
		case <-time.After(retryTime):
		}
	}
}

// watch is Watch for as long as the bus is there.
func (z *Zones) watch(ctx context.Context, changed func()) {
	conn, err := z.connect(ctx)
	if err != nil {
		return
	}
	defer conn.Close()
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("Reloaded"))
	if err == nil {
		err = conn.AddMatchSignalContext(ctx, dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchInterface("org.freedesktop.DBus"),
			dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, busName))
	}
	if err != nil {
		return
	}
	changed()
	for s := range signals { // closed with the connection, which ends with ctx
		if s.Name == busName+".Reloaded" || s.Name == "org.freedesktop.DBus.NameOwnerChanged" && appeared(s) {
			changed()
		}
	}
}

// appeared reports whether a signal says that firewalld has its name now: name, owner before, owner after.
func appeared(s *dbus.Signal) bool {
	if len(s.Body) != 3 || s.Body[0] != busName {
		return false
	}
	owner, _ := s.Body[2].(string)
	return owner != ""
}
