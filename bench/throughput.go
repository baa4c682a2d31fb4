package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"

	"virtd/bench/ab"
)

// throughputGuest boots with the lab's disk of tools, whose shell and programs it uses.
func (h host) throughputGuest() guest {
	return guest{kernel: filepath.Join(h.images, "6.1/vmlinux"), initrd: filepath.Join(h.images, "6.1/initrd"), memory: 192, huge: true,
		disks: []disk{{path: filepath.Join(h.images, "tools.img"), serial: "labtools", readOnly: true}}}
}

// pair boots the guest on both engines; the rounds then ask one after the other, while the other idles.
func (h host) pair(ours, peer guest) (a, b *engine, err error) {
	if a, err = atShell(h.start, ours); err != nil {
		return nil, nil, fmt.Errorf("ours: %w", err)
	}
	if b, err = atShell(h.startPeer, peer); err != nil {
		a.kill()
		return nil, nil, fmt.Errorf("peer: %w", err)
	}
	return a, b, nil
}

// benchDisk measures random 4 KiB reads and writes through virtio-blk, on raw images in memory, so that only the
// engines differ.
func benchDisk(h host) ([]ab.Result, error) {
	guests := [2]guest{}
	for i := range guests {
		g := h.throughputGuest()
		image := filepath.Join(h.dir, fmt.Sprintf("data%d.img", i))
		if err := os.WriteFile(image, make([]byte, 64<<20), 0o600); err != nil {
			return nil, err
		}
		defer os.Remove(image)
		g.disks = append(g.disks, disk{path: image, serial: "data"})
		guests[i] = g
	}
	a, b, err := h.pair(guests[0], guests[1])
	if err != nil {
		return nil, err
	}
	defer a.kill()
	defer b.kill()
	jobs := []struct {
		rw    string
		depth int
	}{{"randread", 1}, {"randread", 16}, {"randwrite", 1}, {"randwrite", 16}}
	var measures []ab.Measure
	for _, j := range jobs {
		measures = append(measures, ab.Measure{Name: fmt.Sprintf("disk: 4 KiB %s, queue depth %d", j.rw, j.depth),
			Unit: "IOPS", Better: ab.Higher, RatioBound: 1})
	}
	sampler := func(e *engine) ab.Sampler {
		return func() ([]float64, error) {
			var out []float64
			for _, j := range jobs {
				v, err := fio(e, j.rw, j.depth)
				if err != nil {
					return nil, err
				}
				out = append(out, v)
			}
			return out, nil
		}
	}
	return ab.Compare(h.rounds, measures, sampler(a), sampler(b))
}

// fio runs one job on the data disk of the guest and returns its IOPS. The guest picks the lines out: see iperf.
func fio(e *engine, rw string, depth int) (float64, error) {
	out, err := e.command(fmt.Sprintf("fio --name=j --filename=/dev/vdb --rw=%s --bs=4k --direct=1 --ioengine=libaio --iodepth=%d "+
		"--time_based --ramp_time=1 --runtime=4 --randrepeat=0 --norandommap --output-format=json --output=/tmp/report && "+
		"grep -m 2 '\"iops\" :' /tmp/report", rw, depth))
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for _, m := range iops.FindAllStringSubmatch(out, -1) { // of reads, of writes
		v, err := strconv.ParseFloat(m[1], 64)
		if err != nil {
			return 0, fmt.Errorf("%w in %q", err, out)
		}
		sum += v
	}
	if sum == 0 {
		return 0, fmt.Errorf("fio reports no work: %s", out)
	}
	return sum, nil
}

var iops = regexp.MustCompile(`"iops" :\s*([0-9.e+]+)`)
