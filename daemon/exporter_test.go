package daemon_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"virtd/driver/fake"
	"virtd/virterr"
)

// TestExporter scrapes an unmodified prometheus-libvirt-exporter: its numbers of domains in every state are those of
// virsh domstats, and an engine that does not answer costs nobody else's.
func TestExporter(t *testing.T) {
	program := unpacked(t, "bookworm", "prometheus-libvirt-exporter")
	b := newTestbed(t)
	b.writeXML(t)
	startStates(t, b)
	var silent atomic.Bool
	b.driver.OnCall = func(_ context.Context, e *fake.Engine, method string) error {
		host := method == "NetStats" || method == "CPUTime" // the host knows them
		if silent.Load() && e.Live.Name() == "stuck" && !host {
			return virterr.New(virterr.OperationTimeout, "domain 'stuck' did not answer %s in time", method)
		}
		return nil
	}
	url := startExporter(t, b, program)

	got := scrape(t, url)
	want := exported(t, b, "running", "paused", "crashed", "stuck")
	want["libvirt_up"], want["libvirt_domains_number"] = 1, 4
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-domstats +scraped\n%s", diff)
	}

	silent.Store(true)
	got = scrape(t, url)
	if got["libvirt_up"] != 1 || got["libvirt_domain_state_code stuck"] != 1 {
		t.Errorf("with a silent engine: up %v, its state %v", got["libvirt_up"], got["libvirt_domain_state_code stuck"])
	}
	before := "libvirt_domain_block_stats_read_bytes_total stuck"
	if got[before] != want[before] {
		t.Errorf("the last number of a silent engine is told as %v, want %v", got[before], want[before])
	}
	for name, value := range exported(t, b, "running", "paused", "crashed") {
		if got[name] != value {
			t.Errorf("with a silent engine: %s is %v, want %v", name, got[name], value)
		}
	}
}

// startStates defines a domain for each state and one that will stop answering.
func startStates(t *testing.T, b *testbed) {
	t.Helper()
	ctx := context.Background()
	for n, name := range []string{"running", "paused", "crashed", "stuck", "off"} {
		id := strconv.Itoa(n)
		xml := strings.NewReplacer("<name>demo", "<name>"+name, "IMAGE", b.dir+"/disk.img", "11111111-", id+"1111111-", "52:54:00:12:34:56", "52:54:00:12:34:5"+id,
			"vnet7", "vnet"+id, "</on_reboot>", "</on_reboot><on_crash>preserve</on_crash>").Replace(demoXML)
		dom, err := b.mgr.Define(ctx, xml, 0)
		if err != nil {
			t.Fatal(err)
		}
		if name == "off" {
			continue
		}
		if err := dom.Start(ctx, 0); err != nil {
			t.Fatal(err)
		}
		switch name {
		case "paused":
			if err := dom.Suspend(ctx); err != nil {
				t.Fatal(err)
			}
		case "crashed":
			b.guest(t, "panic", name)
			b.wait(t, "crashed", name)
		}
	}
}

// startExporter starts the exporter on a port of the loopback interface and returns the address of its metrics.
func startExporter(t *testing.T, b *testbed, program string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, program, "--libvirt.uri", "qemu:///system?socket="+b.ro, "--web.listen-address", address)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return "http://" + address + "/metrics"
		}
		if time.Now().After(end) {
			t.Fatalf("the exporter does not listen: %v", err)
		}
	}
}

// metric is a line of the exporter: a name, labels, a value.
var metric = regexp.MustCompile(`^(libvirt_\w+)(?:\{(?:.*,)?domain="([^"]*)".*\})? (\S+)$`)

// scrape returns the values by name and domain.
func scrape(t *testing.T, url string) map[string]float64 {
	t.Helper()
	client := http.Client{Timeout: 30 * time.Second}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := map[string]float64{}
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if m := metric.FindStringSubmatch(sc.Text()); m != nil {
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			got[strings.TrimSpace(m[1]+" "+m[2])] = value
		}
	}
	return got
}

// exportedNames says which of virsh domstats' numbers the exporter has, under which name, and in which unit.
var exportedNames = map[string]struct {
	name string
	unit float64
}{
	"state.state":      {"domain_state_code", 1},
	"cpu.time":         {"domain_info_cpu_time_seconds_total", 1e-9},
	"balloon.current":  {"domain_info_memory_usage_bytes", 1024},
	"balloon.maximum":  {"domain_info_maximum_memory_bytes", 1024},
	"vcpu.current":     {"domain_info_virtual_cpus", 1},
	"net.0.rx.bytes":   {"domain_interface_stats_receive_bytes_total", 1},
	"net.0.rx.pkts":    {"domain_interface_stats_receive_packets_total", 1},
	"net.0.rx.errs":    {"domain_interface_stats_receive_errors_total", 1},
	"net.0.rx.drop":    {"domain_interface_stats_receive_drops_total", 1},
	"net.0.tx.bytes":   {"domain_interface_stats_transmit_bytes_total", 1},
	"net.0.tx.pkts":    {"domain_interface_stats_transmit_packets_total", 1},
	"net.0.tx.errs":    {"domain_interface_stats_transmit_errors_total", 1},
	"net.0.tx.drop":    {"domain_interface_stats_transmit_drops_total", 1},
	"block.0.rd.reqs":  {"domain_block_stats_read_requests_total", 1},
	"block.0.rd.bytes": {"domain_block_stats_read_bytes_total", 1},
	"block.0.wr.reqs":  {"domain_block_stats_write_requests_total", 1},
	"block.0.wr.bytes": {"domain_block_stats_write_bytes_total", 1},
}

// exported returns what the exporter should say of domains, as virsh domstats has it.
func exported(t *testing.T, b *testbed, names ...string) map[string]float64 {
	t.Helper()
	want := map[string]float64{}
	for _, name := range names {
		out, err := exec.Command("virsh", "-r", "-c", "qemu:///system?socket="+b.ro, "domstats", name).Output()
		if err != nil {
			t.Fatal(fmt.Errorf("virsh domstats %s: %w", name, err))
		}
		for _, line := range strings.Split(string(out), "\n") {
			key, text, _ := strings.Cut(strings.TrimSpace(line), "=")
			e, ok := exportedNames[key]
			if !ok {
				continue
			}
			value, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			want["libvirt_"+e.name+" "+name] = value * e.unit
		}
	}
	return want
}
