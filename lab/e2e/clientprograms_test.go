package e2e

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// The programs of this file are from the tree of clients, unmodified: they find virtd where they expect libvirtd, with a
// Linux guest that runs on our engine. LAB_CLIENTS=1 brings the tree.

// A person's tour through virt-manager: list, start, the shell on the serial console, details and graphs, pause, XML, and a
// new guest from an image with a kernel. testdata/clients/manager.py does what a person does.
func TestLabVirtManager(t *testing.T) {
	c := startClients(t)
	k := labtest.Kernel("6.12")
	name := c.define(guest{name: "guest", kernel: k, console: "<serial type='pty'/>"})
	image := c.image("made.img", 8)
	c.bridge("virtdbr0", "10.91.0.1/24")
	c.virsh("net-start", "default") // or virt-manager asks, and answers nobody's questions about its widgets until that is answered
	c.write("root/.config/glib-2.0/settings/keyfile", `[org/virt-manager/virt-manager]
xmleditor-enabled=true

[org/virt-manager/virt-manager/stats]
enable-disk-poll=true
enable-net-poll=true
enable-memory-poll=true
update-interval=1

[org/virt-manager/virt-manager/console]
autoconnect=false
`)
	display := c.announced("Xvfb", "-displayfd", "3", "-screen", "0", "1280x900x24", "-nolisten", "tcp", "-noreset")
	c.env = append(c.env, "DISPLAY=:"+display, "GSETTINGS_BACKEND=keyfile", "GDK_BACKEND=x11", "LIBGL_ALWAYS_SOFTWARE=1")
	c.env = append(c.env, "DBUS_SESSION_BUS_ADDRESS="+c.announced("dbus-daemon", "--session", "--nofork", "--print-address=3", "--address=unix:path=/run/session"))
	out := c.run(15*time.Minute, "python3", "/scripts/manager.py", name, image, k.Image, k.Initrd, bootArgs)
	for _, want := range []string{
		"the list: ['guest', 'Shutoff']", "start, and the shell on the serial console", "details and graphs", "pause, resume",
		"stored: ['<title>Edited in virt-manager</title>']", "shut down by the guest's power button", "a new guest from an image with a kernel",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("virt-manager's tour lacks %q:\n%s", want, out)
		}
	}
	c.state("made", "running (booted)")
}

// libvirt-dbus on a bus of its own: a guest's life by methods, and the signals of it.
func TestLabLibvirtDBus(t *testing.T) {
	c := startClients(t)
	name := c.define(guest{name: "bus", kernel: labtest.Kernel("6.1"), memory: 128})
	c.write("etc/bus.conf", `<busconfig><type>session</type><listen>unix:path=/run/bus</listen><auth>EXTERNAL</auth><policy context="default">
<allow send_destination="*"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>`)
	address := c.announced("dbus-daemon", "--config-file=/etc/bus.conf", "--nofork", "--print-address=3")
	c.env = append(c.env, "DBUS_SYSTEM_BUS_ADDRESS="+address)
	c.start("libvirt-dbus", "--system")
	got := c.run(5*time.Minute, "python3", "/scripts/bus.py", address, name)
	want := `listed True
  [('DomainEvent', (4, 0)), ('DomainEvent', (2, 0))]
state (1, 1)
processors 1
  [('DomainEvent', (3, 0)), ('DomainEvent', (4, 0))]
  [('DomainEvent', (6, 2)), ('DomainEvent', (5, 1))]
state (5, 2)
`
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// The Prometheus exporter has the numbers of a guest that runs.
func TestLabExporter(t *testing.T) {
	c := startClients(t)
	image := c.image("disk.img", 8)
	name := c.define(guest{name: "measured", kernel: labtest.Kernel("6.1"), memory: 128, devices: disk(image, "vda", "")})
	c.vctl("start", name)
	c.expect(name, "LAB-GUEST: shell", 150*time.Second)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	c.start("prometheus-libvirt-exporter", "--libvirt.uri", "qemu:///system", "--web.listen-address", address)
	var metrics string
	c.until(time.Minute, "metrics", func() bool {
		resp, err := http.Get("http://" + address + "/metrics")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		all, err := io.ReadAll(resp.Body)
		metrics = string(all)
		return err == nil
	})
	for _, want := range []string{"\nlibvirt_up 1\n", "\nlibvirt_domains_number 1\n", `libvirt_domain_info_memory_usage_bytes{domain="measured"`} {
		if !strings.Contains(metrics, want) {
			t.Errorf("no %q in\n%s", want, metrics)
		}
	}
	for _, counter := range []string{"libvirt_domain_info_cpu_time_seconds_total", "libvirt_domain_block_stats_read_bytes_total"} {
		if value := metric(metrics, counter, name); value == "" || value == "0" {
			t.Errorf("%s of the guest is %q", counter, value)
		}
	}
}

// metric is the value of a domain's metric.
func metric(metrics, name, domain string) string {
	for line := range strings.Lines(metrics) {
		if strings.HasPrefix(line, name+"{") && strings.Contains(line, `domain="`+domain+`"`) {
			return strings.TrimSpace(line[strings.LastIndexByte(line, ' '):])
		}
	}
	return ""
}

// clients is a host with the root of the clients, in which virtd's sockets are where libvirt's are.
type clients struct {
	*host
	root string
	env  []string
}

func startClients(t *testing.T) *clients {
	t.Helper()
	labtest.Need(t, labtest.KVM, labtest.Clients)
	h := startHost(t)
	c := &clients{host: h, root: h.path("clients"), env: []string{"PATH=/usr/bin:/usr/sbin", "HOME=/root", "XDG_RUNTIME_DIR=/run", "LC_ALL=C.UTF-8",
		"PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", "PATIENCE=5"}}
	scripts, err := filepath.Abs("testdata/clients")
	if err != nil {
		t.Fatal(err)
	}
	h.images() // what is mounted later is not seen in the root of the clients
	rw := h.path("clients-rw")
	t.Cleanup(func() { exec.Command("umount", "-R", "-l", c.root).Run() })
	h.sh(`set -e; root=` + c.root + ` rw=` + rw + `
mkdir -p $root $rw/upper $rw/work
mount -t overlay -o lowerdir=` + labtest.ClientsRoot + `,upperdir=$rw/upper,workdir=$rw/work clients $root
for d in proc dev sys; do mount --rbind /$d $root/$d; done
mount -t tmpfs run $root/run; mount -t tmpfs tmp $root/tmp
mkdir -p $root/run/libvirt $root/scripts $root` + h.dir + `
mount --bind ` + h.path("sock") + ` $root/run/libvirt
mount --bind ` + scripts + ` $root/scripts
mount --rbind ` + h.dir + ` $root` + h.dir)
	return c
}

func (c *clients) write(name, text string) {
	c.t.Helper()
	file := filepath.Join(c.root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		c.t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		c.t.Fatal(err)
	}
}

// command is a program of the root of the clients.
func (c *clients) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "chroot", append([]string{c.root, program}, args...)...)
	cmd.Env = c.env
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	return cmd
}

// run runs a program that must succeed and returns what it printed.
func (c *clients) run(within time.Duration, program string, args ...string) string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	var out, errs strings.Builder
	cmd := c.command(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("%s: %v\n%s%s", program, err, out.String(), tail(errs.String(), 6000))
	}
	return out.String()
}

// start runs a program until the test ends.
func (c *clients) start(program string, args ...string) { c.startWith(nil, program, args...) }

func (c *clients) startWith(files []*os.File, program string, args ...string) {
	c.t.Helper()
	cmd := c.command(context.Background(), program, args...)
	cmd.ExtraFiles = files
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		cmd.Cancel()
		cmd.Wait()
		if c.t.Failed() {
			c.t.Logf("--- %s\n%s", program, tail(log.String(), 4000))
		}
	})
}

// announced starts a program that writes a line to descriptor 3 when it is ready, and returns that.
func (c *clients) announced(program string, args ...string) string {
	c.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer r.Close()
	c.startWith([]*os.File{w}, program, args...)
	w.Close()
	r.SetReadDeadline(time.Now().Add(2 * time.Minute))
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		c.t.Fatalf("%s: %v", program, err)
	}
	return strings.TrimSpace(line)
}
