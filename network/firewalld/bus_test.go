package firewalld

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/godbus/dbus/v5"
)

// fakeBus is a message bus with a firewalld on it, as far as Zones asks them: zones, which interface is in which, errors that begin
// with firewalld's codes, and signals.
type fakeBus struct {
	address string

	mu      sync.Mutex
	running bool
	zones   []string
	in      map[string]string // zone by interface
	asked   []string          // what changes zones
	refuse  string            // error of every change
	clients map[net.Conn]bool
	serial  uint32
}

func newBus(t *testing.T, zones ...string) *fakeBus {
	t.Helper()
	at := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", at)
	if err != nil {
		t.Fatal(err)
	}
	b := &fakeBus{address: "unix:path=" + at, running: true, zones: zones, in: map[string]string{}, clients: map[net.Conn]bool{}}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			b.mu.Lock()
			b.clients[conn] = true
			b.mu.Unlock()
			serving.Go(func() { b.serve(conn) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		b.drop()
		serving.Wait()
	})
	return b
}

// drop ends all connections, as a bus that ends.
func (b *fakeBus) drop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.clients {
		c.Close()
	}
}

func (b *fakeBus) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		b.mu.Lock()
		delete(b.clients, conn)
		b.mu.Unlock()
	}()
	r := bufio.NewReader(conn)
	for { // D-Bus Specification, "Authentication Protocol"
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		switch words := strings.Fields(strings.TrimLeft(line, "\x00")); {
		case len(words) > 1 && words[0] == "AUTH":
			fmt.Fprint(conn, "OK 0123456789abcdef0123456789abcdef\r\n")
		case len(words) > 0 && words[0] == "AUTH":
			fmt.Fprint(conn, "REJECTED EXTERNAL\r\n")
		case len(words) > 0 && words[0] == "BEGIN":
			b.answerAll(conn, r)
			return
		default:
			fmt.Fprint(conn, "ERROR\r\n")
		}
	}
}

func (b *fakeBus) answerAll(conn net.Conn, r *bufio.Reader) {
	for {
		call, err := dbus.DecodeMessage(r)
		if err != nil {
			return
		}
		member := call.Headers[dbus.FieldMember].Value().(string)
		b.mu.Lock()
		body, code := b.answer(member, call.Body)
		reply := dbus.TypeMethodReply
		headers := map[dbus.HeaderField]dbus.Variant{dbus.FieldReplySerial: dbus.MakeVariant(call.Serial())}
		if code != "" {
			reply, body = dbus.TypeError, []any{code}
			headers[dbus.FieldErrorName] = dbus.MakeVariant("org.fedoraproject.FirewallD1.Exception")
		}
		err = b.send(conn, reply, headers, body)
		b.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// answer is the method's; code is firewalld's error.
func (b *fakeBus) answer(member string, args []any) (body []any, code string) {
	text := func(i int) string { return args[i].(string) }
	switch member {
	case "Hello":
		return []any{":1.1"}, ""
	case "AddMatch":
		return nil, ""
	case "NameHasOwner":
		return []any{b.running && text(0) == busName}, ""
	}
	if !b.running {
		return nil, "org.freedesktop.DBus.Error.ServiceUnknown"
	}
	switch member {
	case "getZones":
		return []any{b.zones}, ""
	case "getZoneOfInterface":
		return []any{b.in[text(0)]}, ""
	}
	b.asked = append(b.asked, member+" "+text(0)+" "+text(1))
	zone, link := text(0), text(1)
	switch have, there := b.in[link]; {
	case b.refuse != "":
		return nil, b.refuse
	case !slices.Contains(b.zones, zone):
		return nil, "INVALID_ZONE: " + zone
	case member == "addInterface" && there:
		return nil, "ZONE_CONFLICT: '" + link + "' already bound to a zone"
	case member == "addInterface":
		b.in[link] = zone
	case member == "removeInterface" && !there:
		return nil, "UNKNOWN_INTERFACE: '" + link + "' is not in any zone"
	case member == "removeInterface" && have != zone:
		return nil, "ZONE_CONFLICT: remove_interface(" + zone + ", " + link + "): zoi='" + have + "'"
	case member == "removeInterface":
		delete(b.in, link)
	}
	return []any{zone}, ""
}

func (b *fakeBus) send(conn net.Conn, kind dbus.Type, headers map[dbus.HeaderField]dbus.Variant, body []any) error {
	b.serial++
	if len(body) > 0 {
		headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(body...))
	}
	headers[dbus.FieldSender] = dbus.MakeVariant("org.freedesktop.DBus")
	msg := &dbus.Message{Type: kind, Headers: headers, Body: body}
	var out bytes.Buffer
	if err := msg.EncodeTo(&out, binary.LittleEndian); err != nil {
		return err
	}
	binary.LittleEndian.PutUint32(out.Bytes()[8:], b.serial) // which only a connection of the library sets
	_, err := conn.Write(out.Bytes())
	return err
}

// signal tells all who are connected; those that leave at this moment do not hear it.
func (b *fakeBus) signal(iface, member string, body ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.clients {
		_ = b.send(c, dbus.TypeSignal, map[dbus.HeaderField]dbus.Variant{
			dbus.FieldPath: dbus.MakeVariant(busPath), dbus.FieldInterface: dbus.MakeVariant(iface), dbus.FieldMember: dbus.MakeVariant(member),
		}, body)
	}
}

// set changes firewalld as somebody else does.
func (b *fakeBus) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// state shows which interfaces are in which zone.
func (b *fakeBus) state() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return fmt.Sprint(b.in)
}
