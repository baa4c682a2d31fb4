package e2e

import (
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// Two network cards on one bridge, one served by the engine and one by the kernel's vhost-net: ping, and a file both
// ways with its checksum, with one and with four queues.
func TestLabNetwork(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.VhostNet, labtest.Tun, labtest.Virsh)
	h := startHost(t)
	h.bridge("virtdbr0", "10.91.0.1/24")
	h.ip("addr", "add", "10.92.0.1/24", "dev", "virtdbr0")
	size := int64(100 << 20)
	if testing.Short() {
		size = 10 << 20
	}
	s := startFileServer(t, size)
	for _, queues := range []int{1, 4} {
		if testing.Short() && queues == 1 {
			continue
		}
		t.Run(fmt.Sprintf("%d queues", queues), func(t *testing.T) {
			h.t = t
			k := labtest.Kernel("6.1")
			name := h.define(guest{name: fmt.Sprintf("net%d", queues), kernel: k, memory: 512, vcpus: queues,
				initrd:  labtest.AppendFiles(t, k.Tools, map[string]string{"cmd": networkScript(queues, s)}),
				args:    "lab.net=eth0:10.91.0.2/24,eth1:10.92.0.2/24",
				devices: nic("virtdbr0", "qemu", queues) + nic("virtdbr0", "vhost", queues)})
			h.vctl("start", name)
			h.expect(name, "traffic done", 280*time.Second)
			checkInterfaces(t, h, name)
			checkQueueThreads(t, h, name, queues)
			checkCoalesce(t, h, name)
			s.release()
			h.finish(name, 60*time.Second)
			checkNetworkOutput(t, h, name, queues, s)
			h.vctl("undefine", name)
		})
	}
	if !testing.Short() {
		t.Run("receive-side scaling", func(t *testing.T) {
			h.t = t
			checkRSS(t, h, s)
		})
	}
	h.t = t
	if left := h.ip("-o", "link", "show", "master", "virtdbr0"); left != "" {
		t.Errorf("ports are left on the bridge:\n%s", left)
	}
}

// networkScript is what the guest does. Bash opens the connections, so that each is one program pinned to one vCPU.
func networkScript(queues int, s *fileServer) string {
	return fmt.Sprintf(`
echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
for e in eth0 eth1; do
  [ %[1]d = 1 ] || ethtool -L $e combined %[1]d
  echo "$e channels $(ethtool -l $e | grep Combined | tr -s '\t ' ' ' | tr '\n' ' ')"
done
ping -c 3 -i 0.3 -W 5 10.91.0.1 && echo "eth0 ping ok"
ping -c 3 -i 0.3 -W 5 10.92.0.1 && echo "eth1 ping ok"
%[3]s
for n in 1 2; do
  echo "eth$((n-1)) down $(fetch 10.9$n.0.1)"
  push 10.9$n.0.1 && echo "eth$((n-1)) up"
done
# every queue of both cards: a program on each vCPU
for c in $(seq 0 $((%[1]d-1))); do
  for n in 1 2; do ping -c 20 -i 0.02 -q -W 5 10.9$n.0.1 >/dev/null & taskset -p -c $c $! >/dev/null; done
  wait
  for n in 1 2; do taskset -c $c bash -c "exec 5<>/dev/tcp/10.9$n.0.1/%[2]d; echo ping >&5; read -r x <&5; echo ping >&5; read -r x <&5"; done
done
grep -E 'virtio[0-9]+-(input|output)' /proc/interrupts
for e in eth0 eth1; do echo "$e is $(basename $(readlink /sys/class/net/$e/device))"; done
echo "traffic done"
exec 5<>/dev/tcp/10.91.0.1/%[2]d; echo wait >&5; read -r x <&5 || true
`, queues, s.port, s.shell())
}

// checkInterfaces compares what virsh tells about the cards of a running domain.
func checkInterfaces(t *testing.T, h *host, name string) {
	t.Helper()
	list := h.virsh("domiflist", name)
	taps := regexp.MustCompile(`(?m)^ (\S+)\s+bridge\s+virtdbr0\s+virtio\s+52:54:00:`).FindAllStringSubmatch(list, -1)
	if len(taps) != 2 {
		t.Fatalf("domiflist:\n%s", list)
	}
	for _, tap := range taps {
		stats := h.virsh("domifstat", name, tap[1])
		for _, key := range []string{"rx_bytes", "tx_bytes", "rx_packets", "tx_packets"} {
			least := 100
			if strings.HasSuffix(key, "bytes") {
				least = 5 << 20
			}
			if got := field(t, stats, tap[1]+" "+key+` (\d+)`); got < least {
				t.Errorf("%s of %s: %d, want at least %d", key, tap[1], got, least)
			}
		}
		if drops := field(t, stats, tap[1]+` rx_errs (\d+)`) + field(t, stats, tap[1]+` tx_errs (\d+)`); drops != 0 {
			t.Errorf("errors on %s:\n%s", tap[1], stats)
		}
	}
}

// checkQueueThreads: threads that move packets have names that tell whose they are, the engine's and the kernel's, and
// emulatorpin binds them all.
func checkQueueThreads(t *testing.T, h *host, name string, queues int) {
	t.Helper()
	pid := h.engine(name)
	h.virsh("emulatorpin", name, "0", "--live")
	if out := h.virsh("emulatorpin", name); !regexp.MustCompile(`\*: 0\n`).MatchString(out) {
		t.Errorf("emulatorpin shows:\n%s", out)
	}
	threads := h.sh(fmt.Sprintf("grep -sh . /proc/%d/task/*/comm || true", pid))
	want := "net0/0\n"
	if queues > 1 { // on the one CPU of this host they share one
		want = fmt.Sprintf("net0/0-%d\n", queues-1)
	}
	if !strings.Contains(threads+"\n", want) {
		t.Errorf("no thread %q among\n%s", want, threads)
	}
	// vhost's are threads of the process from Linux 6.4 on, and processes of the kernel's before; they are named by the thread
	// that made them the engine's
	all := fmt.Sprintf("for t in /proc/%[1]d/task/*; do grep -slx vhost-${t##*/} /proc/[0-9]*/comm /proc/%[1]d/task/*/comm; done || true", pid)
	if got := len(strings.Fields(h.sh(all))); got != queues {
		t.Errorf("%d threads of vhost for %d queues", got, queues)
	}
	for _, comm := range strings.Fields(h.sh(all)) {
		if cpus := h.sh("grep Cpus_allowed_list: " + strings.TrimSuffix(comm, "comm") + "status"); !strings.HasSuffix(strings.TrimSpace(cpus), "\t0") {
			t.Errorf("%s: %s", comm, cpus)
		}
	}
}

// checkCoalesce changes how many packets the host gathers while the guest runs.
func checkCoalesce(t *testing.T, h *host, name string) {
	t.Helper()
	card := regexp.MustCompile(`(?m)^ (\S+)\s+bridge\s+virtdbr0\s+virtio\s+(52:54:00:\S+)`).FindStringSubmatch(h.virsh("domiflist", name))
	if card == nil {
		t.Fatal("no card")
	}
	const document = "<interface type='bridge'><mac address='%s'/><source bridge='virtdbr0'/><model type='virtio'/>%s</interface>"
	frames := func() int { return field(t, h.sh("ethtool -c "+card[1]), `rx-frames:\s*(\d+)`) }
	h.virsh("update-device", name, h.file("coalesce.xml", fmt.Sprintf(document, card[2], "<coalesce><rx><frames max='7'/></rx></coalesce>")), "--live")
	if got := frames(); got != 7 || !strings.Contains(h.virsh("dumpxml", name), "<frames max='7'/>") {
		t.Errorf("%d frames are gathered", got)
	}
	h.virsh("update-device", name, h.file("plain.xml", fmt.Sprintf(document, card[2], "")), "--live")
	if got := frames(); got != 0 {
		t.Errorf("%d frames are gathered when nothing is said of it", got)
	}
}

func checkNetworkOutput(t *testing.T, h *host, name string, queues int, s *fileServer) {
	t.Helper()
	out := h.output(name)
	for n, kind := range []string{"qemu", "vhost"} {
		for _, want := range []string{
			fmt.Sprintf("eth%d channels Combined: %d Combined: %d", n, queues, queues),
			fmt.Sprintf("eth%d ping ok", n),
			fmt.Sprintf("eth%d down %s", n, s.sum),
			fmt.Sprintf("eth%d up", n),
		} {
			if !strings.Contains(out, want) {
				t.Errorf("the %s card: no %q on the console:\n%s", kind, want, tail(out, 3000))
			}
		}
		device := regexp.MustCompile(fmt.Sprintf(`eth%d is (virtio\d+)`, n)).FindStringSubmatch(out)
		if device == nil {
			t.Fatalf("no device of eth%d:\n%s", n, tail(out, 3000))
		}
		for q := range queues {
			for _, direction := range []string{"input", "output"} {
				line := regexp.MustCompile(fmt.Sprintf(`(?m)^\s*\d+:((?:\s+\d+){%d})\s.*%s-%s\.%d\s*$`, queues, device[1], direction, q)).FindStringSubmatch(out)
				if line == nil {
					t.Errorf("no interrupt of %s queue %d (%s):\n%s", direction, q, kind, tail(out, 3000))
					continue
				}
				if sumOf(line[1]) == 0 && direction == "input" {
					t.Errorf("no interrupt came from %s queue %d of the %s card:\n%s", direction, q, kind, tail(out, 3000))
				}
			}
		}
	}
	s.checkPushed(t, 2)
}

func sumOf(numbers string) (sum int) {
	for _, f := range strings.Fields(numbers) {
		n, _ := strconv.Atoi(f)
		sum += n
	}
	return sum
}

// fileServer gives a file of random bytes, takes one of zeroes, and answers questions: one word on a line asks.
type fileServer struct {
	port int
	size int64
	sum  string // SHA-256 of the file
	data []byte

	mu   sync.Mutex
	puts []int64
	gate chan struct{}
}

func startFileServer(t *testing.T, size int64) *fileServer {
	t.Helper()
	l, err := net.Listen("tcp4", ":0")
	if err != nil {
		t.Fatal(err)
	}
	return serveFiles(t, l, size)
}

// serveFiles is startFileServer on a listener that is there.
func serveFiles(t *testing.T, l net.Listener, size int64) *fileServer {
	t.Helper()
	s := &fileServer{port: l.Addr().(*net.TCPAddr).Port, size: size, data: make([]byte, size), gate: make(chan struct{})}
	rand.New(rand.NewSource(1)).Read(s.data)
	s.sum = fmt.Sprintf("%x", sha256.Sum256(s.data))
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				stop := time.AfterFunc(5*time.Minute, func() { c.Close() })
				defer stop.Stop()
				s.serve(c)
			})
		}
	})
	t.Cleanup(func() { l.Close(); s.release(); all.Wait() })
	return s
}

func (s *fileServer) serve(c net.Conn) {
	for {
		word := make([]byte, 5)
		for i := range word {
			if _, err := io.ReadFull(c, word[i:i+1]); err != nil {
				return
			}
			if word[i] == '\n' {
				word = word[:i]
				break
			}
		}
		switch string(word) {
		case "get":
			c.Write(s.data)
			return
		case "put":
			sink := &zeroes{}
			io.CopyN(sink, c, s.size)
			s.mu.Lock()
			s.puts = append(s.puts, sink.n)
			s.mu.Unlock()
			io.WriteString(c, "taken\n")
		case "wait":
			s.mu.Lock()
			gate := s.gate
			s.mu.Unlock()
			<-gate
			return
		default:
			io.WriteString(c, "pong\n")
		}
	}
}

// release lets those that wait go on.
func (s *fileServer) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.gate)
	s.gate = make(chan struct{})
}

// shell is for a guest's bash: "fetch HOST" prints the checksum of the file, "push HOST" sends another one of its size and waits
// until it has arrived, as a guest can end with what it sent still in its buffers.
func (s *fileServer) shell() string {
	return fmt.Sprintf(`fetch() { exec 5<>/dev/tcp/$1/%[1]d; echo get >&5; sha256sum <&5; exec 5<&-; }
push() { exec 5<>/dev/tcp/$1/%[1]d; { echo put; head -c %[2]d /dev/zero; } >&5; read -r x <&5; exec 5<&-; [ "$x" = taken ]; }`, s.port, s.size)
}

// checkPushed: since it was last asked, that many files of the server's size came, whole.
func (s *fileServer) checkPushed(t *testing.T, files int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	want := slices.Repeat([]int64{s.size}, files)
	if !slices.Equal(s.puts, want) {
		t.Errorf("came from the guest: %v bytes, want %v", s.puts, want)
	}
	s.puts = nil
}

// dropPushed forgets that many of what came, the first.
func (s *fileServer) dropPushed(files int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.puts = s.puts[min(files, len(s.puts)):]
}

// zeroes counts bytes up to the first that is not zero.
type zeroes struct {
	n   int64
	bad bool
}

func (z *zeroes) Write(p []byte) (int, error) {
	for _, b := range p {
		if z.bad = z.bad || b != 0; !z.bad {
			z.n++
		}
	}
	return len(p), nil
}
