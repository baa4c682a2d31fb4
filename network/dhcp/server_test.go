package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func journalFiles(t testing.TB, dir string) [2]*os.File {
	t.Helper()
	var files [2]*os.File
	for i := range files {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint("leases.", i)), os.O_RDWR|os.O_CREATE, 0o600)
		ok(t, err)
		t.Cleanup(func() { f.Close() })
		files[i] = f
	}
	return files
}

// bed is a server with a clock of its own, and guests that talk with it.
type bed struct {
	t   testing.TB
	s   *Server
	j   *Journal
	now time.Time
}

func small() Config {
	return Config{
		Server: netip.MustParsePrefix("10.9.0.1/24"), Router: true, Resolver: true, Domain: "lab.example",
		Ranges: []Range{{First: netip.MustParseAddr("10.9.0.10"), Last: netip.MustParseAddr("10.9.0.13")}},
		Hosts:  []Host{{MAC: mac(100), Name: "static", IP: netip.MustParseAddr("10.9.0.50")}, {MAC: mac(101), IP: netip.MustParseAddr("10.9.0.11"), Lease: -1}},
	}
}

func newBed(t testing.TB, cfg Config) *bed {
	t.Helper()
	b := &bed{t: t, now: time.Unix(1_000_000, 0)}
	var err error
	b.j, err = OpenJournal(journalFiles(t, t.TempDir()))
	ok(t, err)
	b.s = New(cfg, b.j, nil, func() time.Time { return b.now })
	return b
}

func mac(n int) string { return net.HardwareAddr{0x52, 0x54, 0, 0, byte(n >> 8), byte(n)}.String() }

// ask sends a packet of a guest, and returns the answer, or nil.
func (b *bed) ask(kind dhcpv4.MessageType, n int, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	b.t.Helper()
	hw, err := net.ParseMAC(mac(n))
	ok(b.t, err)
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(hw), dhcpv4.WithMessageType(kind)}, more...)...)
	ok(b.t, err)
	reply, _ := b.s.Handle(p.ToBytes())
	ok(b.t, b.j.Sync())
	if reply == nil {
		return nil
	}
	out, err := dhcpv4.FromBytes(reply.Data)
	ok(b.t, err)
	if out.TransactionID != p.TransactionID || out.OpCode != dhcpv4.OpcodeBootReply {
		b.t.Errorf("answer to another question: %s", out.Summary())
	}
	return out
}

func wants(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func server(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip)))
}

// join goes through a whole exchange and returns the address, "" for none.
func (b *bed) join(n int, more ...dhcpv4.Modifier) string {
	b.t.Helper()
	offer := b.ask(dhcpv4.MessageTypeDiscover, n, more...)
	if offer == nil {
		return ""
	}
	ack := b.ask(dhcpv4.MessageTypeRequest, n, append(more, wants(offer.YourIPAddr.String()), server("10.9.0.1"))...)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck || !ack.YourIPAddr.Equal(offer.YourIPAddr) {
		b.t.Errorf("guest %d was offered %s and got %v", n, offer.YourIPAddr, ack)
		return ""
	}
	return ack.YourIPAddr.String()
}

// TestExchange: a guest gets an address with everything it needs, keeps it, renews it, and lets it go.
func TestExchange(t *testing.T) {
	b := newBed(t, small())
	name := dhcpv4.WithOption(dhcpv4.OptHostName("Web-1.example.org"))
	ip := b.join(1, name)
	if ip == "" || ip == "10.9.0.11" {
		t.Fatalf("address %q", ip)
	}
	ack := b.ask(dhcpv4.MessageTypeRequest, 1, dhcpv4.WithClientIP(net.ParseIP(ip)), name)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		t.Fatalf("renewal: %v", ack)
	}
	for what, c := range map[string]struct{ got, want string }{
		"mask":     {net.IP(ack.SubnetMask()).String(), "255.255.255.0"},
		"router":   {fmt.Sprint(ack.Router()), "[10.9.0.1]"},
		"resolver": {fmt.Sprint(ack.DNS()), "[10.9.0.1]"},
		"domain":   {ack.DomainName(), "lab.example"},
		"lease":    {ack.IPAddressLeaseTime(0).String(), "1h0m0s"},
		"server":   {ack.ServerIdentifier().String(), "10.9.0.1"},
	} {
		if c.got != c.want {
			t.Errorf("%s is %s, want %s", what, c.got, c.want)
		}
	}
	leases := b.s.Leases()
	if len(leases) != 1 || leases[0].Name != "Web-1" || leases[0].Bits != 24 || !leases[0].Expires.Equal(b.now.Add(time.Hour)) {
		t.Errorf("leases %+v", leases)
	}
	if a, found := b.s.LookupName("web-1"); !found || a.String() != ip {
		t.Errorf("name leads to %v %v", a, found)
	}
	b.now = b.now.Add(2 * time.Hour)
	if len(b.s.Leases()) != 0 {
		t.Error("a lease outlives its time")
	}
	if again := b.join(1, name); again != ip {
		t.Errorf("guest comes back and gets %s, had %s", again, ip)
	}
	b.ask(dhcpv4.MessageTypeRelease, 1, dhcpv4.WithClientIP(net.ParseIP(ip)))
	if len(b.s.Leases()) != 0 {
		t.Error("a released lease stays")
	}
}

// TestStaticHosts: they get theirs, nobody else does, and a lease may never end.
func TestStaticHosts(t *testing.T) {
	b := newBed(t, small())
	if ip := b.join(100); ip != "10.9.0.50" {
		t.Errorf("static host got %q", ip)
	}
	ack := b.ask(dhcpv4.MessageTypeRequest, 101, wants("10.9.0.11"))
	if ack == nil || ack.Options.Get(dhcpv4.OptionIPAddressLeaseTime)[0] != 0xff {
		t.Errorf("infinite lease: %v", ack)
	}
	for i := range 3 {
		if ip := b.join(i); ip == "" || ip == "10.9.0.11" || ip == "10.9.0.50" {
			t.Errorf("guest %d got %q", i, ip)
		}
	}
	nak := b.ask(dhcpv4.MessageTypeRequest, 7, wants("10.9.0.50"))
	if nak == nil || nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("somebody else's address: %v", nak)
	}
}

// TestStaticHostIsOneGuest: firmware and system send different client identifiers, and the host gets its address each time;
// another guest that sends the identifier does not.
func TestStaticHostIsOneGuest(t *testing.T) {
	b := newBed(t, small())
	id := func(text string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptClientIdentifier([]byte("\xff" + text)))
	}
	for _, stage := range []string{"firmware", "installer", "system"} {
		if ip := b.join(100, id(stage)); ip != "10.9.0.50" {
			t.Errorf("%s got %q", stage, ip)
		}
	}
	if ip := b.join(100); ip != "10.9.0.50" {
		t.Errorf("without an identifier: %q", ip)
	}
	if leases := b.j.Leases(); len(leases) != 1 || leases[0].ClientID != "" {
		t.Errorf("leases %v, want the last one", leases)
	}
	if nak := b.ask(dhcpv4.MessageTypeRequest, 7, wants("10.9.0.50"), id("system")); nak == nil || nak.MessageType() != dhcpv4.MessageTypeNak {
		t.Errorf("another guest: %v", nak)
	}
}

// TestBecomesStatic: a guest that is given a static address gives up the one that it had, for the next process too.
func TestBecomesStatic(t *testing.T) {
	b := newBed(t, small())
	old := b.join(1)
	cfg := small()
	cfg.Hosts = append(cfg.Hosts, Host{MAC: mac(1), IP: netip.MustParseAddr("10.9.0.60")})
	b.s.SetConfig(cfg)
	if ip := b.join(1); ip != "10.9.0.60" {
		t.Errorf("got %q after %q", ip, old)
	}
	if leases := b.j.Leases(); len(leases) != 1 || leases[0].IP.String() != "10.9.0.60" {
		t.Errorf("the journal holds %v", leases)
	}
}

// TestRefusals: what a guest cannot have is refused at once; what is not this server's business is not answered.
func TestRefusals(t *testing.T) {
	b := newBed(t, small())
	taken := b.join(1)
	for what, ip := range map[string]string{"taken": taken, "other network": "192.0.2.4", "server's": "10.9.0.1", "no range": "10.9.0.99"} {
		if p := b.ask(dhcpv4.MessageTypeRequest, 2, wants(ip)); p == nil || p.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("%s: %v", what, p)
		}
	}
	relayed := dhcpv4.WithRelay(net.ParseIP("10.9.0.4"))
	for what, p := range map[string]*dhcpv4.DHCPv4{
		"another server": b.ask(dhcpv4.MessageTypeRequest, 2, wants("10.9.0.12"), server("10.9.0.9")),
		"a relay":        b.ask(dhcpv4.MessageTypeDiscover, 2, relayed),
		"an answer":      b.ask(dhcpv4.MessageTypeOffer, 2),
		"multicast":      b.ask(dhcpv4.MessageTypeDiscover, 2, dhcpv4.WithHwAddr(net.HardwareAddr{1, 0, 0, 0, 0, 1})),
	} {
		if p != nil {
			t.Errorf("%s was answered: %s", what, p.Summary())
		}
	}
	if p := b.ask(dhcpv4.MessageTypeInform, 3, dhcpv4.WithClientIP(net.ParseIP("10.9.0.77"))); p == nil || !p.YourIPAddr.IsUnspecified() || len(p.Router()) != 1 {
		t.Errorf("inform: %v", p)
	}
}

// TestExhaustion: a flood takes what is free and no more; who has a lease goes on, static hosts come in, and offers that
// nobody takes up keep nobody out.
func TestExhaustion(t *testing.T) {
	b := newBed(t, small())
	mine := b.join(1)
	for n := 1000; n < 1400; n++ {
		b.ask(dhcpv4.MessageTypeDiscover, n)
	}
	if len(b.s.byIP) > 6 || len(b.s.byClient) > 6 {
		t.Errorf("a flood is remembered: %d addresses, %d clients", len(b.s.byIP), len(b.s.byClient))
	}
	if ip := b.join(2); ip == "" {
		t.Error("offers keep a guest out")
	}
	for n := 2000; n < 2400; n++ {
		b.join(n)
	}
	if ip := b.join(3); ip != "" {
		t.Errorf("guest got %s of a full range", ip)
	}
	if p := b.ask(dhcpv4.MessageTypeRequest, 1, dhcpv4.WithClientIP(net.ParseIP(mine))); p == nil || p.MessageType() != dhcpv4.MessageTypeAck {
		t.Errorf("renewal in a full range: %v", p)
	}
	if ip := b.join(100); ip != "10.9.0.50" {
		t.Errorf("static host got %q", ip)
	}
	b.now = b.now.Add(90 * time.Minute)
	if ip := b.join(3); ip == "" {
		t.Error("no address after all leases ended")
	}
}

// TestDecline: an address that somebody else uses is left alone for a while, and only who has it can say so.
func TestDecline(t *testing.T) {
	b := newBed(t, small())
	ip := b.join(1)
	b.ask(dhcpv4.MessageTypeDecline, 2, wants(ip))
	if len(b.s.Leases()) != 1 {
		t.Error("a stranger declined an address")
	}
	b.ask(dhcpv4.MessageTypeDecline, 1, wants(ip))
	if again := b.join(1); again == ip || again == "" {
		t.Errorf("got %q after %s was declined", again, ip)
	}
}

// TestNames: a guest cannot take another's name, nor one that is no name.
func TestNames(t *testing.T) {
	b := newBed(t, small())
	first := b.join(1, dhcpv4.WithOption(dhcpv4.OptHostName("db")))
	b.join(2, dhcpv4.WithOption(dhcpv4.OptHostName("DB")))
	b.join(3, dhcpv4.WithOption(dhcpv4.OptHostName("a b\n<c>")))
	if a, _ := b.s.LookupName("db"); a.String() != first {
		t.Errorf("the name moved to %s", a)
	}
	names := 0
	for _, l := range b.s.Leases() {
		if l.Name != "" {
			names++
		}
	}
	if names != 1 {
		t.Errorf("leases %+v", b.s.Leases())
	}
}

// TestJournalPowerCut: cut off after any byte, the files give a state that was: no lease that was made durable is lost, and
// none is made up.
func TestJournalPowerCut(t *testing.T) {
	dir := t.TempDir()
	j, err := OpenJournal(journalFiles(t, dir))
	ok(t, err)
	for i := range 5 {
		j.Put(Lease{IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), MAC: mac(i)})
	}
	ok(t, j.Sync())
	durable := j.size
	j.Remove(netip.MustParseAddr("10.0.0.2"))
	j.Put(Lease{IP: netip.MustParseAddr("10.0.0.9"), MAC: mac(9)})
	ok(t, j.Sync())
	whole, err := os.ReadFile(filepath.Join(dir, fmt.Sprint("leases.", j.active)))
	ok(t, err)
	for cut := durable; cut <= j.size; cut++ {
		next := t.TempDir()
		ok(t, os.WriteFile(filepath.Join(next, "leases.0"), whole[:cut], 0o600))
		again, err := OpenJournal(journalFiles(t, next))
		ok(t, err)
		if n := len(again.Leases()); n < 4 || n > 5 {
			t.Fatalf("cut at %d of %d: %d leases", cut, j.size, n)
		}
		again.Put(Lease{IP: netip.MustParseAddr("10.0.0.20"), MAC: mac(20)})
		ok(t, again.Sync())
		third, err := OpenJournal(journalFiles(t, next))
		ok(t, err)
		if len(third.Leases()) != len(again.Leases()) {
			t.Fatalf("cut at %d: %d leases, then %d", cut, len(again.Leases()), len(third.Leases()))
		}
	}
}

// TestJournalIsCompacted: years of renewals do not fill the disk, and a crash between the two files loses nothing.
func TestJournalIsCompacted(t *testing.T) {
	dir := t.TempDir()
	j, err := OpenJournal(journalFiles(t, dir))
	ok(t, err)
	for i := range 6000 {
		j.Put(Lease{IP: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), MAC: mac(i), Name: strings.Repeat("n", 60)})
		if i%10 == 0 {
			ok(t, j.Sync())
		}
	}
	ok(t, j.Sync())
	for i, f := range j.files {
		if st, err := f.Stat(); err != nil || st.Size() > 2*compactAbove {
			t.Errorf("file %d has %d bytes, %v", i, st.Size(), err)
		}
	}
	ok(t, j.files[1-j.active].Truncate(100)) // as if the next snapshot had just begun
	again, err := OpenJournal(journalFiles(t, dir))
	ok(t, err)
	if len(again.Leases()) != 256 {
		t.Errorf("%d leases", len(again.Leases()))
	}
}

// FuzzHandle: no packet makes the server panic, or remember more than it has addresses.
func FuzzHandle(f *testing.F) {
	for _, kind := range []dhcpv4.MessageType{1, 2, 3, 4, 5, 6, 7, 8, 9} {
		p, err := dhcpv4.New(dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, byte(kind)}), wants("10.9.0.12"))
		ok(f, err)
		f.Add(p.ToBytes())
	}
	f.Add([]byte{1, 1, 6})
	b := newBed(f, small())
	f.Fuzz(func(t *testing.T, data []byte) {
		reply, _ := b.s.Handle(data)
		ok(t, b.j.Sync())
		b.now = b.now.Add(time.Second)
		if reply != nil {
			if _, err := dhcpv4.FromBytes(reply.Data); err != nil {
				t.Errorf("the answer cannot be read: %v", err)
			}
		}
		if len(b.s.byIP) > 6 || len(b.s.byClient) > 6 || len(b.s.byName) > 6 {
			t.Errorf("%d addresses, %d clients, %d names remembered", len(b.s.byIP), len(b.s.byClient), len(b.s.byName))
		}
	})
}
