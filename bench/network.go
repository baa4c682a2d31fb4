package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"virtd/bench/ab"
)

// netHost measures between a guest and its host, over a bridge and a tap.
type netHost struct {
	driver string // of the guest's interface
	queues int
}

// netGuests measures between two guests of one engine on a bridge.
type netGuests netHost

const (
	hostAddress = "10.9.0.1"
	netBridge   = "bench0"
	netSeconds  = 4 // of each measurement
)

// netGuest is a guest with the tools and an address.
func (h host) netGuest(n netHost, number int) (guest, error) {
	g := h.throughputGuest()
	g.memory = 160
	if n.queues > 1 {
		g.memory = 256
	}
	program, err := h.loadDisk()
	if err != nil {
		return guest{}, err
	}
	g.disks = append(g.disks, disk{path: program, serial: "load", readOnly: true})
	g.tap, g.driver, g.queues = fmt.Sprintf("bench0t%d", number), n.driver, n.queues
	g.mac = fmt.Sprintf("52:54:00:09:00:%02x", number)
	g.args = fmt.Sprintf("lab.net=eth0:%s/24", guestAddress(number))
	return g, nil
}

func guestAddress(number int) string { return fmt.Sprintf("10.9.0.%d", 10+number) }

// loadDisk makes a disk whose content is the program load.
func (h host) loadDisk() (string, error) {
	data, err := os.ReadFile(h.load)
	if err != nil {
		return "", err
	}
	p := filepath.Join(h.dir, "load.img")
	return p, os.WriteFile(p, append(data, make([]byte, 4096-len(data)%4096)...), 0o600)
}

// fetchLoad is how a guest gets the program off that disk.
const fetchLoad = "cat /dev/vdb >/tmp/load && chmod +x /tmp/load"

// ready boots a guest and prepares it. start is of either engine.
func ready(start func(guest) (*engine, error), g guest) (*engine, error) {
	e, err := atShell(start, g)
	if err != nil {
		return nil, err
	}
	if _, err := e.command(fetchLoad); err != nil {
		e.kill()
		return nil, err
	}
	return e, nil
}

// run measures from the guest, while the other engine's idles.
func (n netHost) run(h host) ([]ab.Result, error) {
	remove, err := network(netBridge, n.queues, 2)
	if err != nil {
		return nil, err
	}
	defer remove()
	servers := netServers{host: h}
	defer servers.stop()
	if err := servers.start(); err != nil {
		return nil, err
	}
	sides, err := h.netSides(func(side int, start func(guest) (*engine, error)) ([]*engine, error) {
		g, err := h.netGuest(n, side)
		if err != nil {
			return nil, err
		}
		e, err := ready(start, g)
		if err != nil {
			return nil, err
		}
		return []*engine{e}, nil
	})
	if err != nil {
		return nil, err
	}
	defer sides.kill()
	name := fmt.Sprintf("%s, %d queues, guest and host", n.driver, n.queues)
	jobs := append(n.throughput("TCP", ""), n.throughput("UDP", "-u -b 0 -l 1448 ")...)
	jobs = append(jobs, latency("TCP"), latency("UDP"))
	return sides.compare(h.rounds, name, jobs, func(int) string { return hostAddress })
}

// run measures from one guest to another of the same engine, while the other engine's two idle.
func (n netGuests) run(h host) ([]ab.Result, error) {
	remove, err := network(netBridge, n.queues, 4)
	if err != nil {
		return nil, err
	}
	defer remove()
	sides, err := h.netSides(func(side int, start func(guest) (*engine, error)) (guests []*engine, err error) {
		for i := range 2 {
			g, err := h.netGuest(netHost(n), 2*side+i)
			if err != nil {
				return guests, err
			}
			e, err := ready(start, g)
			if err != nil {
				return guests, err
			}
			guests = append(guests, e)
		}
		_, err = guests[1].command("(/tmp/load serve >/dev/null 2>&1 &) ; iperf3 -s -D")
		return guests, err
	})
	if err != nil {
		return nil, err
	}
	defer sides.kill()
	name := fmt.Sprintf("%s, %d queues, guest to guest", n.driver, n.queues)
	jobs := []netJob{netHost(n).throughput("TCP", "")[0], netHost(n).throughput("UDP", "-u -b 0 -l 1448 ")[0], latency("TCP"), latency("UDP")}
	return sides.compare(h.rounds, name, jobs, func(side int) string { return guestAddress(2*side + 1) })
}

// netJob is one thing that a guest measures.
type netJob struct {
	name, unit string
	better     ab.Direction
	command    string // %s is whom to ask
	value      *regexp.Regexp
	// work returns what the engine's processor time is divided by, from the value, and its unit.
	work func(value float64) float64
	per  string
}

var receivedRate = regexp.MustCompile(`([0-9.]+) Mbits/sec .*receiver`)

// throughput is iperf3 from the guest and back. The receiver's line counts, of all streams together where there are several.
func (n netHost) throughput(protocol, options string) []netJob {
	line := "receiver"
	if n.queues > 1 {
		options += fmt.Sprintf("-P %d ", n.queues)
		line = "SUM.*receiver"
	}
	var out []netJob
	for _, way := range []struct{ name, option string }{{"out", ""}, {"in", "-R "}} {
		out = append(out, netJob{
			name: protocol + " " + way.name, unit: "Mbit/s", better: ab.Higher, value: receivedRate,
			command: fmt.Sprintf("iperf3 -c %%s -f m -t %d -O 1 %s%s>/tmp/report 2>&1; grep '%s' /tmp/report || tail -3 /tmp/report", netSeconds, options, way.option, line),
			work:    func(rate float64) float64 { return rate / 8 * (netSeconds + 1) }, per: "ms/MB",
		})
	}
	return out
}

var median = regexp.MustCompile(`RR [0-9.]+ ([0-9.]+) [0-9.]+`)

// latency is one byte to and fro.
func latency(protocol string) netJob {
	return netJob{
		name: protocol + " request and answer, median", unit: "us", better: ab.Lower, value: median,
		command: fmt.Sprintf("/tmp/load %s %%s %d", strings.ToLower(protocol), netSeconds),
		work:    func(us float64) float64 { return netSeconds * 1e6 / us }, per: "ms each",
	}
}

// run takes one sample: the value, and the processor time of all.
func (j netJob) run(asking *engine, all []*engine, address string) (value float64, used time.Duration, err error) {
	before, err := processorTime(all)
	if err != nil {
		return 0, 0, err
	}
	out, err := asking.command(fmt.Sprintf(j.command, address))
	if err != nil {
		return 0, 0, err
	}
	after, err := processorTime(all)
	if err != nil {
		return 0, 0, err
	}
	m := j.value.FindStringSubmatch(out)
	if m == nil {
		return 0, 0, fmt.Errorf("no result in %q", out)
	}
	if value, err = strconv.ParseFloat(m[1], 64); err != nil || value == 0 {
		return 0, 0, fmt.Errorf("nothing was moved: %q", out)
	}
	return value, after - before, nil
}

// netServers are the programs that answer on the host.
type netServers struct {
	host    host
	running []*exec.Cmd
}

func (n *netServers) start() error {
	program, err := n.host.copyIn(n.host.load)
	if err != nil {
		return err
	}
	for _, c := range []*exec.Cmd{exec.Command("iperf3", "-s", "-B", hostAddress), exec.Command(program, "serve")} {
		if err := c.Start(); err != nil {
			return err
		}
		n.running = append(n.running, c)
	}
	for _, port := range []string{"5201", "9"} {
		if err := waitFor(net.JoinHostPort(hostAddress, port)); err != nil {
			return err
		}
	}
	return nil
}

func (n *netServers) stop() {
	for _, c := range n.running {
		_ = c.Process.Kill()
		_ = c.Wait()
	}
	n.running = nil
}

// waitFor waits until somebody listens.
func waitFor(address string) error {
	var err error
	for range 100 {
		var c net.Conn
		if c, err = net.DialTimeout("tcp", address, time.Second); err == nil {
			return c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	return err
}

// network makes a bridge with this host's address and taps of so many queues on it; the function it returns removes them.
func network(bridge string, queues, taps int) (remove func(), err error) {
	multi := ""
	if queues > 1 {
		multi = " multi_queue"
	}
	steps := []string{"link add " + bridge + " type bridge", "addr add " + hostAddress + "/24 dev " + bridge, "link set " + bridge + " up"}
	links := []string{bridge}
	for i := range taps {
		tap := fmt.Sprintf("%st%d", bridge, i)
		links = append(links, tap)
		steps = append(steps, "tuntap add "+tap+" mode tap vnet_hdr"+multi, "link set "+tap+" master "+bridge+" up")
	}
	remove = func() {
		for _, l := range links {
			_ = ip("link del " + l)
		}
	}
	for _, s := range steps {
		if err := ip(s); err != nil {
			remove()
			return nil, err
		}
	}
	return remove, nil
}

// ip runs the program of that name.
func ip(args string) error {
	if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, out)
	}
	return nil
}
