package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/vhostuser/vhostusertest"
	"virtd/hypervisor/virtio"
	"virtd/lab/labtest"
)

// vhostUserScript writes the same four MiB again and again, by several writers at once, until the cable is pulled; then it
// looks at the disk.
const vhostUserScript = `
carrier() { until [ "$(cat /sys/class/net/eth0/carrier)" = $1 ]; do sleep 0.1; done; }
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
want=$(cat /pattern /pattern /pattern /pattern | md5sum)
round() { for j in 0 1 2 3; do dd if=/pattern of=/dev/vda bs=16k seek=$((j*64)) oflag=direct conv=notrunc 2>/dev/null || echo 'a write failed'; done & \
  for j in 3 2 1 0; do dd if=/pattern of=/dev/vda bs=4k seek=$((j*256)) oflag=direct conv=notrunc 2>/dev/null & done; wait; }
echo "vda has $(cat /sys/block/vda/size) sectors and $(ls /sys/block/vda/mq | wc -l) queues; eth0 has $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
ping -c 2 -W 10 10.9.77.1 >/dev/null && echo 'the peer answers'
n=0
while [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do round; n=$((n+1)); echo "round $n"; done
echo 'the cable is out'
round
[ "$(dd if=/dev/vda bs=1M count=4 iflag=direct 2>/dev/null | md5sum)" = "$want" ] && echo 'the disk is right'
carrier 1
ping -c 2 -W 10 10.9.77.1 >/dev/null && echo 'the peer answers again'
until [ -e /sys/block/vdb ]; do sleep 0.1; done
echo "vdb has $(cat /sys/block/vdb/size) sectors"
while [ -e /sys/block/vdb ]; do sleep 0.1; done
echo 'vdb is gone'
sleep 600
`

// A Linux guest whose disk is served by qemu-storage-daemon and whose packets are moved by a back end on a tap of the host.
// The storage daemon is killed while many requests are in flight, also while virtd is dead, and the guest's writes go on; the
// network's back end goes, and the guest sees its cable pulled; and a second disk comes and goes. No socket stays.
func TestLabVhostUser(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Tun, labtest.Program("qemu-storage-daemon"))
	// Small pages of shared memory are a fault each, which is what takes long under emulation.
	shmem := "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
	if err := os.WriteFile(shmem, []byte("advise"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.WriteFile(shmem, []byte("never"), 0o644) })
	h := startHost(t)
	k := labtest.Kernel("6.1")
	disk := startStorage(h, "one", 16)
	second := startStorage(h, "two", 8)
	wire := h.path("net.sock")
	tap := openPlainTap(t, "vu0")
	h.ip("addr", "add", "10.9.77.1/24", "dev", "vu0")
	h.ip("link", "set", "vu0", "up")
	name := h.define(guest{name: "outside", kernel: k, vcpus: 2, args: "lab.net=eth0:10.9.77.2/24",
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": vhostUserScript}),
		devices: strings.Replace(disk.xml("vda"), "</disk>", "<boot order='1'/></disk>", 1) + fmt.Sprintf("<interface type='vhostuser'><mac address='52:54:00:77:77:02'/>"+
			"<source type='unix' path='%s' mode='server'/><model type='virtio'/></interface>", wire)})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- console\n%s", tail(h.output(name), 3000))
		}
	})
	moving := make(chan *vhostusertest.Backend, 1)
	go func() { moving <- tap.connect(wire, time.Minute) }()
	h.vctl("start", name)
	mover := <-moving
	if mover == nil {
		t.Fatal("nobody listens for the network's back end")
	}
	h.expect(name, "vda has 32768 sectors and 2 queues; eth0 has 1", 150*time.Second)
	h.expect(name, "the peer answers", 60*time.Second)
	h.expect(name, "round 1", 60*time.Second)

	kills := 3
	if testing.Short() {
		kills = 1
	}
	for range kills {
		disk.kill()
		time.Sleep(time.Second) // the guest's requests pile up
		before := strings.Count(h.output(name), "round ")
		disk.start()
		h.until(60*time.Second, "two more rounds of writes", func() bool { return strings.Count(h.output(name), "round ") >= before+2 })
	}
	if !testing.Short() {
		h.stopDaemon(syscall.SIGKILL)
		disk.kill()
		disk.start()
		before := strings.Count(h.output(name), "round ")
		h.startDaemon()
		h.until(60*time.Second, "writes after a kill of virtd and of the back end", func() bool { return strings.Count(h.output(name), "round ") >= before+2 })
	}

	mover.Kill()
	h.expect(name, "the cable is out", 60*time.Second)
	h.expect(name, "the disk is right", 120*time.Second)
	if strings.Contains(h.output(name), "a write failed") {
		t.Error("a write failed")
	}
	mover = tap.connect(wire, 30*time.Second)
	if mover == nil {
		t.Fatal("nobody listens for the next back end")
	}
	defer mover.Kill()
	h.expect(name, "the peer answers again", 60*time.Second)

	h.virsh("attach-device", name, h.file("second.xml", second.xml("vdb")))
	h.expect(name, "vdb has 16384 sectors", 60*time.Second)
	h.refuses("served by another process", "virsh", "domblkstat", name, "vdb")
	h.virsh("detach-disk", name, "vdb")
	h.expect(name, "vdb is gone", 60*time.Second)
	xml := h.virsh("dumpxml", name)
	for _, want := range []string{"<disk type='vhostuser' device='disk' snapshot='no'>", "mode='server'/>", "<reconnect enabled='yes' timeout='1'/>", "<boot order='1'/>"} {
		if !strings.Contains(xml, want) {
			t.Errorf("no %s in dumpxml:\n%s", want, xml)
		}
	}
	h.virsh("destroy", name)
	h.until(20*time.Second, "the socket is removed", func() bool { return !exists(wire) })
	h.refuses("no vhost-user process connected to", "virsh", "start", name)
	if exists(wire) {
		t.Error("a start that failed leaves its socket")
	}
	t.Run("root file system", func(t *testing.T) {
		h.t = t
		checkVhostUserRoot(t, h)
	})
	h.t = t
}

// storage is a qemu-storage-daemon with one image.
type storage struct {
	h           *host
	image, sock string
	cmd         *exec.Cmd
}

func startStorage(h *host, name string, mib int64) *storage {
	h.t.Helper()
	return startStorageOf(h, h.image(name, mib), name)
}

// startStorageOf is startStorage with an image that there is.
func startStorageOf(h *host, image, name string) *storage {
	h.t.Helper()
	s := &storage{h: h, image: image, sock: h.path(name + ".sock")}
	s.start()
	h.t.Cleanup(s.kill)
	return s
}

func (s *storage) start() {
	s.h.t.Helper()
	s.cmd = exec.Command("qemu-storage-daemon", "--blockdev", "driver=file,node-name=f,filename="+s.image,
		"--export", "type=vhost-user-blk,id=e,node-name=f,writable=on,num-queues=2,addr.type=unix,addr.path="+s.sock)
	s.cmd.Stderr = os.Stderr
	if err := s.cmd.Start(); err != nil {
		s.h.t.Fatal(err)
	}
	s.h.until(20*time.Second, "the storage daemon's socket", func() bool { return exists(s.sock) })
}

func (s *storage) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
	os.Remove(s.sock)
}

func (s *storage) xml(target string) string {
	return fmt.Sprintf("<disk type='vhostuser' device='disk'><driver name='qemu' type='raw'/><source type='unix' path='%s'>"+
		"<reconnect enabled='yes' timeout='1'/></source><target dev='%s' bus='virtio'/></disk>", s.sock, target)
}

// plainTap is a tap of the host without a header.
type plainTap struct {
	file    *os.File
	packets chan []byte
}

func openPlainTap(t *testing.T, name string) *plainTap {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &plainTap{file: os.NewFile(uintptr(fd), name), packets: make(chan []byte, 64)}
	var reading sync.WaitGroup
	reading.Go(func() {
		for b := make([]byte, 2048); ; {
			n, err := p.file.Read(b)
			if err != nil {
				return
			}
			select {
			case p.packets <- append([]byte(nil), b[:n]...):
			default: // as any full queue
			}
		}
	})
	t.Cleanup(func() { p.file.Close(); reading.Wait() })
	return p
}

// vnetHeader is the size of the header before each packet (virtio 1.2, 5.1.6).
const vnetHeader = 12

// connect has a back end move packets between the tap and the machine that listens at path; nil when none does in time.
func (p *plainTap) connect(path string, patience time.Duration) *vhostusertest.Backend {
	var c net.Conn
	err := errors.New("not tried")
	for end := time.Now().Add(patience); err != nil && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		c, err = net.Dial("unix", path)
	}
	if err != nil {
		return nil
	}
	return vhostusertest.Serve(c.(*net.UnixConn), vhostusertest.Config{
		Features: virtio.FeatureVersion1 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc | 1<<15 | vhostusertest.FeatureProtocol, // VIRTIO_NET_F_MRG_RXBUF
		Protocol: vhostusertest.ProtocolReplyAck,
		Serve: func(_ int, c *virtio.Chain) (uint32, bool) {
			b := make([]byte, c.ReadLen)
			c.CopyIn(b, 0)
			if len(b) > vnetHeader {
				p.file.Write(b[vnetHeader:])
			}
			return 0, true
		},
		Fill: func(c *virtio.Chain, stop <-chan struct{}) (uint32, bool) {
			select {
			case <-stop:
				return 0, false
			case packet := <-p.packets:
				var header [vnetHeader]byte
				binary.LittleEndian.PutUint16(header[10:], 1) // num_buffers
				c.CopyOut(0, append(header[:], packet...))
				return uint32(vnetHeader + len(packet)), true
			}
		},
	})
}
