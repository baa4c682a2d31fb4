package net

import (
	"encoding/binary"
	"fmt"
	"runtime/debug"

	"virtd/hypervisor/virtio"
)

// Classes and commands of the control queue (virtio 1.2, 5.1.6.5).
const (
	classRx        = 0 // VIRTIO_NET_CTRL_RX: promiscuous, all-multicast and their kin
	rxLast         = 5 // VIRTIO_NET_CTRL_RX_NOBCAST
	classMAC       = 1 // VIRTIO_NET_CTRL_MAC
	macTableSet    = 0
	macAddrSet     = 1
	classMQ        = 4 // VIRTIO_NET_CTRL_MQ
	mqPairsSet     = 0
	mqRSSConfig    = 1
	mqHashConfig   = 2
	classOffloads  = 5 // VIRTIO_NET_CTRL_GUEST_OFFLOADS
	offloadsSet    = 0
	controlOK      = 0 // VIRTIO_NET_OK
	controlErr     = 1 // VIRTIO_NET_ERR
	controlHdrSize = 2
)

// control serves the control queue.
type control struct {
	dev   *Device
	q     *virtio.Queue
	kicks *virtio.Kicks
	chain virtio.Chain
	done  chan struct{}
}

func (d *Device) startControl(q *virtio.Queue) (*control, error) {
	kicks, err := virtio.NewKicks(q)
	if err != nil {
		return nil, fmt.Errorf("%s: control queue: %w", d.cfg.ID, err)
	}
	c := &control{dev: d, q: q, kicks: kicks, done: make(chan struct{})}
	go c.run()
	return c, nil
}

func (c *control) stop() {
	c.kicks.Close()
	<-c.done
}

func (c *control) run() {
	defer close(c.done)
	debug.SetPanicOnFault(true)
	fail := c.dev.env.Fail
	defer func() {
		if p := recover(); p != nil {
			fail(fmt.Errorf("control queue: panic: %v\n%s", p, debug.Stack()))
		}
	}()
	for {
		if err := c.drain(); err != nil {
			fail(err)
			return
		}
		if !c.q.EnableKicks() && !c.kicks.Wait() {
			return
		}
	}
}

// drain works on the commands there are.
func (c *control) drain() error {
	for range c.q.Size() {
		ok, err := c.q.Pop(&c.chain)
		if err != nil || !ok {
			return err
		}
		if c.chain.WriteLen < 1 || c.chain.ReadLen < controlHdrSize {
			return fmt.Errorf("control command of %d bytes with %d for the answer: %w", c.chain.ReadLen, c.chain.WriteLen, virtio.ErrMalformed)
		}
		ack := [1]byte{controlErr}
		if c.dev.command(&c.chain) {
			ack[0] = controlOK
		}
		c.chain.CopyOut(0, ack[:])
		c.q.PushChain(&c.chain, 1)
		c.q.Notify()
	}
	return nil
}

// command executes one command and reports whether it was good.
func (d *Device) command(c *virtio.Chain) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	var hdr [controlHdrSize]byte
	c.CopyIn(hdr[:], 0)
	data := c.ReadLen - controlHdrSize
	switch class, cmd := hdr[0], hdr[1]; {
	case class == classRx && cmd <= rxLast:
		if !d.has(featureCtrlRx) || data < 1 {
			return false
		}
		d.setMode(cmd, c)
		return true
	case class == classMAC && cmd == macTableSet:
		return d.has(featureCtrlRx) && d.setTables(c)
	case class == classMAC && cmd == macAddrSet:
		return d.has(featureCtrlMAC) && data >= 6 && d.setMAC(c)
	case class == classMQ && cmd == mqPairsSet:
		return d.has(featureMQ) && data >= 2 && d.setPairs(c)
	case class == classMQ && cmd == mqRSSConfig:
		return d.has(featureRSS) && d.setRSS(c)
	case class == classMQ && cmd == mqHashConfig:
		return d.has(featureHashReport) && d.setHash(c)
	case class == classOffloads && cmd == offloadsSet:
		return d.has(featureGuestOffloads) && data >= 8 && d.setOffloads(c)
	}
	return false
}

func (d *Device) has(f uint64) bool { return d.env != nil && d.env.Features&f != 0 }

func (d *Device) setMAC(c *virtio.Chain) bool {
	var mac [6]byte
	c.CopyIn(mac[:], controlHdrSize)
	if mac[0]&1 != 0 { // a multicast address is nobody's
		return false
	}
	d.changeFilter(func() { d.mac = mac })
	return true
}

func (d *Device) setPairs(c *virtio.Chain) bool {
	var b [2]byte
	c.CopyIn(b[:], controlHdrSize)
	n := int(binary.LittleEndian.Uint16(b[:]))
	if n < 1 || n > len(d.taps) {
		return false
	}
	d.steerAutomatically()
	if n != int(d.pairs.Load()) {
		d.steer(n)
	}
	return true
}

func (d *Device) setOffloads(c *virtio.Chain) bool {
	var b [8]byte
	c.CopyIn(b[:], controlHdrSize)
	want := binary.LittleEndian.Uint64(b[:])
	if want&^(d.env.Features&guestFeatures(^uint(0))) != 0 { // virtio 1.2, 5.1.6.5.7.2
		return false
	}
	if err := d.taps[0].setOffloads(tunOffloads(want)); err != nil {
		return false
	}
	d.offloads = want
	return true
}
