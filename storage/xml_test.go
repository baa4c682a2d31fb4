package storage

import (
	"cmp"
	"flag"
	"fmt"
	"math/bits"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"virtd/virterr"
)

var update = flag.Bool("update", false, "write goldens again")

func uintText(n uint64) string { return strconv.FormatUint(n, 10) }

// golden compares with a file, or writes it.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		ok(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	if err != nil || string(want) != got {
		t.Errorf("%s (go test ./storage -update, then read the diff): %v\n%s", path, err, got)
	}
}

// inputs are the documents of a directory as users write them.
func inputs(t testing.TB, kind string) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../xml/testdata/" + kind + "/*.xml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no documents of %s: %v", kind, err)
	}
	out := map[string]string{}
	for _, f := range files {
		if strings.HasSuffix(f, ".golden.xml") {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[strings.TrimSuffix(f, ".xml")] = string(text)
	}
	return out
}

func TestPoolGolden(t *testing.T) {
	for base, text := range inputs(t, "pool") {
		d, err := parsePool(text)
		if err != nil {
			golden(t, base+".err", errorText(err))
			continue
		}
		if !strings.Contains(text, "<uuid>") {
			d.uuid = [16]byte{0x11}
		}
		got := d.xml(poolSizes{capacity: 3 << 30, allocation: 1 << 30, available: 2 << 30}, d.perms)
		golden(t, base+".golden.xml", got)
		validate(t, "storagepool.rng", base+".golden.xml")
		again, err := parsePool(got)
		if err != nil || again.xml(poolSizes{capacity: 3 << 30, allocation: 1 << 30, available: 2 << 30}, again.perms) != got {
			t.Errorf("%s: what is printed does not come back: %v", base, err)
		}
	}
}

func errorText(err error) string {
	return fmt.Sprintf("%d: %s\n", virterr.As(err).Code, err)
}

// Volumes are printed as files of a fixed time and owner.
func TestVolumeGolden(t *testing.T) {
	for base, text := range inputs(t, "volume") {
		kind := kindDir
		if strings.Contains(base, "/logical-") {
			kind = kindLogical
		}
		r, err := parseVolume(kind, text, nil)
		if err != nil {
			golden(t, base+".err", errorText(err))
			continue
		}
		v := Volume{Name: r.name, Path: "/pool/" + r.name, Key: "/pool/" + r.name}
		im := image{format: r.format, capacity: r.capacity, allocation: r.allocation, physical: r.capacity}
		im.stat.Mode = syscall.S_IFREG | uint32(r.perms.mode)&0o7777
		if r.perms.mode < 0 {
			im.stat.Mode = syscall.S_IFREG | defaultVolumeMode
		}
		if r.format == formatQcow2 {
			im.qcow2 = &qcow2Header{version: uint32(r.qcow2.Version), clusterBits: 16}
			if r.qcow2.ClusterSize != 0 {
				im.qcow2.clusterBits = uint32(bits.TrailingZeros64(uint64(r.qcow2.ClusterSize)))
			}
			if r.qcow2.LazyRefcounts {
				im.qcow2.compatible = qcow2LazyRefcounts
			}
			if r.qcow2.ExtendedL2 {
				im.qcow2.incompatible = qcow2ExtendedL2
			}
			im.backing, im.backingType = r.backing, r.qcow2.BackingFormat
		}
		if kind == kindLogical {
			im.stat.Mode = im.stat.Mode&0o7777 | syscall.S_IFBLK
			im.backing = r.snapshotOf
			im.extents = []deviceExtents{{"/dev/sdb", [][2]uint64{{0, 4 << 20}, {8 << 20, 12 << 20}}}, {"/dev/sdc", [][2]uint64{{0, 4 << 20}}}}
			v.Path, v.Key = "/dev/vg/"+r.name, "A1b2C3-d4E5-f6G7-h8I9-j0K1-l2M3-n4O5p6"
		}
		im.stat.Mtim.Sec, im.stat.Mtim.Nsec = 1700000000, 5
		golden(t, base+".golden.xml", v.xml(im))
		validate(t, "storagevol.rng", base+".golden.xml")
		if _, err := parseVolume(kind, v.xml(im), nil); err != nil {
			t.Errorf("%s: what is printed cannot be created: %v", base, err)
		}
	}
	im := image{format: "qcow2", capacity: 1 << 40, allocation: 4096, physical: 4096, backing: "/pool/base & co.img", backingType: "raw",
		qcow2: &qcow2Header{version: 3, clusterBits: 16, compatible: qcow2LazyRefcounts}}
	im.stat.Mode = syscall.S_IFREG | 0o644
	path := "../xml/testdata/volume/qcow2-overlay.golden.xml"
	golden(t, path, Volume{Name: "o.qcow2", Path: "/pool/o.qcow2", Key: "/pool/o.qcow2"}.xml(im))
	validate(t, "storagevol.rng", path)
}

// validate checks a file against libvirt's schema: from VIRTD_SCHEMAS and XMLLINT, else from the lab's cache, where the lab
// has been built.
func validate(t *testing.T, schema, file string) {
	t.Helper()
	dir, lint := os.Getenv("VIRTD_SCHEMAS"), strings.Fields(cmp.Or(os.Getenv("XMLLINT"), "xmllint"))
	if dir == "" {
		home, _ := os.UserHomeDir()
		dir = cmp.Or(os.Getenv("LAB"), home+"/.cache/virtd-lab") + "/root/usr/share/libvirt/schemas"
		lint = []string{"../lab/lab.sh", "tool", "xmllint"}
	}
	if _, err := os.Stat(filepath.Join(dir, schema)); err != nil {
		return
	}
	args := append(lint[1:], "--noout", "--nonet", "--relaxng", filepath.Join(dir, schema), file)
	if out, err := exec.Command(lint[0], args...).CombinedOutput(); err != nil {
		t.Errorf("%s is not valid: %v\n%s", file, err, out)
	}
}

func TestCapabilitiesAreValid(t *testing.T) {
	file := filepath.Join(t.TempDir(), "caps.xml")
	ok(t, os.WriteFile(file, []byte(newBed(t).Capabilities()), 0o600))
	validate(t, "storagepoolcaps.rng", file)
}

func FuzzPoolXML(f *testing.F) {
	for _, text := range inputs(f, "pool") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parsePool(text)
		if err != nil {
			return
		}
		printed := d.xml(poolSizes{}, d.perms)
		again, err := parsePool(printed)
		if err != nil {
			t.Fatalf("cannot read what was printed: %v\n%s", err, printed)
		}
		if got := again.xml(poolSizes{}, again.perms); got != printed {
			t.Fatalf("not stable:\n%s\n%s", printed, got)
		}
		if !filepath.IsAbs(d.target) || filepath.Clean(d.target) != d.target || strings.Contains(d.name, "/") {
			t.Fatalf("name %q, target %q", d.name, d.target)
		}
	})
}

func FuzzVolumeXML(f *testing.F) {
	for _, text := range inputs(f, "volume") {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, kind := range []string{kindDir, kindLogical} {
			r, err := parseVolume(kind, text, nil)
			if err != nil {
				continue
			}
			fuzzRequest(t, r)
		}
	})
}

func fuzzRequest(t *testing.T, r request) {
	if filepath.Join("/pool", r.name) != "/pool/"+r.name || filepath.Dir("/pool/"+r.name) != "/pool" || r.allocation > r.capacity {
		t.Fatalf("%+v", r)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(qcow2Bytes(3, 1<<40, "base.img", "raw"))
	f.Add(qcow2Bytes(2, 7, "/abs", ""))
	f.Add([]byte{})
	path := filepath.Join(f.TempDir(), "image")
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		im, err := inspect(path)
		if err != nil {
			t.Fatal(err)
		}
		_ = Volume{Name: "image", Path: path}.xml(im)
	})
}
