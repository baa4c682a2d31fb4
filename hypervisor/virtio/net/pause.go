package net

import "time"

// A worker that is as fast as its driver finds one packet, sends it, and asks for the next kick, so that each packet of a stream
// costs the guest an exit for the kick and an interrupt for the packet's end; and where the worker has no processor of its own,
// it takes that from the guest each time. So a worker whose driver only sends does not ask for a kick: it pauses, and then
// takes in one go what came meanwhile.
//
// Who waits for an answer must not wait for a pause as well. That shows in the packets for the driver, which count much more
// than its own. And a packet waits no longer than it would behind some others, whatever the host's speed.
const (
	pauseCredit  = 64 // packets sent without an answer, before the worker pauses
	pauseAnswer  = 8  // packets sent that an answer outweighs
	pauseVain    = 8  // packets sent that a pause in which none came outweighs
	pausePackets = 32 // packets that could be sent during a pause

	pauseShortest = 10 * time.Microsecond
	pauseLongest  = time.Millisecond
)

// pauser decides when the worker pauses, and how long. The zero value is ready.
type pauser struct {
	credit   int
	pausing  bool
	sent     uint64        // since next was called
	received uint64        // likewise
	packet   time.Duration // to send one, as it was lately; 0 when unknown
}

// receive counts packets to the driver.
func (p *pauser) receive(packets uint64) { p.received += packets }

// send counts packets from the driver. took is how long all of them took: only a worker that pauses needs to measure it.
func (p *pauser) send(packets uint64, took time.Duration) {
	p.sent += packets
	if p.pausing && packets > 0 {
		p.packet += (took/time.Duration(packets) - p.packet) / 8
	}
}

// next is called when the driver has nothing to send. It returns how long to pause before looking again, and 0 when the driver
// is to kick.
func (p *pauser) next() time.Duration {
	sent, received := int(min(p.sent, pauseCredit)), int(min(p.received, pauseCredit))
	p.sent, p.received = 0, 0
	p.credit = min(p.credit+sent, pauseCredit) - pauseAnswer*received
	if p.pausing && sent == 0 {
		p.credit -= pauseVain
	}
	p.credit = max(p.credit, 0)
	if p.pausing = p.credit == pauseCredit; !p.pausing {
		return 0
	}
	return min(max(pausePackets*p.packet, pauseShortest), pauseLongest)
}
