package firewalld

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"

	"virtd/durable"
	"virtd/virterr"
)

// Zones puts bridges into firewalld's zones, and takes out only what it put there: an interface that has a zone already keeps it.
// Safe for concurrent use.
type Zones struct {
	Record string // file of which bridge was put into which zone; must not survive a boot of the host
	Bus    string // address of the message bus; "" for the system's

	mu sync.Mutex
}

const (
	busName   = "org.fedoraproject.FirewallD1"
	zoneIface = busName + ".zone"
	busPath   = dbus.ObjectPath("/org/fedoraproject/FirewallD1")
)

// The zones that let guests through: libvirt's, where it is installed, else one that every firewalld has.
const (
	libvirtZone = "libvirt"
	openZone    = "trusted"
)

// patience is how long firewalld may take for everything that is asked of it at once. When it is busy with a reload, its end is
// signalled, and it is asked again.
const patience = 5 * time.Second

// Apply has exactly these bridges in zones by virtd: each in the zone that it is mapped to, or for "" in the one for guests. It
// returns what it did, a line each, nothing when all was as it should be; running is false where there is no firewalld to ask.
func (z *Zones) Apply(bridges map[string]string) (done []string, running bool, err error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	have, err := z.read()
	if err != nil || len(have) == 0 && len(bridges) == 0 {
		return nil, false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d, err := z.dial(ctx)
	if err != nil || d == nil {
		return nil, false, err
	}
	defer d.conn.Close()
	if !d.running { // what it had in zones is gone with it
		return nil, false, z.write(nil)
	}
	now := maps.Clone(have)
	var errs []error
	for _, b := range slices.Sorted(maps.Keys(have)) {
		if want, wanted := bridges[b]; wanted && (want == "" || want == have[b]) {
			continue
		}
		if err := d.call("removeInterface", nil, have[b], b); err != nil && !isCode(err, "UNKNOWN_INTERFACE", "NOT_ENABLED", "ZONE_CONFLICT", "INVALID_ZONE") {
			errs = append(errs, failed(err, "take bridge '%s' out of zone '%s'", b, have[b]))
			continue
		}
		done = append(done, fmt.Sprintf("bridge %s removed from zone %s", b, have[b]))
		delete(now, b)
	}
	for _, b := range slices.Sorted(maps.Keys(bridges)) {
		what, err := z.put(d, b, bridges[b], now)
		errs = append(errs, err)
		if what != "" {
			done = append(done, what)
		}
	}
	if !maps.Equal(now, have) {
		errs = append(errs, z.write(now))
	}
	return done, true, errors.Join(errs...)
}

// put puts a bridge into a zone, unless it is in one, and notes that. It is on record before, so that a virtd that is killed in
// between leaves nothing behind.
func (z *Zones) put(d *daemon, bridge, zone string, now map[string]string) (done string, err error) {
	var in string
	if err := d.call("getZoneOfInterface", &in, bridge); err != nil {
		return "", failed(err, "ask for the zone of bridge '%s'", bridge)
	}
	if in != "" {
		if now[bridge] != in { // somebody moved it, or had it there before
			delete(now, bridge)
		}
		return "", nil
	}
	if zone == "" {
		if zone, err = d.zoneForGuests(); err != nil {
			return "", err
		}
	}
	now[bridge] = zone
	if err := z.write(now); err != nil {
		return "", err
	}
	if err := d.call("addInterface", nil, zone, bridge); err != nil {
		delete(now, bridge)
		return "", errors.Join(failed(err, "put bridge '%s' into zone '%s'", bridge, zone), z.write(now))
	}
	return fmt.Sprintf("bridge %s put into zone %s", bridge, zone), nil
}

// daemon is firewalld on a connection.
type daemon struct {
	conn    *dbus.Conn
	ctx     context.Context
	running bool
}

// dial returns nil on a host without a message bus, on which nobody can be asked.
func (z *Zones) dial(ctx context.Context) (*daemon, error) {
	conn, err := z.connect(ctx)
	if err != nil {
		return nil, nil
	}
	d := &daemon{conn: conn, ctx: ctx}
	if err := conn.BusObject().CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, busName).Store(&d.running); err != nil {
		conn.Close()
		return nil, failed(err, "ask whether it runs")
	}
	return d, nil
}

func (z *Zones) connect(ctx context.Context) (*dbus.Conn, error) {
	if z.Bus == "" {
		return dbus.ConnectSystemBus(dbus.WithContext(ctx))
	}
	return dbus.Connect(z.Bus, dbus.WithContext(ctx))
}

// call asks the running firewalld; a method's answer is stored where answer is not nil.
func (d *daemon) call(method string, answer any, args ...any) error {
	c := d.conn.Object(busName, busPath).CallWithContext(d.ctx, zoneIface+"."+method, dbus.FlagNoAutoStart, args...)
	if answer == nil {
		return c.Err
	}
	return c.Store(answer)
}

func (d *daemon) zoneForGuests() (string, error) {
	var zones []string
	if err := d.call("getZones", &zones); err != nil {
		return "", failed(err, "list its zones")
	}
	if slices.Contains(zones, libvirtZone) {
		return libvirtZone, nil
	}
	return openZone, nil
}

// isCode reports whether firewalld's answer is one of these errors: its text begins with the code.
func isCode(err error, codes ...string) bool {
	var e dbus.Error
	if !errors.As(err, &e) {
		return false
	}
	return slices.ContainsFunc(codes, func(c string) bool { return strings.HasPrefix(e.Error(), c) })
}

func failed(err error, what string, args ...any) error {
	return virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "Unable to %s of firewalld: %w", fmt.Sprintf(what, args...), err)
}

func (z *Zones) read() (map[string]string, error) {
	b, err := os.ReadFile(z.Record)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string]string{}, nil
	}
	have := map[string]string{}
	if err == nil {
		err = json.Unmarshal(b, &have)
	}
	if err != nil {
		return nil, virterr.NewFrom(virterr.FromNetwork, virterr.SystemError, "Unable to read which bridges are in zones of firewalld (remove the file): %s: %w", z.Record, err)
	}
	return have, nil
}

func (z *Zones) write(now map[string]string) error {
	if len(now) == 0 {
		return durable.Remove(z.Record)
	}
	b, err := json.Marshal(now)
	if err != nil {
		return err
	}
	return durable.Write(z.Record, b)
}
