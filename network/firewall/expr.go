package firewall

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// rule is one rule of a chain: the kernel's form, and one for people. Its methods add conditions; they return a new rule.
type rule struct {
	chain string
	text  string
	exprs []expr.Any
}

func inChain(name string) rule { return rule{chain: name} }

func (r rule) add(text string, e ...expr.Any) rule {
	if r.text != "" && text != "" {
		text = " " + text
	}
	return rule{r.chain, r.text + text, append(r.exprs[:len(r.exprs):len(r.exprs)], e...)}
}

func equal(data []byte) *expr.Cmp { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data} }

// linkName is a name as the kernel compares it: padded with zeroes to IFNAMSIZ.
func linkName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// in and out are the links that a packet comes from and goes to; "" is any.
func (r rule) in(link string) rule {
	if link == "" {
		return r
	}
	return r.add("iifname "+link, &expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, equal(linkName(link)))
}

func (r rule) out(link string) rule {
	if link == "" {
		return r
	}
	return r.add("oifname "+link, &expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, equal(linkName(link)))
}

// Offsets of addresses in the headers (RFC 791, RFC 8200), in bytes.
const (
	source4, destination4 = 12, 16
	source6, destination6 = 8, 24
)

func (r rule) saddr(p netip.Prefix) rule { return r.address("saddr", source4, source6, p, true) }

// daddr is a destination that is in p, or is not.
func (r rule) daddr(p netip.Prefix, is bool) rule {
	return r.address("daddr", destination4, destination6, p, is)
}

func (r rule) address(name string, offset4, offset6 uint32, p netip.Prefix, is bool) rule {
	family, offset, length, keyword := byte(unix.NFPROTO_IPV4), offset4, 4, "ip"
	if p.Addr().Is6() {
		family, offset, length, keyword = unix.NFPROTO_IPV6, offset6, 16, "ip6"
	}
	op, sign := expr.CmpOpEq, ""
	if !is {
		op, sign = expr.CmpOpNeq, "!= "
	}
	return r.add(fmt.Sprintf("%s %s %s%s", keyword, name, sign, p.Masked()),
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{family}),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(length)},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: uint32(length), Mask: net.CIDRMask(p.Bits(), length*8), Xor: make([]byte, length)},
		&expr.Cmp{Op: op, Register: 1, Data: p.Masked().Addr().AsSlice()})
}

// established are packets of connections that a guest began.
func (r rule) established() rule {
	bits := binary.NativeEndian.AppendUint32(nil, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	return r.add("ct state established,related",
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)})
}

// protocol is a transport; 0 is any.
func (r rule) protocol(p byte) rule {
	if p == 0 {
		return r
	}
	return r.add("l4proto "+map[byte]string{unix.IPPROTO_TCP: "tcp", unix.IPPROTO_UDP: "udp", unix.IPPROTO_ICMPV6: "ipv6-icmp"}[p],
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{p}))
}

// dport is the destination of a transport with ports, of which TCP and UDP have that at the same place (RFC 9293, RFC 768).
func (r rule) dport(p uint16) rule {
	return r.add(fmt.Sprintf("dport %d", p), &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		equal(binary.BigEndian.AppendUint16(nil, p)))
}

// counter counts packets, for whoever looks at the rule.
func (r rule) counter() rule { return r.add("", &expr.Counter{}) }

func (r rule) verdict(v string) rule {
	kind := map[string]expr.VerdictKind{"accept": expr.VerdictAccept, "return": expr.VerdictReturn, "drop": expr.VerdictDrop}[v]
	return r.add(v, &expr.Verdict{Kind: kind})
}

func (r rule) jump(chain string) rule {
	return r.add("jump "+chain, &expr.Verdict{Kind: expr.VerdictJump, Chain: chain})
}

func (r rule) reject() rule {
	return r.add("reject", &expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH})
}

// ports loads a range into registers 3 and 4; nothing for none.
func ports(p [2]uint16) (text string, load []expr.Any) {
	if p[0] == 0 {
		return "", nil
	}
	for i, v := range p {
		load = append(load, &expr.Immediate{Register: uint32(3 + i), Data: binary.BigEndian.AppendUint16(nil, v)})
	}
	return fmt.Sprintf(":%d-%d", p[0], p[1]), load
}

func (r rule) masquerade(p [2]uint16) rule {
	text, load := ports(p)
	if load == nil {
		return r.add("masquerade", &expr.Masq{})
	}
	return r.add("masquerade to "+text, append(load, &expr.Masq{ToPorts: true, RegProtoMin: 3, RegProtoMax: 4})...)
}

func (r rule) snat(to [2]netip.Addr, p [2]uint16) rule {
	text, load := ports(p)
	nat := &expr.NAT{Type: expr.NATTypeSourceNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegAddrMax: 2}
	if load != nil {
		nat.RegProtoMin, nat.RegProtoMax, nat.Specified = 3, 4, true
	}
	exprs := []expr.Any{&expr.Immediate{Register: 1, Data: to[0].AsSlice()}, &expr.Immediate{Register: 2, Data: to[1].AsSlice()}}
	return r.add(fmt.Sprintf("snat ip to %s-%s%s", to[0], to[1], text), append(append(exprs, load...), nat)...)
}
