package net

import (
	"bytes"
	"sync"
	"testing"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

// userNet is a vhost-user back end that keeps what is sent, and fills each receive buffer with one packet.
type userNet struct {
	mu     sync.Mutex
	sent   [][]byte
	packet []byte // nil: buffers are kept
}

func (u *userNet) serve(queue int, c *virtio.Chain) (uint32, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if queue%2 == 1 {
		b := make([]byte, c.ReadLen)
		c.CopyIn(b, 0)
		u.sent = append(u.sent, b)
		return 0, true
	}
	if u.packet == nil {
		return 0, false
	}
	c.CopyOut(0, u.packet)
	return uint32(len(u.packet)), true
}

func (u *userNet) back(t *testing.T, features uint64, queues uint64) (*vhostusertest.Backend, int) {
	return vhostusertest.Pair(t, vhostusertest.Config{
		Features: features | virtio.FeatureVersion1 | vhostusertest.FeatureProtocol,
		Protocol: vhostusertest.ProtocolMQ | vhostusertest.ProtocolReplyAck | vhostusertest.ProtocolMTU, Queues: queues, Serve: u.serve,
	})
}

// TestVhostUser: a device whose packets another process moves. The driver uses the pairs it asked for, the cable follows
// the process, and the next process goes on.
func TestVhostUser(t *testing.T) {
	mem, err := memory.New(memory.Backing{Kind: memory.Memfd}, memory.Range{GPA: 0, Size: ramSize})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	u := &userNet{packet: bytes.Repeat([]byte{7}, 60)}
	features := featureMrgRxbuf | featureMQ | featureCsum | featureMTU
	back, conn := u.back(t, features, 2)
	changes := make(chan bool, 10)
	dev, err := New(Config{ID: "net0", MAC: [6]byte{2, 0, 0, 0, 0, 1}, MTU: 9000, User: &User{Conn: conn, Listen: -1, Pairs: 2, Changed: func(on bool) { changes <- on }}})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	want := features | featureMAC | featureStatus | featureCtrlVQ | featureCtrlRx | featureCtrlRxExtra | featureCtrlMAC
	if dev.Features() != want {
		t.Errorf("features %#x, want %#x", dev.Features(), want)
	}
	rings := make([]*virtiotest.Ring, 5)
	for i := range rings {
		rings[i] = virtiotest.NewRing(t, mem, uint64(i)*0x4000, ringSize)
	}
	tr := virtiotest.NewTransport(t, mem, want, rings...)
	if err := dev.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer dev.Reset()
	send := func(pair int) {
		rings[2*pair+1].Add(virtiotest.Buf{GPA: 0x80000, Len: 100})
		rings[2*pair+1].Kick()
		rings[2*pair+1].WaitUsed(t)
	}
	send(0)
	rings[0].Add(virtiotest.Buf{GPA: 0x90000, Len: 2048, Write: true})
	rings[0].Kick()
	if got := rings[0].WaitUsed(t); got.Len != 60 {
		t.Errorf("received %d bytes", got.Len)
	}
	virtiotest.Eventually(t, "one pair is in use", func() bool { return back.Enabled() == 2 })
	if back.MTU() != 9000 {
		t.Errorf("the back end was told an MTU of %d", back.MTU())
	}
	command := func(class, cmd byte, data ...byte) byte {
		if err := mem.WriteAt(append([]byte{class, cmd}, data...), 0xa0000); err != nil {
			t.Fatal(err)
		}
		rings[4].Add(virtiotest.Buf{GPA: 0xa0000, Len: uint32(2 + len(data))}, virtiotest.Buf{GPA: 0xa1000, Len: 1, Write: true})
		rings[4].Kick()
		rings[4].WaitUsed(t)
		var ack [1]byte
		if err := mem.ReadAt(ack[:], 0xa1000); err != nil {
			t.Fatal(err)
		}
		return ack[0]
	}
	if command(classMQ, mqPairsSet, 2, 0) != controlOK {
		t.Error("two pairs are refused")
	}
	virtiotest.Eventually(t, "two pairs are in use", func() bool { return back.Enabled() == 4 })
	send(1)

	back.Kill()
	if on := <-changes; on || dev.LinkUp() || dev.BackendConnected() {
		t.Error("the cable is in without a back end")
	}
	rings[1].Add(virtiotest.Buf{GPA: 0x80000, Len: 100}) // waits for the next
	rings[1].Kick()
	next, conn := u.back(t, features, 2)
	if err := dev.Reconnect(conn); err != nil {
		t.Fatal(err)
	}
	if on := <-changes; !on || !dev.LinkUp() {
		t.Error("the cable is out with a back end")
	}
	rings[1].WaitUsed(t)
	virtiotest.Eventually(t, "two pairs are in use", func() bool { return next.Enabled() == 4 })

	dev.SetLink(false)
	if next.Enabled() != 0 {
		t.Error("rings run while the cable is out")
	}
	dev.SetLink(true)
	send(1)
	dev.Quiesce()
	if base := tr.Env.Queues[1].Base(); base != 2 {
		t.Errorf("queue 1 stands at %d after two packets", base)
	}
	dev.Resume()
	send(0)
	if changed := tr.ConfigChanges(); changed != 4 || tr.Failure() != nil {
		t.Errorf("%d changes were announced; failure %v", changed, tr.Failure())
	}
	if len(u.sent) != 5 {
		t.Errorf("%d packets were sent", len(u.sent))
	}
	if _, conn := u.back(t, features, 1); conn >= 0 {
		if _, err := New(Config{ID: "net1", User: &User{Conn: conn, Listen: -1, Pairs: 2}}); err == nil {
			t.Error("two pairs on a back end of one")
		}
	}
}

// TestVhostUserPacked: a back end that has packed virtqueues gets them, stops and goes on. When it is killed the device needs a
// reset, after which another one serves.
func TestVhostUserPacked(t *testing.T) {
	mem, err := memory.New(memory.Backing{Kind: memory.Memfd}, memory.Range{GPA: 0, Size: ramSize})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	u := &userNet{}
	_, conn := u.back(t, featureMrgRxbuf, 1)
	plain, err := New(Config{ID: "net0", User: &User{Conn: conn, Listen: -1, Pairs: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if plain.ServesPacked() {
		t.Error("packed virtqueues with a back end that has none")
	}
	back, conn := u.back(t, featureMrgRxbuf|virtio.FeatureRingPacked, 1)
	dev, err := New(Config{ID: "net1", User: &User{Conn: conn, Listen: -1, Pairs: 1}})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	if !dev.ServesPacked() || dev.Features()&virtio.FeatureRingPacked != 0 {
		t.Error("the back end's packed virtqueues are not for the transport to offer")
	}
	var tr *virtiotest.Transport
	var tx *virtiotest.Ring
	start := func() {
		rings := []*virtiotest.Ring{virtiotest.NewRing(t, mem, 0, ringSize), virtiotest.NewRing(t, mem, 0x4000, 6), virtiotest.NewRing(t, mem, 0x8000, ringSize)}
		tx, tr = rings[1], virtiotest.NewTransport(t, mem, dev.Features()|virtio.FeatureRingPacked, rings...)
		if err := dev.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
	}
	send := func() {
		t.Helper()
		tx.Add(virtiotest.Buf{GPA: 0x80000, Len: 64}, virtiotest.Buf{GPA: 0x81000, Len: 64})
		tx.Kick()
		tx.WaitUsed(t)
	}
	start()
	for range 10 {
		send()
	}
	if back.Accepted()&virtio.FeatureRingPacked == 0 {
		t.Errorf("the back end was told of features %#x", back.Accepted())
	}
	dev.Quiesce()
	if base := tr.Env.Queues[1].Base(); base != 0x00020002 { // twenty descriptors on a ring of six
		t.Errorf("queue 1 stands at %#x", base)
	}
	dev.Resume()
	send()

	back.Kill()
	if err := tr.WaitFailure(t); err == nil {
		t.Error("where the rings stand is not known, and the device works on")
	}
	virtiotest.Eventually(t, "its end is noticed", func() bool { return !dev.BackendConnected() })
	next, conn := u.back(t, featureMrgRxbuf|virtio.FeatureRingPacked, 1)
	if err := dev.Reconnect(conn); err != nil {
		t.Fatal(err)
	}
	dev.Quiesce()
	dev.Resume()
	dev.Reset()
	if next.Accepted() != 0 {
		t.Error("another back end serves rings that stand nobody knows where")
	}
	start()
	defer dev.Reset()
	send()
}
