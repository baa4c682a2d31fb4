package steering

import (
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/rss"
)

// What the program keeps in registers that calls leave alone.
const (
	packet = asm.R6 // what the kernel calls it with
	config = asm.R7 // value of the map, as package rss has it
	at     = asm.R8 // offset in the packet of the header that comes next
	kind   = asm.R9 // of that header; later whether ports are hashed
)

// Where its stack has what, below the frame pointer.
const (
	header = -40 // the header at hand
	input  = -80 // of the hash: addresses and ports
)

// Lengths of headers without options, and of the ports that TCP and UDP begin with.
const (
	ipv4Size, ipv6Size, portsSize = 20, 40, 4
	maxExtensions                 = 6 // of an IPv6 packet: behind more of them there are no ports
)

// Labels.
const (
	selectQueue  = "select"
	unclassified = "unclassified"
)

// builder collects instructions. A label is put before the next one.
type builder struct {
	list  asm.Instructions
	label string
}

func (b *builder) add(list ...asm.Instruction) {
	for _, i := range list {
		if b.label != "" {
			i, b.label = i.WithSymbol(b.label), ""
		}
		b.list = append(b.list, i)
	}
}

// load copies n bytes of the packet, from at and offset on, to the stack. A packet that is shorter goes to short.
func (b *builder) load(offset, n int, to int32, short string) {
	b.add(
		asm.Mov.Reg(asm.R1, packet), asm.Mov.Reg(asm.R2, at), asm.Add.Imm(asm.R2, int32(offset)),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to), asm.Mov.Imm(asm.R4, int32(n)),
		asm.FnSkbLoadBytes.Call(), asm.JNE.Imm(asm.R0, 0, short))
}

// instructions are the program. It returns the number of a queue; the kernel takes that modulo its number of queues.
func instructions(mapFD int) asm.Instructions {
	b := &builder{}
	b.add(asm.Mov.Reg(packet, asm.R1), asm.LoadMapValue(config, mapFD, 0), asm.Mov.Imm(at, 12))
	b.etherType(0)
	b.add(asm.Add.Imm(at, 2))
	for n := range 2 { // tags of VLANs
		tag, done := fmt.Sprint("tag", n), fmt.Sprint("untagged", n)
		b.add(asm.JEq.Imm(kind, unix.ETH_P_8021Q, tag), asm.JNE.Imm(kind, unix.ETH_P_8021AD, done))
		b.label = tag
		b.etherType(2)
		b.add(asm.Add.Imm(at, 4))
		b.label = done
	}
	b.add(asm.JEq.Imm(kind, unix.ETH_P_IP, "ipv4"), asm.JEq.Imm(kind, unix.ETH_P_IPV6, "ipv6"), asm.Ja.Label(unclassified))
	b.ipv4()
	b.ipv6()

	b.label = selectQueue // R0 is the hash
	b.add(
		asm.LoadMem(asm.R1, config, rss.AtMask, asm.Word), asm.And.Reg(asm.R0, asm.R1),
		asm.And.Imm(asm.R0, rss.MaxTable-1), // as the kernel does not know what the map has
		asm.LSh.Imm(asm.R0, 1), asm.Add.Reg(config, asm.R0),
		asm.LoadMem(asm.R0, config, rss.AtTable, asm.Half), asm.Return())
	b.label = unclassified
	b.add(asm.LoadMem(asm.R0, config, rss.AtUnclassified, asm.Word), asm.Return())
	return b.list
}

// etherType reads the 16 bits at offset.
func (b *builder) etherType(offset int) {
	b.load(offset, 2, header, unclassified)
	b.add(asm.LoadMem(kind, asm.RFP, header, asm.Half), asm.HostTo(asm.BE, kind, asm.Half))
}

// ipv4 begins with at on a header of IPv4 (RFC 791).
func (b *builder) ipv4() {
	b.label = "ipv4"
	b.load(0, ipv4Size, header, unclassified)
	b.load(12, 8, input, unclassified)
	b.add(
		asm.LoadMem(asm.R1, asm.RFP, header, asm.Byte), asm.And.Imm(asm.R1, 0xf), asm.LSh.Imm(asm.R1, 2), asm.Add.Reg(at, asm.R1),
		asm.JLT.Imm(asm.R1, ipv4Size, unclassified),
		asm.LoadMem(asm.R1, asm.RFP, header+6, asm.Half), asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.And.Imm(asm.R1, 0x3fff), asm.JNE.Imm(asm.R1, 0, "ipv4-addresses"), // a fragment: all go one way
		asm.LoadMem(kind, asm.RFP, header+9, asm.Byte))
	b.hash("ipv4", 8, rss.TCPv4, rss.UDPv4, rss.IPv4)
}

// ipv6 begins with at on a header of IPv6 (RFC 8200). Fragments have an extension header that is not skipped.
func (b *builder) ipv6() {
	b.label = "ipv6"
	b.load(0, ipv6Size, header, unclassified)
	b.load(8, 32, input, unclassified)
	b.add(asm.LoadMem(kind, asm.RFP, header+6, asm.Byte), asm.Add.Imm(at, ipv6Size))
	for n := range maxExtensions {
		skip := fmt.Sprint("extension", n)
		b.add(
			asm.JEq.Imm(kind, unix.IPPROTO_HOPOPTS, skip), asm.JEq.Imm(kind, unix.IPPROTO_ROUTING, skip),
			asm.JNE.Imm(kind, unix.IPPROTO_DSTOPTS, "ipv6-next"))
		b.label = skip
		b.load(0, 2, header, "ipv6-addresses")
		b.add(
			asm.LoadMem(kind, asm.RFP, header, asm.Byte), asm.LoadMem(asm.R1, asm.RFP, header+1, asm.Byte),
			asm.Add.Imm(asm.R1, 1), asm.LSh.Imm(asm.R1, 3), asm.Add.Reg(at, asm.R1))
	}
	b.label = "ipv6-next"
	b.hash("ipv6", 32, rss.TCPv6, rss.UDPv6, rss.IPv6)
}

// hash begins with the addresses in the input, kind the protocol behind the header, and at there. It ends with the hash of the
// first of these types that the packet and the configuration have.
func (b *builder) hash(name string, addresses int, tcp, udp, ip uint32) {
	isTCP, isUDP, only, sum := name+"-tcp", name+"-udp", name+"-addresses", name+"-hash"
	b.add(asm.JEq.Imm(kind, unix.IPPROTO_TCP, isTCP), asm.JEq.Imm(kind, unix.IPPROTO_UDP, isUDP), asm.Ja.Label(only))
	b.label = isTCP
	b.add(asm.Mov.Imm(asm.R1, int32(tcp)), asm.Ja.Label(name+"-ports"))
	b.label = isUDP
	b.add(asm.Mov.Imm(asm.R1, int32(udp)))
	b.label = name + "-ports"
	b.add(asm.LoadMem(asm.R2, config, rss.AtTypes, asm.Word), asm.And.Reg(asm.R2, asm.R1), asm.JEq.Imm(asm.R2, 0, only))
	b.load(0, portsSize, input+int32(addresses), only)
	b.add(asm.Mov.Imm(kind, 1), asm.Ja.Label(sum))
	b.label = only
	b.add(
		asm.LoadMem(asm.R2, config, rss.AtTypes, asm.Word), asm.And.Imm(asm.R2, int32(ip)), asm.JEq.Imm(asm.R2, 0, unclassified),
		asm.Mov.Imm(kind, 0))
	b.label = sum
	b.add(asm.Mov.Imm(asm.R0, 0))
	b.toeplitz(0, addresses)
	b.add(asm.JEq.Imm(kind, 0, selectQueue))
	b.toeplitz(addresses, portsSize)
	b.add(asm.Ja.Label(selectQueue))
}

// toeplitz adds n bytes of the input to the hash in R0.
func (b *builder) toeplitz(from, n int) {
	for i := from; i < from+n; i++ {
		b.add(
			asm.LoadMem(asm.R1, asm.RFP, int16(input+i), asm.Byte), asm.LSh.Imm(asm.R1, 2),
			asm.Mov.Reg(asm.R2, config), asm.Add.Imm(asm.R2, int32(rss.AtHashes+4*256*i)), asm.Add.Reg(asm.R2, asm.R1),
			asm.LoadMem(asm.R1, asm.R2, 0, asm.Word), asm.Xor.Reg(asm.R0, asm.R1))
	}
}
