package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"virtd/bench/ab"
)

// The cards of the lab, which are on one segment, and the virtual function that both engines get.
const (
	vfCard     = "0000:01:00.0" // igb, an 82576
	vfPeerCard = "0000:02:00.0" // e1000e, whose interface is the one at the other end
	vfFunction = "0000:01:10.0"
	vfPeer     = "benchpeer" // its network namespace

	// The card sends what is for the function to it, whoever else has the address.
	vfMAC  = "52:54:00:09:00:04"
	tapMAC = "52:54:00:09:00:05"
)

// interfaceKind is one way to give a guest a network interface.
type interfaceKind struct {
	name     string
	model    string // as in guest
	backend  string // who moves a tap's packets
	function string
	driver   string // the guest's
	bound    float64
	peerOnly bool
}

var interfaceKinds = []interfaceKind{
	{name: "VF", function: vfFunction, driver: "igbvf", bound: 1},
	{name: "virtio", backend: "qemu", driver: "virtio_net"},
	{name: "vhost", backend: driverVhost, driver: "virtio_net"},
	{name: "e1000e", model: modelE1000E, driver: "e1000e", peerOnly: true},
}

// What is measured of each kind; see sampleInterface.
var interfaceMeasures = []ab.Measure{
	{Name: "start to driver ready", Unit: "s", Better: ab.Lower},
	{Name: "round trip", Unit: "µs", Better: ab.Lower},
	{Name: "TCP out", Unit: "Mbit/s", Better: ab.Higher},
	{Name: "TCP in", Unit: "Mbit/s", Better: ab.Higher},
	{Name: "host CPU", Unit: "s/GB", Better: ab.Lower},
}

// benchVF measures a guest's way to the machine at the other end of a wire: over a virtual function of the igb card, the same
// for both engines, and over a tap on a bridge with that card as its port, with virtio-net in the engine and in the kernel, and
// with the peer's emulated card. Each sample is a guest of its own, so that starts count too.
func benchVF(h host) (results []ab.Result, err error) {
	remove, err := wire()
	if err != nil {
		return nil, err
	}
	defer remove()
	server := exec.Command("ip", "netns", "exec", vfPeer, "iperf3", "-s", "-B", "10.9.0.1")
	if err := server.Start(); err != nil {
		return nil, err
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	var pairs []ab.Pair
	for _, k := range interfaceKinds {
		p := ab.Pair{Peer: h.sampleInterface(k, h.startPeer)}
		if !k.peerOnly {
			p.Ours = h.sampleInterface(k, h.start)
		}
		for _, m := range interfaceMeasures {
			m.Name = k.name + ": " + m.Name
			m.RatioBound = k.bound
			p.Measures = append(p.Measures, m)
		}
		pairs = append(pairs, p)
	}
	return ab.CompareAll(h.rounds, pairs...)
}

// sampleInterface boots a guest and measures: from the engine's exec to the guest having loaded its drivers; the mean of 100
// pings; TCP both ways; what the processors of this host did meanwhile, for each GB moved.
func (h host) sampleInterface(k interfaceKind, start func(guest) (*engine, error)) ab.Sampler {
	return func() (values []float64, err error) {
		defer func() {
			if err != nil {
				err = fmt.Errorf("%s: %w", k.name, err)
			}
		}()
		g := h.throughputGuest()
		g.function, g.model, g.driver, g.args = k.function, k.model, k.backend, "lab.net=eth0:10.9.0.2/24"
		if k.function == "" {
			g.tap, g.mac = "benchv", tapMAC
		}
		e, err := start(g)
		if err != nil {
			return nil, err
		}
		defer e.kill()
		if _, err := e.expect("LAB-GUEST: ready"); err != nil {
			return nil, err
		}
		took := time.Since(e.started).Seconds()
		if err := e.interactive(); err != nil {
			return nil, err
		}
		driver, err := e.command("basename $(readlink /sys/class/net/eth0/device/driver)")
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(driver) != k.driver {
			return nil, fmt.Errorf("the guest's driver is %q, not %s", driver, k.driver)
		}
		trip, err := roundTrip(e)
		if err != nil {
			return nil, err
		}
		busy, err := hostTime()
		if err != nil {
			return nil, err
		}
		from := time.Now()
		out, err := iperf(e, "-t 3")
		if err != nil {
			return nil, err
		}
		in, err := iperf(e, "-t 3 -R")
		if err != nil {
			return nil, err
		}
		after, err := hostTime()
		if err != nil {
			return nil, err
		}
		moved := (out + in) / 2 / 8e3 * time.Since(from).Seconds() // GB, as if all of the time were like what was counted
		return []float64{took, trip, out, in, (after - busy) / moved}, nil
	}
}

// iperf returns what the receiving side counted behind the first second, in Mbit/s. The guest picks that line out: a whole report is 30 KB, which
// takes a serial port longer than the measurement.
func iperf(e *engine, args string) (float64, error) {
	out, err := e.command("iperf3 -c 10.9.0.1 -J -O 1 " + args + " >/tmp/report; grep -A 9 '\"sum_received\"' /tmp/report | grep bits_per_second")
	if err != nil {
		return 0, err
	}
	m := reportedRate.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("iperf3 reports nothing received: %s", out)
	}
	rate, err := strconv.ParseFloat(m[1], 64)
	if err != nil || rate == 0 {
		return 0, fmt.Errorf("iperf3 reports nothing received: %s", out)
	}
	return rate / 1e6, nil
}

var reportedRate = regexp.MustCompile(`"bits_per_second":\s*([0-9.e+]+)`)

// roundTrip waits for the link and returns the mean of pings in microseconds.
func roundTrip(e *engine) (float64, error) {
	out, err := e.command("for i in $(seq 60); do ping -c 1 -W 1 10.9.0.1 >/dev/null && break; done; ping -q -c 100 -i 0.02 10.9.0.1 | grep rtt")
	if err != nil {
		return 0, err
	}
	m := meanTrip.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("ping reports nothing: %s", out)
	}
	v, err := strconv.ParseFloat(m[1], 64)
	return v * 1000, err
}

var meanTrip = regexp.MustCompile(`= [0-9.]+/([0-9.]+)/`)

// hostTime is what the processors of this host have worked, guests included, in seconds.
func hostTime() (float64, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	return parseProcessorTime(string(text))
}

// parseProcessorTime reads the first line of /proc/stat: user nice system idle iowait irq softirq steal, in ticks of 10 ms.
func parseProcessorTime(text string) (float64, error) {
	line, _, _ := strings.Cut(text, "\n")
	f := strings.Fields(line)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	sum := 0.0
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		v, err := strconv.ParseFloat(f[i], 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += v
	}
	return sum / 100, nil
}

// wire makes the lab's two cards the two ends: the peer's in a namespace, so that nothing takes a shorter way, the other with a
// function for guests, and as the port of a bridge with a tap. The function it returns takes all of it apart.
func wire() (remove func(), err error) {
	sys := func(file, value string) error { return os.WriteFile("/sys/bus/pci/"+file, []byte(value), 0) }
	var undo []func()
	remove = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			remove()
		}
	}()
	for _, module := range []string{"igb", "e1000e", "vfio-pci", "vhost_net", "bridge"} {
		if out, err := exec.Command("modprobe", module).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("modprobe %s: %w: %s", module, err, out)
		}
	}
	card, err := interfaceOf(vfCard)
	if err != nil {
		return nil, err
	}
	far, err := interfaceOf(vfPeerCard)
	if err != nil {
		return nil, err
	}
	undo = append(undo, func() { _ = ip("link del bench0"); _ = ip("link del benchv"); _ = ip("netns del " + vfPeer) })
	for _, s := range []string{
		"netns add " + vfPeer, "link set " + far + " netns " + vfPeer, "-n " + vfPeer + " addr add 10.9.0.1/24 dev " + far, "-n " + vfPeer + " link set " + far + " up",
		"link add bench0 type bridge", "link set bench0 up", "link set " + card + " master bench0 up",
		// The emulated igb with functions gives its own broadcasts back to itself: a bridge that learns from it would look for
		// the guest behind it.
		"link set " + card + " type bridge_slave learning off",
		"tuntap add benchv mode tap vnet_hdr", "link set benchv master bench0 up",
	} {
		if err := ip(s); err != nil {
			return nil, err
		}
	}
	undo = append(undo, func() { _ = sys("devices/"+vfCard+"/sriov_numvfs", "0") })
	err = errors.Join(sys("devices/"+vfCard+"/sriov_drivers_autoprobe", "0"), sys("devices/"+vfCard+"/sriov_numvfs", "1"),
		sys("devices/"+vfFunction+"/driver_override", "vfio-pci"), sys("drivers_probe", vfFunction), ip("link set "+card+" vf 0 mac "+vfMAC))
	return remove, err
}

// interfaceOf waits for the interface of a card.
func interfaceOf(address string) (string, error) {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if names, _ := filepath.Glob("/sys/bus/pci/devices/" + address + "/net/*"); len(names) == 1 {
			return filepath.Base(names[0]), nil
		}
	}
	return "", fmt.Errorf("card %s has no interface", address)
}

// writeKinds writes benchVF's results with the kinds below each other: medians of each engine.
func writeKinds(w io.Writer, results []ab.Result) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprint(t, "\ninterface\tengine")
	for _, m := range interfaceMeasures {
		fmt.Fprintf(t, "\t%s, %s", m.Name, m.Unit)
	}
	fmt.Fprintln(t)
	for i, k := range interfaceKinds {
		of := results[i*len(interfaceMeasures) : (i+1)*len(interfaceMeasures)]
		for _, side := range []struct {
			name   string
			values func(ab.Result) []float64
		}{{"ours", func(r ab.Result) []float64 { return r.Ours }}, {"peer", func(r ab.Result) []float64 { return r.Peer }}} {
			if len(side.values(of[0])) == 0 {
				continue
			}
			fmt.Fprintf(t, "%s\t%s", k.name, side.name)
			for _, r := range of {
				fmt.Fprintf(t, "\t%.4g", ab.Median(side.values(r)))
			}
			fmt.Fprintln(t)
		}
	}
	return t.Flush()
}
