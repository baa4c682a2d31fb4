package dns

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// table is a Config, made ready to be asked. It is immutable.
type table struct {
	cfg    Config
	domain string // lower case with dots at both ends, or ""
	byName map[string][]netip.Addr
	byIP   map[netip.Addr]string
	txt    map[string][]string
	srv    map[string][]SRV
}

func newTable(cfg Config) *table {
	t := &table{cfg: cfg, byName: map[string][]netip.Addr{}, byIP: map[netip.Addr]string{}, txt: map[string][]string{}, srv: map[string][]SRV{}}
	if cfg.Domain != "" {
		t.domain = "." + strings.ToLower(dns.Fqdn(cfg.Domain))
	}
	for _, h := range cfg.Hosts {
		for _, name := range h.Names {
			for _, n := range t.forms(name) {
				t.byName[n] = append(t.byName[n], h.IP)
			}
		}
		if _, known := t.byIP[h.IP]; !known && len(h.Names) > 0 {
			t.byIP[h.IP] = t.full(h.Names[0])
		}
	}
	for _, x := range cfg.TXT {
		n := strings.ToLower(dns.Fqdn(x.Name))
		t.txt[n] = append(t.txt[n], x.Value)
	}
	for _, s := range cfg.SRV {
		n := "_" + s.Service + "._" + s.Protocol
		if d := s.Domain; d != "" {
			n += "." + d
		} else if cfg.Domain != "" {
			n += "." + cfg.Domain
		}
		n = strings.ToLower(dns.Fqdn(n))
		t.srv[n] = append(t.srv[n], s)
	}
	return t
}

// forms are the names by which guests ask for a host: as it is written, and in the network's domain when it is one label.
func (t *table) forms(name string) []string {
	n := strings.ToLower(dns.Fqdn(name))
	if t.domain == "" || strings.Count(n, ".") > 1 {
		return []string{n}
	}
	return []string{n, strings.TrimSuffix(n, ".") + t.domain}
}

// full is the name that an address stands for.
func (t *table) full(name string) string {
	forms := t.forms(name)
	return forms[len(forms)-1]
}

// label returns the guest that a name may be of: one label, alone or in the network's domain.
func (t *table) label(name string) string {
	if rest, ok := strings.CutSuffix(name, t.domain); ok && t.domain != "" {
		name = rest + "."
	}
	label := strings.TrimSuffix(name, ".")
	if strings.Contains(label, ".") {
		return ""
	}
	return label
}

// lookup returns the records that answer a question, and whether the name is known at all.
func (t *table) lookup(q *question, guests Names) ([]dns.RR, bool) {
	addrs, known := t.byName[q.name]
	if label := t.label(q.name); !known && label != "" {
		addrs = guests.LookupName(label)
		known = len(addrs) > 0
	}
	var out []dns.RR
	head := dns.RR_Header{Name: q.msg.Question[0].Name, Rrtype: q.kind, Class: dns.ClassINET}
	switch q.kind {
	case dns.TypeA, dns.TypeAAAA:
		for _, a := range addrs {
			if a.Is4() && q.kind == dns.TypeA {
				out = append(out, &dns.A{Hdr: head, A: a.AsSlice()})
			} else if a.Is6() && q.kind == dns.TypeAAAA {
				out = append(out, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
			}
		}
	case dns.TypePTR:
		if name, ok := t.reverse(q.name, guests); ok {
			return []dns.RR{&dns.PTR{Hdr: head, Ptr: name}}, true
		}
	case dns.TypeTXT:
		for _, text := range t.txt[q.name] {
			out = append(out, &dns.TXT{Hdr: head, Txt: []string{escape(text)}})
		}
	case dns.TypeSRV:
		for _, s := range t.srv[q.name] {
			out = append(out, &dns.SRV{Hdr: head, Priority: s.Priority, Weight: s.Weight, Port: s.Port, Target: dns.Fqdn(s.Target)})
		}
	}
	return out, known || len(t.txt[q.name]) > 0 || len(t.srv[q.name]) > 0
}

// escape writes a text as the library wants it: it takes \ as the start of an escape.
func escape(text string) string { return strings.ReplaceAll(text, `\`, `\\`) }

// reverse finds the name of an address that is asked for as in 1.0.9.10.in-addr.arpa.
func (t *table) reverse(name string, guests Names) (string, bool) {
	a, ok := reverseAddr(name)
	if !ok {
		return "", false
	}
	if n, ok := t.byIP[a]; ok {
		return n, true
	}
	if n, ok := guests.LookupIP(a); ok {
		return t.full(n), true
	}
	return "", false
}

// reverseAddr reads the name of a PTR record (RFC 1035, 3.5; RFC 3596, 2.5).
func reverseAddr(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, ".in-addr.arpa."); ok {
		parts := strings.Split(rest, ".")
		if len(parts) != 4 {
			return netip.Addr{}, false
		}
		a, err := netip.ParseAddr(parts[3] + "." + parts[2] + "." + parts[1] + "." + parts[0])
		return a, err == nil
	}
	rest, ok := strings.CutSuffix(name, ".ip6.arpa.")
	parts := strings.Split(rest, ".")
	if !ok || len(parts) != 32 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 31; i >= 0; i-- {
		if len(parts[i]) != 1 {
			return netip.Addr{}, false
		}
		b.WriteString(parts[i])
		if i%4 == 0 && i > 0 {
			b.WriteByte(':')
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// ownsName reports whether nobody else may be asked about a name.
func (t *table) ownsName(q *question) bool {
	if t.cfg.LocalOnly && t.domain != "" && strings.HasSuffix("."+q.name, t.domain) {
		return true
	}
	return t.cfg.NoPlainNames && strings.Count(q.name, ".") == 1 && q.name != "."
}

// servers returns who is asked about a name: the forwarder of the longest domain that it is in.
func (t *table) servers(name string, host func() []netip.Addr) []netip.Addr {
	best, named := -1, []netip.Addr(nil)
	ask := false // the host's
	for _, f := range t.cfg.Forwarders {
		domain := strings.ToLower(strings.Trim(f.Domain, "."))
		if domain != "" && !strings.HasSuffix("."+name, "."+domain+".") {
			continue
		}
		if len(domain) > best {
			best, named, ask = len(domain), nil, false
		}
		if len(domain) == best && f.Addr.IsValid() {
			named = append(named, f.Addr)
		} else if len(domain) == best {
			ask = true
		}
	}
	if ask || len(named) == 0 && !t.cfg.NoResolv {
		named = append(named, host()...)
	}
	return named
}
