package dns

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Names are the guests that have a lease.
type Names interface {
	// LookupName returns the addresses of a guest by its name, LookupIP the name by the address.
	LookupName(name string) []netip.Addr
	LookupIP(ip netip.Addr) (string, bool)
}

// Resolver answers one network's guests. It is safe for concurrent use.
type Resolver struct {
	names Names
	host  func() []netip.Addr // the host's own resolvers
	port  uint16              // of those who are asked

	mu    sync.RWMutex
	local *table

	slots   chan struct{} // a question that is forwarded has one
	clients perClient
}

// Bounds of the work that guests can cause.
const (
	maxForwards  = 256             // questions under way, of all guests
	maxPerClient = 64              // of one address
	forwardTime  = 5 * time.Second // for an answer
	askTime      = 2 * time.Second // before the next resolver is asked
	maxMessage   = 4096            // bytes of a question
	ednsSize     = 1232            // bytes of a local answer by UDP
)

// New returns a resolver. host says whom the host itself asks.
func New(cfg Config, names Names, host func() []netip.Addr) *Resolver {
	r := &Resolver{names: names, host: host, port: 53, slots: make(chan struct{}, maxForwards)}
	r.clients.most = maxPerClient
	r.SetConfig(cfg)
	return r
}

// SetConfig changes what is known.
func (r *Resolver) SetConfig(cfg Config) {
	t := newTable(cfg)
	r.mu.Lock()
	r.local = t
	r.mu.Unlock()
}

func (r *Resolver) table() *table {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.local
}

// question is a guest's message, looked through.
type question struct {
	msg  *dns.Msg
	raw  []byte
	name string // lower case, with the dot at the end
	kind uint16
	tcp  bool
	from netip.Addr
}

// look reads a message. Without a question to answer it returns the reply to send, or nothing where silence is the answer.
func look(raw []byte, from netip.Addr, tcp bool) (q *question, reply []byte) {
	m := &dns.Msg{}
	if len(raw) > maxMessage || m.Unpack(raw) != nil || m.Response {
		return nil, nil
	}
	fail := func(code int) (*question, []byte) {
		out, err := new(dns.Msg).SetRcode(m, code).Pack()
		if err != nil {
			return nil, nil
		}
		return nil, out
	}
	switch {
	case m.Opcode != dns.OpcodeQuery:
		return fail(dns.RcodeNotImplemented)
	case len(m.Question) != 1:
		m.Question = nil
		return fail(dns.RcodeFormatError)
	}
	ask := m.Question[0]
	if ask.Qclass != dns.ClassINET || ask.Qtype == dns.TypeAXFR || ask.Qtype == dns.TypeIXFR {
		return fail(dns.RcodeRefused)
	}
	return &question{msg: m, raw: raw, name: strings.ToLower(ask.Name), kind: ask.Qtype, tcp: tcp, from: from}, nil
}

// Answer returns the answer to one message, nil for none. It waits for other resolvers where it has to.
func (r *Resolver) Answer(ctx context.Context, raw []byte, from netip.Addr, tcp bool) []byte {
	q, reply := look(raw, from, tcp)
	if q == nil {
		return reply
	}
	if out := r.answerLocal(q); out != nil {
		return out
	}
	return r.forward(ctx, q)
}

// answerLocal answers what the network knows, nil for what others have to be asked.
func (r *Resolver) answerLocal(q *question) []byte {
	t := r.table()
	records, found := t.lookup(q, r.names)
	m := new(dns.Msg).SetReply(q.msg)
	m.Authoritative, m.RecursionAvailable, m.Answer = true, true, records
	switch {
	case found:
	case t.ownsName(q):
		m.Rcode = dns.RcodeNameError
	default:
		return nil
	}
	return pack(q, m)
}

// pack makes a message of at most the size that the guest takes.
func pack(q *question, m *dns.Msg) []byte {
	size := dns.MinMsgSize
	if o := q.msg.IsEdns0(); o != nil {
		m.SetEdns0(ednsSize, false)
		size = min(max(int(o.UDPSize()), dns.MinMsgSize), ednsSize)
	}
	if q.tcp {
		size = dns.MaxMsgSize
	}
	m.Truncate(size)
	out, err := m.Pack()
	if err != nil {
		return nil
	}
	return out
}

// refuse answers that nobody could be asked, or nobody answered.
func refuse(q *question, code int) []byte {
	m := new(dns.Msg).SetRcode(q.msg, code)
	m.RecursionAvailable = true
	return pack(q, m)
}

// perClient counts what is under way for each address.
type perClient struct {
	mu   sync.Mutex
	most int
	n    map[netip.Addr]int
}

func (p *perClient) take(a netip.Addr) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n == nil {
		p.n = map[netip.Addr]int{}
	}
	if p.n[a] >= p.most {
		return false
	}
	p.n[a]++
	return true
}

func (p *perClient) give(a netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n[a]--; p.n[a] <= 0 {
		delete(p.n, a)
	}
}
