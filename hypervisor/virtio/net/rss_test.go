package net

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/driver/kvm/steering"
	"virtd/hypervisor/virtio/net/rss"
	"virtd/hypervisor/virtio/net/taptest"
	"virtd/hypervisor/virtio/virtiotest"
	"virtd/lab/labtest"
)

// fakeSteering is memory in place of a map, and a descriptor that stands for a program.
func fakeSteering(t testing.TB) *Steering {
	t.Helper()
	var fds [2]int
	for i := range fds {
		fd, err := unix.MemfdCreate("rss", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(fd, rss.MapSize)
		}
		if err != nil {
			t.Fatal(err)
		}
		fds[i] = fd
	}
	return &Steering{Program: fds[0], Map: fds[1]}
}

func withRSS(t testing.TB) func(*Config) { return func(c *Config) { c.Steering = fakeSteering(t) } }

// rssCommand is struct virtio_net_rss_config.
func rssCommand(types uint32, unclassified, maxTx uint16, keyLength int, key []byte, table ...uint16) []byte {
	order := binary.LittleEndian
	b := order.AppendUint32(nil, types)
	b = order.AppendUint16(b, uint16(len(table)-1))
	b = order.AppendUint16(b, unclassified)
	for _, q := range table {
		b = order.AppendUint16(b, q)
	}
	return append(append(order.AppendUint16(b, maxTx), byte(keyLength)), key...)
}

// wantSteering checks how many queues are attached, and whether the program chooses among them.
func (f *fixture) wantSteering(what string, pairs, program int) {
	f.t.Helper()
	_, attached := f.tap.state()
	f.tap.mu.Lock()
	defer f.tap.mu.Unlock()
	if attached != pairs || f.tap.program != program {
		f.t.Errorf("%s: %d queues attached and program %d, want %d and %d", what, attached, f.tap.program, pairs, program)
	}
}

// scaled returns what the device goes by, and a copy of what its program reads.
func (f *fixture) scaled() (*rss.Config, []byte) {
	f.dev.mu.Lock()
	defer f.dev.mu.Unlock()
	return f.dev.rss.config, bytes.Clone(f.dev.rss.shared)
}

func TestRSS(t *testing.T) {
	f := newFixture(t, 4, allNet, withRSS(t))
	var space [spaceSize]byte
	f.dev.ReadConfig(0, space[:])
	wantBytes(t, "limits in the configuration", space[spaceKey:], []byte{40, 128, 0, 0x3f, 0, 0, 0})

	program, key := f.dev.cfg.Steering.Program, bytes.Repeat([]byte{0x5a, 0xc3}, rss.KeySize/2)
	send := func(maxTx uint16, table ...uint16) byte {
		return f.command(classMQ, mqRSSConfig, rssCommand(rss.TCPv4, 1, maxTx, len(key), key, table...))
	}
	if send(2, 1, 0, 2, 1) != controlOK {
		t.Fatal("a good command is refused")
	}
	f.wantSteering("a table that names queue 2", 3, program)
	want := make([]byte, rss.MapSize)
	(&rss.Config{Types: rss.TCPv4, Unclassified: 1, Table: []uint16{1, 0, 2, 1}, Key: [rss.KeySize]byte(key)}).Store(want)
	_, got := f.scaled()
	wantBytes(t, "what the program reads", got, want)
	if send(4, 0) != controlOK {
		t.Error("a table of one entry is refused")
	}
	f.wantSteering("4 transmit queues", 4, program)
	if f.command(classMQ, mqPairsSet, []byte{2, 0}) != controlOK {
		t.Error("queue pairs refused")
	}
	f.wantSteering("the last command counts", 2, -1)
	if send(2, 0, 1) != controlOK {
		t.Error("a good command is refused")
	}
	f.wantSteering("the last command counts", 2, program)
	if f.command(classMQ, mqPairsSet, []byte{2, 0}) != controlOK {
		t.Error("queue pairs refused")
	}
	f.wantSteering("as many pairs as before", 2, -1)
	send(3, 0, 1)
	f.dev.Reset()
	f.wantSteering("after a reset", 1, -1)
	if c, _ := f.scaled(); c != nil {
		t.Error("the configuration outlives a reset")
	}
}

func TestRSSHostile(t *testing.T) {
	f := newFixture(t, 4, allNet, withRSS(t))
	key := make([]byte, rss.KeySize)
	good := rssCommand(rss.Supported, 3, 4, len(key), key, 3, 2, 1, 0)
	if f.command(classMQ, mqRSSConfig, good) != controlOK {
		t.Fatal("a good command is refused")
	}
	before, shared := f.scaled()
	for name, data := range map[string][]byte{
		"nothing":                     {},
		"head alone":                  good[:rssHeadSize],
		"short head":                  good[:rssHeadSize-1],
		"short table":                 good[:rssHeadSize+7],
		"no key length":               good[:rssHeadSize+10],
		"short key":                   good[:len(good)-1],
		"key of 41 bytes":             rssCommand(1, 0, 1, 41, make([]byte, 41), 0),
		"key length without a key":    rssCommand(1, 0, 1, 40, nil, 0),
		"table of 3":                  rssCommand(1, 0, 1, 0, nil, 0, 0, 0),
		"table of 256":                rssCommand(1, 0, 1, 0, nil, make([]uint16, 256)...),
		"table of 65536, not there":   {1, 0, 0, 0, 0xff, 0xff, 0, 0},
		"queue 4 of 4":                rssCommand(1, 0, 1, 0, nil, 0, 4),
		"queue 65535":                 rssCommand(1, 0, 1, 0, nil, 0xffff),
		"unclassified to queue 4":     rssCommand(1, 4, 1, 0, nil, 0),
		"unclassified to queue 65535": rssCommand(1, 0xffff, 1, 0, nil, 0),
		"no transmit queue":           rssCommand(1, 0, 0, 0, nil, 0),
		"5 transmit queues":           rssCommand(1, 0, 5, 0, nil, 0),
		"hash type IP_EX":             rssCommand(1<<6, 0, 1, 0, nil, 0),
		"all hash types":              rssCommand(0xffffffff, 0, 1, 0, nil, 0),
	} {
		if f.command(classMQ, mqRSSConfig, data) != controlErr {
			t.Errorf("%s: taken", name)
		}
	}
	if f.command(classMQ, mqRSSConfig+1, good) != controlErr {
		t.Error("hash reports are taken")
	}
	if c, now := f.scaled(); c != before || !bytes.Equal(now, shared) {
		t.Error("a refused command has changed something")
	}
	f.dev.Reset()
	f.tap.mu.Lock()
	f.tap.stubborn = true
	f.tap.mu.Unlock()
	f.activate()
	answer := f.command(classMQ, mqRSSConfig, good)
	if c, _ := f.scaled(); answer != controlErr || c != nil {
		t.Error("a tap that takes no program, and the driver is told it does")
	}
	f.wantSteering("refused by the tap", 1, -1)

	plain := newFixture(t, 4, allNet)
	if plain.dev.Features()&featureRSS != 0 || plain.command(classMQ, mqRSSConfig, good) != controlErr {
		t.Error("a device without receive-side scaling takes it")
	}
}

// TestRSSMissingQueue checks that no packets are sent to where the driver has no queue.
func TestRSSMissingQueue(t *testing.T) {
	f := newFixture(t, 4, allNet, withRSS(t))
	f.dev.Reset()
	f.tr.Env.Queues[4] = nil
	f.activate()
	for queue, want := range []byte{controlOK, controlOK, controlErr, controlOK} {
		if got := f.command(classMQ, mqRSSConfig, rssCommand(1, 0, 1, 0, nil, 0, uint16(queue))); got != want {
			t.Errorf("queue %d: answer %d, want %d", queue, got, want)
		}
	}
}

// TestRSSWithoutMQ: a driver may take RSS alone, and has all queues then (virtio 1.2, 5.1.2).
func TestRSSWithoutMQ(t *testing.T) {
	f := newFixture(t, 4, allNet&^featureMQ, withRSS(t))
	if f.command(classMQ, mqPairsSet, []byte{2, 0}) != controlErr {
		t.Error("a command of MQ is taken")
	}
	if f.command(classMQ, mqRSSConfig, rssCommand(1, 3, 4, 0, nil, 0)) != controlOK {
		t.Error("a good command is refused")
	}
	want := pattern(100)
	bufs := f.offerRx(3, 4, 1536)
	f.fromHost(3, want)
	wantBytes(t, "packet in the last queue", f.receiveFrame(3, bufs), want)
}

func TestRSSSaved(t *testing.T) {
	f := newFixture(t, 4, allNet, withRSS(t))
	key := bytes.Repeat([]byte{7, 1, 9, 200}, rss.KeySize/4)
	if f.command(classMQ, mqRSSConfig, rssCommand(rss.UDPv6, 2, 1, len(key), key, 2, 1)) != controlOK {
		t.Fatal("a good command is refused")
	}
	f.dev.Quiesce()
	saved, err := f.dev.Save()
	if err != nil {
		t.Fatal(err)
	}
	g := newFixture(t, 4, allNet, withRSS(t))
	g.dev.Reset()
	if err := g.dev.Restore(saved); err != nil {
		t.Fatal(err)
	}
	g.tr = virtiotest.NewTransport(t, g.mem, g.tr.Env.Features, g.rings...)
	g.activate()
	g.wantSteering("restored", 3, g.dev.cfg.Steering.Program)
	_, was := f.scaled()
	got, is := g.scaled()
	wantBytes(t, "what the program reads", is, was)
	if got == nil || !slices.Equal(got.Table, []uint16{2, 1}) {
		t.Errorf("restored %+v", got)
	}

	for name, bad := range map[string]string{
		"queue 4 of 4": `{"version":1,"pairs":4,"rss":{"types":1,"table":[0,4],"maxTx":1}}`,
		"no table":     `{"version":1,"pairs":4,"rss":{"types":1,"maxTx":1}}`,
	} {
		if newFixture(t, 4, allNet, withRSS(t)).dev.Restore([]byte(bad)) == nil {
			t.Errorf("%s is restored", name)
		}
	}
	if newFixture(t, 4, allNet).dev.Restore(saved) == nil {
		t.Error("a device without receive-side scaling restores it")
	}
}

func TestRealTapRSS(t *testing.T) { realTapRSS(t) }

// TestLabRealTapRSS is the same where nothing may keep it from loading the program: the lab fails when a test skips.
func TestLabRealTapRSS(t *testing.T) {
	labtest.Need(t, labtest.Tun)
	realTapRSS(t)
}

// realTapRSS has the kernel spread packets of a real tap as the driver says.
func realTapRSS(t *testing.T) {
	program, table, err := steering.Open()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
		t.Skipf("needs the right to load BPF programs: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	defer table.Close()
	f, tap := newTapFixture(t, 4, func(c *Config) {
		c.Steering = &Steering{}
		for file, fd := range map[*os.File]*int{program: &c.Steering.Program, table: &c.Steering.Map} {
			if *fd, err = unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0); err != nil {
				t.Fatal(err)
			}
		}
	})
	udp := taptest.Frame(taptest.Guest, taptest.Peer, 60)
	binary.BigEndian.PutUint16(udp[12:], unix.ETH_P_IP)
	copy(udp[14:], []byte{0: 0x45, 9: unix.IPPROTO_UDP})
	other := taptest.Frame(taptest.Guest, taptest.Peer, 60)
	arrive := func(pair int, frame []byte) {
		t.Helper()
		bufs := f.offerRx(pair, 4, 2048)
		tap.Send(frame)
		for !bytes.Equal(f.receiveFrame(pair, bufs), frame) { // the namespace's own IPv6 chatter comes too
		}
	}
	for _, queue := range []uint16{3, 1, 2} {
		if f.command(classMQ, mqRSSConfig, rssCommand(rss.UDPv4, 0, 4, 0, nil, queue)) != controlOK {
			t.Fatal("a good command is refused")
		}
		arrive(int(queue), udp)
		arrive(0, other)
	}
	f.dev.Reset()
	f.newDriver()
	arrive(0, udp)
}
