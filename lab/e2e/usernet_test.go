package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// A guest whose network is a process without privileges, by passt and by our own: an ordinary user's virtd, files from a
// server of the host, a port of the host that leads to the guest, a process that is killed, a virtd that is killed.
func TestLabUserNetwork(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh, labtest.Program("passt"))
	h := startHostAs(t, kvmUser(t))
	h.program("virtd-usernet")
	h.wire("up0", "192.0.2.9/24")
	for _, c := range []string{"addr add 192.0.2.1/24 dev up0", "route add default via 192.0.2.9 dev up0"} {
		h.ip(strings.Fields(c)...)
	}
	size := int64(100 << 20)
	if testing.Short() {
		size = 5 << 20
	}
	// In the version of Debian 12 passt resets connections that send for long, right after it acknowledged all that came, with nothing
	// lost or sent again before (seen in its own capture): of 100 MB, none of eight got through.
	small := startFileServer(t, min(size, 16<<20))
	t.Run("passt", func(t *testing.T) { h.t = t; h.userNetwork(small, "passt", "192.0.2.1") })
	s := startFileServer(t, size)
	const program, away = "/usr/bin/passt", "/usr/bin/passt.away"
	if err := os.Rename(program, away); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Rename(away, program) })
	t.Run("own", func(t *testing.T) { h.t = t; h.userNetwork(s, "virtd-usernet", ownServer) })
	h.t = t
	h.vctl("define", h.file("six.xml", guest{name: "six", kernel: labtest.Kernel("6.1"), devices: "<interface type='user'><ip address='fd00::9'/></interface>"}.xml(h)))
	h.refuses("an IPv6 address needs passt, which is not installed", "vctl", "start", "six")
}

// ownServer is the host's address in the network that virtd's own process makes.
const ownServer = "10.0.2.2"

// What the guest says when a download, or what it sent, ended before it was whole.
const (
	connectionReset = "the connection was reset"
	uploadReset     = "the connection was reset while sending"
)

// kvmUser is somebody who may use /dev/kvm and nothing else.
func kvmUser(t *testing.T) *syscall.Credential {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat("/dev/kvm", &st); err != nil {
		t.Fatal(err)
	}
	const group = 121 // kvm
	if err := errors.Join(os.Chown("/dev/kvm", 0, group), os.Chmod("/dev/kvm", 0o660)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		os.Chown("/dev/kvm", int(st.Uid), int(st.Gid))
		os.Chmod("/dev/kvm", os.FileMode(st.Mode&0o777))
	})
	return &syscall.Credential{Uid: 4242, Gid: 4242, Groups: []uint32{group}}
}

// userNetwork runs a guest on the process of that name; server is where it reaches the host.
func (h *host) userNetwork(s *fileServer, process, server string) {
	h.t.Helper()
	k := labtest.Kernel("6.1")
	const forward = 20022
	initrd := h.path(process + ".initrd") // where the user can read it
	err := os.Rename(labtest.AppendFiles(h.t, k.Tools, map[string]string{"cmd": userScript(s, server)}), initrd)
	if err = errors.Join(err, os.Chmod(initrd, 0o644)); err != nil {
		h.t.Fatal(err)
	}
	driver := ""
	if process == "virtd-usernet" {
		driver = "<driver rss_hash_report='on'/>"
	}
	name := h.define(guest{name: process, kernel: k, memory: 512, args: "lab.net=eth0:dhcp", initrd: initrd,
		devices: fmt.Sprintf("<interface type='user'><mac address='52:54:00:77:00:01'/><model type='virtio'/>"+
			"<portForward proto='tcp' address='127.0.0.1'><range start='%d' to='22'/></portForward>%s</interface>", forward, driver)})
	h.t.Cleanup(func() {
		if h.t.Failed() {
			h.t.Logf("--- console of %s\n%s", name, tail(h.output(name), 3000))
		}
		h.try("vctl", "destroy", name)
	})
	h.vctl("start", name)
	h.expect(name, "traffic done", 280*time.Second)
	out := h.output(name)
	for _, want := range []string{"down " + s.sum, "up"} {
		if !strings.Contains(out, want) {
			h.t.Errorf("no %q on the console:\n%s", want, tail(out, 3000))
		}
	}
	s.dropPushed(strings.Count(out, uploadReset))
	s.checkPushed(h.t, 1)
	h.forwarded(forward)
	stats := h.virsh("domifstat", name, "52:54:00:77:00:01")
	if strings.Contains(out, connectionReset) { // see userScript: then the engine has lost nothing, at least
		h.t.Log(process, "reset a connection")
		for _, counter := range []string{"rx_errs", "rx_drop", "tx_errs", "tx_drop"} {
			if n := field(h.t, stats, counter+` (\d+)`); n != 0 {
				h.t.Errorf("%s is %d after a connection was reset:\n%s", counter, n, stats)
			}
		}
	}
	if got := field(h.t, stats, `rx_bytes (\d+)`); int64(got) < s.size {
		h.t.Errorf("domifstat:\n%s", stats)
	}
	if process == "virtd-usernet" {
		if got := h.virsh("domifaddr", name); !strings.Contains(got, "10.0.2.15/24") {
			h.t.Errorf("domifaddr:\n%s", got)
		}
	} else if xml := h.virsh("dumpxml", name); !strings.Contains(xml, "<backend type='passt'/>") {
		h.t.Errorf("dumpxml:\n%s", xml)
	}

	old := h.helper(process)
	kill(h.t, old)
	h.until(20*time.Second, "another "+process, func() bool { pid := h.findHelper(process); return pid != 0 && pid != old })
	h.forwarded(forward)
	h.stopDaemon(syscall.SIGKILL)
	h.forwarded(forward)
	h.startDaemon()
	h.virsh("destroy", name)
	h.until(20*time.Second, "end of "+process, func() bool { return h.findHelper(process) == 0 })
	h.vctl("undefine", name)
}

func userScript(s *fileServer, server string) string {
	// passt, in the version of Debian 12, reset one download in fourteen on a slow machine; why is not known. The connection after
	// it worked. Our own process has no second try.
	tries := 3
	if server == ownServer {
		tries = 1
	}
	return fmt.Sprintf(`
ip -4 -o addr show dev eth0
%[1]s
router=$(ip route | sed -n 's/^default via \([0-9.]*\).*/\1/p')
to=%[2]s; [ "$to" = %[4]s ] || to=$router
for i in $(seq %[3]d); do x=$(fetch $to); [ -z "$x" ] || break; echo "%[5]s"; done
echo "down $x"
for i in $(seq %[3]d); do if push $to; then echo "up"; break; fi; echo "%[6]s"; done
busybox nc -ll -p 22 -e sh -c 'read x; echo hello from the guest' &
echo "traffic done"
while sleep 1; do ping -c 1 -W 1 $router >/dev/null 2>&1; done # as real ones, it says something now and then: a new passt learns who it is
`, s.shell(), server, tries, ownServer, connectionReset, uploadReset)
}

// forwarded asks the guest by a port of the host.
func (h *host) forwarded(port int) {
	h.t.Helper()
	h.until(30*time.Second, "answer of the guest by the host's port", func() bool {
		conn, err := net.DialTimeout("tcp4", "127.0.0.1:"+strconv.Itoa(port), 5*time.Second)
		if err != nil {
			return false
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(10 * time.Second))
		io.WriteString(conn, "who\n") // see docs/interfaces.md: passt of Debian 12 waits for it
		text, _ := io.ReadAll(conn)
		return strings.Contains(string(text), "hello from the guest")
	})
}

// helper is the process of that name behind an interface.
func (h *host) helper(name string) int {
	h.t.Helper()
	pid := h.findHelper(name)
	if pid == 0 {
		h.t.Fatalf("no process %s", name)
	}
	return pid
}

func (h *host) findHelper(name string) int {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range lines {
		text, _ := os.ReadFile(path)
		argv0, _, _ := strings.Cut(string(text), "\x00")
		if filepath.Base(argv0) == name || strings.HasPrefix(filepath.Base(argv0), name+".") { // passt.avx2
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			return pid
		}
	}
	return 0
}
