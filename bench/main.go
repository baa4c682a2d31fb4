package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"virtd/bench/ab"
)

// host is what the benchmarks run with.
type host struct {
	rounds int
	images string // the lab's folder of guest images
	vmm    string // our engine, in memory, where a program starts fast
	onDisk string // our engine in a file system whose pages are clean once read, as installed programs are
	qemu   string // the peer of the engine
	load   string // bench/load
	dir    string // scratch, in memory

	virtd    string // our daemon
	libvirtd string // a tree with the peer of the daemon
	out      string // results, and scratch on disk
}

// A benchmark measures us and a peer and returns its results; it leaves nothing running.
type benchmark struct {
	name string
	run  func(host) ([]ab.Result, error)
	peer func(host) string                  // what the peer calls itself
	more func(io.Writer, []ab.Result) error // another look at the results, or nil
}

var benchmarks = []benchmark{
	engines("start", benchStart),
	engines("memory", benchMemory),
	engines("idle", benchIdle),
	engines("disk", benchDisk),
	engines("start-variants", benchStartVariants),
	engines("net-qemu-1q", netHost{"qemu", 1}.run),
	engines("net-qemu-4q", netHost{"qemu", 4}.run),
	engines("net-vhost-1q", netHost{driverVhost, 1}.run),
	engines("net-vhost-4q", netHost{driverVhost, 4}.run),
	engines("net-guests-qemu-1q", netGuests{"qemu", 1}.run),
	engines("net-guests-qemu-4q", netGuests{"qemu", 4}.run),
	engines("net-guests-vhost-1q", netGuests{driverVhost, 1}.run),
	engines("net-guests-vhost-4q", netGuests{driverVhost, 4}.run),
	engines("net-udp-loss", benchUDPLoss),
	withKinds(engines("vf", benchVF)),
	{name: "libvirtd", run: benchLibvirtd, peer: func(h host) string { return firstLine("chroot", h.libvirtd, "libvirtd", "--version") }},
}

// engines is a benchmark of our engine and QEMU.
func engines(name string, run func(host) ([]ab.Result, error)) benchmark {
	return benchmark{
		name: name,
		run: func(h host) (r []ab.Result, err error) {
			if h.onDisk, err = filepath.Abs(h.vmm); err != nil {
				return nil, err
			}
			if h.vmm, err = h.copyIn(h.vmm); err != nil {
				return nil, err
			}
			return run(h)
		},
		peer: func(h host) string { return firstLine(h.qemu, "--version") + " q35" },
	}
}

// withKinds adds the table of the kinds of interface.
func withKinds(b benchmark) benchmark {
	b.more = writeKinds
	return b
}

func main() {
	h := host{}
	flag.IntVar(&h.rounds, "n", 7, "rounds: samples of each side")
	flag.StringVar(&h.images, "images", "/opt/lab/guest", "folder of guest images")
	flag.StringVar(&h.vmm, "vmm", "bin/virtd-vmm", "our engine")
	flag.StringVar(&h.qemu, "peer", "qemu-system-x86_64", "QEMU")
	flag.StringVar(&h.load, "load", "bin/load", "bench/load")
	flag.StringVar(&h.virtd, "virtd", "bin/virtd", "our daemon")
	flag.StringVar(&h.libvirtd, "libvirtd", "", "tree with the peer's daemon, as lab/lab.sh libvirtd makes it")
	flag.StringVar(&h.out, "o", ".", "folder for the results, one NAME.json each")
	flag.Parse()
	missed, err := run(h, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if missed > 0 {
		fmt.Fprintf(os.Stderr, "bench: %d bounds missed\n", missed)
		os.Exit(1)
	}
}

func run(h host, names []string) (missed int, err error) {
	if h.out, err = filepath.Abs(h.out); err != nil {
		return 0, err
	}
	if h.dir, err = os.MkdirTemp("/tmp", "bench"); err != nil {
		return 0, err
	}
	defer os.RemoveAll(h.dir)
	for _, b := range benchmarks {
		if len(names) > 0 && !contains(names, b.name) {
			continue
		}
		results, failed := b.run(h)
		if len(results) > 0 { // those of the rounds before a guest died are not thrown away
			n, err := report(h, b, results)
			if err = errors.Join(failed, err); err != nil {
				return missed, fmt.Errorf("%s: %w", b.name, err)
			}
			missed += n
		} else if failed != nil {
			return missed, fmt.Errorf("%s: %w", b.name, failed)
		}
	}
	return missed, nil
}

// report saves and prints what a benchmark found, and returns how many bounds were missed.
func report(h host, b benchmark, results []ab.Result) (missed int, err error) {
	r := ab.Report{Machine: machine(), Revision: os.Getenv("BENCH_REVISION"), Date: time.Now().UTC().Format(time.RFC3339),
		Peer: b.peer(h), Results: results}
	if err := save(filepath.Join(h.out, b.name+".json"), r); err != nil {
		return 0, err
	}
	if err := r.WriteTable(os.Stdout); err != nil {
		return 0, err
	}
	if b.more != nil {
		if err := b.more(os.Stdout, results); err != nil {
			return 0, err
		}
	}
	fmt.Println()
	return r.Missed(), nil
}

func save(name string, r ab.Report) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if err := r.WriteJSON(f); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

// copyIn copies a file into the scratch folder and returns its path there.
func (h host) copyIn(name string) (string, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return "", err
	}
	p := filepath.Join(h.dir, filepath.Base(name))
	return p, os.WriteFile(p, data, 0o755)
}

// machine says what the numbers come from: BENCH_MACHINE, the CPU and the kernel.
func machine() string {
	cpu := "unknown CPU"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for l := range strings.Lines(string(b)) {
			if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
				cpu = strings.TrimSpace(v)
				break
			}
		}
	}
	return strings.TrimSpace(os.Getenv("BENCH_MACHINE") + " " + cpu + ", Linux " + firstLine("uname", "-r"))
}

func firstLine(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return err.Error()
	}
	l, _, _ := strings.Cut(string(out), "\n")
	return l
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
