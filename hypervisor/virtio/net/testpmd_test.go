package net

import (
	"bytes"
	"fmt"
	"io"
	stdnet "net"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/virtio/virtiotest"
)

// TestTestpmd: DPDK's vhost library moves packets of two queue pairs, and another process of it goes on when the first was
// killed.
func TestTestpmd(t *testing.T) {
	if _, err := exec.LookPath("dpdk-testpmd"); err != nil {
		t.Skip("needs dpdk-testpmd, of package dpdk-dev")
	}
	mem, err := memory.New(memory.Backing{Kind: memory.Memfd}, memory.Range{GPA: 0, Size: ramSize})
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	first, conn := testpmd(t)
	changes := make(chan bool, 10)
	dev, err := New(Config{ID: "net0", MAC: [6]byte{2, 0, 0, 0, 0, 1}, Log: t.Logf,
		User: &User{Conn: conn, Listen: -1, Pairs: 2, Changed: func(on bool) { changes <- on }}})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	const want = featureMQ | featureMrgRxbuf | featureCsum
	if dev.Features()&want != want {
		t.Errorf("features %#x lack some of %#x", dev.Features(), want)
	}
	rings := make([]*virtiotest.Ring, 5)
	for i := range rings {
		rings[i] = virtiotest.NewRing(t, mem, uint64(i)*0x4000, ringSize)
	}
	tr := virtiotest.NewTransport(t, mem, dev.Features()&^(featureGuestTSO4|featureGuestTSO6|featureGuestCsum), rings...)
	if err := dev.Activate(tr.Env); err != nil {
		t.Fatal(err)
	}
	defer dev.Reset()
	frame := make([]byte, headerSize+60)
	copy(frame[headerSize:], []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0})
	const sent, received = 0x80000, 0x90000
	if err := mem.WriteAt(frame, sent); err != nil {
		t.Fatal(err)
	}
	exchange := func() {
		t.Helper()
		for i := range 8 {
			rings[0].Add(virtiotest.Buf{GPA: received + uint64(i)*2048, Len: 2048, Write: true})
		}
		rings[0].Kick()
		var got virtiotest.Used
		virtiotest.Eventually(t, "a frame comes back", func() bool { // the port may not be up yet when the first is sent
			rings[1].Add(virtiotest.Buf{GPA: sent, Len: uint32(len(frame))})
			rings[1].Kick()
			rings[1].WaitUsed(t)
			unix.Poll(nil, 50)
			u, ok := rings[0].Collect()
			got = u
			return ok
		})
		back := make([]byte, got.Len)
		if err := mem.ReadAt(back, received); err != nil {
			t.Fatal(err)
		}
		swapped := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9}
		if int(got.Len) != len(frame) || !bytes.Equal(back[headerSize:headerSize+12], swapped) {
			t.Errorf("%d bytes came back: % x", got.Len, back)
		}
		for _, ok := rings[0].Collect(); ok; _, ok = rings[0].Collect() {
		}
	}
	exchange()
	first.kill()
	if <-changes {
		t.Error("the end of testpmd is not noticed")
	}
	_, conn = testpmd(t)
	if err := dev.Reconnect(conn); err != nil {
		t.Fatal(err)
	}
	exchange()
	if tr.Failure() != nil {
		t.Error(tr.Failure())
	}
}

type testpmdProcess struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func (p testpmdProcess) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
	p.stdin.Close()
}

// testpmd starts a process that sends each frame back with its addresses swapped, and connects to it.
func testpmd(t *testing.T) (testpmdProcess, int) {
	t.Helper()
	dir := t.TempDir()
	sock := filepath.Join(dir, "sock")
	cmd := exec.Command("dpdk-testpmd", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry", "--file-prefix", filepath.Base(dir)+fmt.Sprint(unix.Getpid()),
		"-l", "0,1", "--vdev", "net_vhost0,iface="+sock+",queues=2", "--", "--forward-mode=macswap", "--auto-start", "--total-num-mbufs=4096",
		"--rxq=2", "--txq=2", "--stats-period=60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := testpmdProcess{cmd, stdin}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("testpmd:\n%s", out.String())
		}
	})
	var c stdnet.Conn
	virtiotest.Eventually(t, "testpmd listens", func() bool {
		c, err = stdnet.Dial("unix", sock)
		return err == nil
	})
	defer c.Close()
	f, err := c.(*stdnet.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return p, fd
}
