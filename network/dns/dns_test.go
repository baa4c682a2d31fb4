package dns

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// guests have leases.
type guests map[string]string

func (g guests) LookupName(name string) []netip.Addr {
	a, err := netip.ParseAddr(g[name])
	if err != nil {
		return nil
	}
	return []netip.Addr{a}
}

func (g guests) LookupIP(ip netip.Addr) (string, bool) {
	for n, a := range g {
		if a == ip.String() {
			return n, true
		}
	}
	return "", false
}

var lab = Config{
	Domain: "lab.example", LocalOnly: true,
	Hosts: []Host{
		{IP: netip.MustParseAddr("10.9.0.1"), Names: []string{"gw", "gateway.other.example"}},
		{IP: netip.MustParseAddr("fd00::5"), Names: []string{"six"}},
	},
	TXT: []TXT{{"note", `with "quotes" and \ too`}},
	SRV: []SRV{{Service: "ldap", Protocol: "tcp", Target: "gw.lab.example", Port: 389, Priority: 1, Weight: 2}},
}

// upstream is a resolver of the host: it answers every A with 192.0.2.7, and misbehaves on demand.
func upstream(t testing.TB, misbehave func(*dns.Msg) bool) (addr netip.Addr, port uint16) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	h := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A 192.0.2.7")
		m.Answer = []dns.RR{rr}
		if misbehave != nil && misbehave(m) {
			return
		}
		_ = w.WriteMsg(m)
	})
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: h}, {Listener: l, Handler: h}} {
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	at := netip.MustParseAddrPort(conn.LocalAddr().String())
	return at.Addr(), at.Port()
}

func newResolver(t testing.TB, cfg Config, misbehave func(*dns.Msg) bool) *Resolver {
	addr, port := upstream(t, misbehave)
	r := New(cfg, guests{"alice": "10.9.0.20"}, func() []netip.Addr { return []netip.Addr{addr} })
	r.port = port
	return r
}

// ask returns an answer as text: the code, or the data of the records.
func ask(t testing.TB, r *Resolver, name string, kind uint16, tcp bool) string {
	t.Helper()
	m := new(dns.Msg).SetQuestion(name, kind)
	raw, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	out := r.Answer(context.Background(), raw, netip.MustParseAddr("10.9.0.20"), tcp)
	if out == nil {
		return "silence"
	}
	var reply dns.Msg
	if err := reply.Unpack(out); err != nil || reply.Id != m.Id || !reply.Response || !reply.RecursionAvailable && reply.Rcode == 0 && reply.Authoritative {
		t.Errorf("%s: %v\n%s", name, err, reply.String())
	}
	if reply.Rcode != dns.RcodeSuccess {
		return dns.RcodeToString[reply.Rcode]
	}
	var data []string
	for _, rr := range reply.Answer {
		data = append(data, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return strings.Join(data, ",")
}

// TestAnswers: what the network knows, what it must not ask, and what it asks others.
func TestAnswers(t *testing.T) {
	r := newResolver(t, lab, nil)
	for _, c := range []struct {
		name string
		kind uint16
		want string
	}{
		{"gw.", dns.TypeA, "10.9.0.1"},
		{"GW.Lab.Example.", dns.TypeA, "10.9.0.1"},
		{"gateway.other.example.", dns.TypeA, "10.9.0.1"},
		{"gw.lab.example.", dns.TypeAAAA, ""},
		{"six.lab.example.", dns.TypeAAAA, "fd00::5"},
		{"alice.", dns.TypeA, "10.9.0.20"},
		{"alice.lab.example.", dns.TypeA, "10.9.0.20"},
		{"1.0.9.10.in-addr.arpa.", dns.TypePTR, "gw.lab.example."},
		{"20.0.9.10.in-addr.arpa.", dns.TypePTR, "alice.lab.example."},
		{"5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.", dns.TypePTR, "six.lab.example."},
		{"note.", dns.TypeTXT, `"with \"quotes\" and \\ too"`},
		{"_ldap._tcp.lab.example.", dns.TypeSRV, "1 2 389 gw.lab.example."},
		{"nobody.lab.example.", dns.TypeA, "NXDOMAIN"},
		{"lab.example.", dns.TypeMX, "NXDOMAIN"},
		{"collab.example.", dns.TypeA, "192.0.2.7"},
		{"www.example.org.", dns.TypeA, "192.0.2.7"},
		{"plain.", dns.TypeA, "192.0.2.7"},
		{"example.org.", dns.TypeAXFR, "REFUSED"},
	} {
		for _, tcp := range []bool{false, true} {
			if got := ask(t, r, c.name, c.kind, tcp); got != c.want {
				t.Errorf("%s %s (tcp %v): %q, want %q", c.name, dns.TypeToString[c.kind], tcp, got, c.want)
			}
		}
	}
}

// TestWhoIsAsked: forwarders by domain, the host's resolvers, or nobody.
func TestWhoIsAsked(t *testing.T) {
	one, two := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	host := func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.9")} }
	for _, c := range []struct {
		cfg  Config
		name string
		want string
	}{
		{Config{}, "a.example.", "[192.0.2.9]"},
		{Config{NoResolv: true}, "a.example.", "[]"},
		{Config{Forwarders: []Forwarder{{Addr: one}, {Addr: two}}, NoResolv: true}, "a.example.", "[192.0.2.1 192.0.2.2]"},
		{Config{Forwarders: []Forwarder{{Domain: "corp.example", Addr: one}}}, "x.corp.example.", "[192.0.2.1]"},
		{Config{Forwarders: []Forwarder{{Domain: "corp.example", Addr: one}}}, "x.notcorp.example.", "[192.0.2.9]"},
		{Config{Forwarders: []Forwarder{{Domain: "example", Addr: one}, {Domain: "corp.example", Addr: two}}}, "x.corp.example.", "[192.0.2.2]"},
		{Config{Forwarders: []Forwarder{{Addr: one}, {Domain: "corp.example"}}, NoResolv: true}, "x.corp.example.", "[192.0.2.9]"},
	} {
		if got := fmt.Sprint(newTable(c.cfg).servers(c.name, host)); got != c.want {
			t.Errorf("%+v %s: %s, want %s", c.cfg, c.name, got, c.want)
		}
	}
	if got := ask(t, New(Config{NoResolv: true}, guests{}, host), "a.example.", dns.TypeA, false); got != "REFUSED" {
		t.Errorf("nobody to ask: %s", got)
	}
	if got := ask(t, newResolver(t, Config{NoPlainNames: true}, nil), "plain.", dns.TypeA, false); got != "NXDOMAIN" {
		t.Errorf("a plain name: %s", got)
	}
}

// TestForgedAnswers: only the answer to the question that was asked counts.
func TestForgedAnswers(t *testing.T) {
	for what, forge := range map[string]func(*dns.Msg) bool{
		"id":       func(m *dns.Msg) bool { m.Id++; return false },
		"question": func(m *dns.Msg) bool { m.Question[0].Name = "evil.example."; return false },
		"silence":  func(*dns.Msg) bool { return true },
	} {
		if got := ask(t, newResolver(t, Config{}, forge), "a.example.", dns.TypeA, false); got != "SERVFAIL" {
			t.Errorf("%s: %s", what, got)
		}
	}
}

// TestMalformedQuestions: what is no question is not answered, or refused; never worse.
func TestMalformedQuestions(t *testing.T) {
	r := newResolver(t, lab, nil)
	from := netip.MustParseAddr("10.9.0.20")
	for what, raw := range map[string][]byte{"empty": nil, "short": {1, 2, 3}, "answer": {0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0}, "long": make([]byte, maxMessage+1),
		"pointer loop": {0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1}} {
		if out := r.Answer(context.Background(), raw, from, false); out != nil {
			t.Errorf("%s: answered %x", what, out)
		}
	}
	two := new(dns.Msg).SetQuestion("a.", dns.TypeA)
	two.Question = append(two.Question, two.Question[0])
	raw, err := two.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var reply dns.Msg
	if err := reply.Unpack(r.Answer(context.Background(), raw, from, false)); err != nil || reply.Rcode != dns.RcodeFormatError {
		t.Errorf("two questions: %v %v", reply.Rcode, err)
	}
}

// TestFloodOfQuestions: one guest's questions that nobody answers leave room for those of others.
func TestFloodOfQuestions(t *testing.T) {
	r := newResolver(t, lab, func(m *dns.Msg) bool { return strings.HasPrefix(m.Question[0].Name, "hang") })
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- r.ServeUDP(conn) }()
	t.Cleanup(func() { conn.Close(); <-done })
	client := func(ip string) net.Conn {
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)}, conn.LocalAddr().(*net.UDPAddr))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	bad, good := client("127.0.0.2"), client("127.0.0.3")
	for i := range 1000 {
		raw, _ := new(dns.Msg).SetQuestion(fmt.Sprintf("hang%d.example.", i), dns.TypeA).Pack()
		if _, err := bad.Write(raw); err != nil {
			t.Fatal(err)
		}
	}
	raw, _ := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).Pack()
	buf := make([]byte, 512)
	for range 5 { // a datagram may be lost among a thousand others
		if _, err := good.Write(raw); err != nil {
			t.Fatal(err)
		}
		good.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := good.Read(buf); err == nil {
			return
		}
	}
	t.Error("no answer beside a flood")
}

func TestParseResolvConf(t *testing.T) {
	got := fmt.Sprint(parseResolvConf("# x\nsearch a b\nnameserver 127.0.0.53\nnameserver ::1\nnameserver bad\n nameserver 10.0.0.1\nnameserver 10.0.0.2\n"))
	if want := "[127.0.0.53 ::1 10.0.0.1]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// FuzzAnswer: no message makes the resolver panic, and what it answers is an answer.
func FuzzAnswer(f *testing.F) {
	for _, kind := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypePTR, dns.TypeSRV, dns.TypeTXT, dns.TypeANY, dns.TypeAXFR} {
		m := new(dns.Msg).SetQuestion("alice.lab.example.", kind).SetEdns0(4096, true)
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	cfg := lab
	cfg.NoResolv = true
	r := New(cfg, guests{"alice": "10.9.0.20"}, func() []netip.Addr { return nil })
	f.Fuzz(func(t *testing.T, raw []byte) {
		out := r.Answer(context.Background(), raw, netip.MustParseAddr("10.9.0.20"), false)
		var m dns.Msg
		if out != nil && (m.Unpack(out) != nil || !m.Response) {
			t.Errorf("answer %x", out)
		}
	})
}
