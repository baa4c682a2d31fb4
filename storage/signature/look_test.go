package signature

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func put(size int64, parts map[int64]string) []byte {
	b := make([]byte, size)
	for at, text := range parts {
		if at < 0 {
			at += size
		}
		copy(b[at:], text)
	}
	return b
}

func TestLook(t *testing.T) {
	const mib = 1 << 20
	partition := "\x80\x00\x00\x00\x83\x00\x00\x00\x00\x08\x00\x00\x00\x10\x00\x00"
	for _, c := range []struct {
		name string
		data []byte
		want string
		fs   string
	}{
		{"zeros", make([]byte, 4*mib), "", ""},
		{"nothing at all", nil, "", ""},
		{"less than a sector", []byte{0, 0}, "", ""},
		{"data", put(4*mib, map[int64]string{700_000: "x"}), "data of an unknown kind at byte 700000", ""},
		{"data at the end", put(4*mib, map[int64]string{-5: "x"}), "data of an unknown kind at byte 4194299", ""},
		{"xfs", put(4*mib, map[int64]string{0: "XFSB"}), "xfs", "xfs"},
		{"iso", put(4*mib, map[int64]string{32769: "CD001"}), "iso9660", "iso9660"},
		{"FAT", put(4*mib, map[int64]string{82: "FAT32   ", 510: "\x55\xaa"}), "vfat", "vfat"},
		{"LVM", put(4*mib, map[int64]string{512: "LABELONE"}), "LVM2_member", ""},
		{"LUKS", put(4*mib, map[int64]string{0: "LUKS\xba\xbe"}), "crypto_LUKS", ""},
		{"swap", put(4*mib, map[int64]string{4086: "SWAPSPACE2"}), "swap", ""},
		{"partitions", put(4*mib, map[int64]string{446: partition, 510: "\x55\xaa"}), "dos", ""},
		{"boot code only", put(4*mib, map[int64]string{0: "\xeb\x3c", 510: "\x55\xaa"}), "data of an unknown kind at byte 0", ""},
		{"GPT behind its guard", put(4*mib, map[int64]string{446: partition, 510: "\x55\xaa", 512: "EFI PART"}), "gpt", ""},
		{"GPT's copy", put(4*mib, map[int64]string{-512: "EFI PART"}), "gpt", ""},
		{"RAID 1.2", put(4*mib, map[int64]string{4096: "\xfc\x4e\x2b\xa9"}), "linux_raid_member", ""},
		{"RAID 0.90", put(4*mib, map[int64]string{4*mib - 65536: "\xfc\x4e\x2b\xa9"}), "linux_raid_member", ""},
		{"RAID 1.0", put(4*mib, map[int64]string{(4*mib/512 - 16) * 512: "\xfc\x4e\x2b\xa9"}), "linux_raid_member", ""},
		{"ZFS", put(4*mib, map[int64]string{132 << 10: "\x0c\xb1\xba\x00\x00\x00\x00\x00"}), "zfs_member", ""},
		{"two", put(4*mib, map[int64]string{0: "XFSB", 512: "LABELONE"}), "xfs, LVM2_member", ""},
		{"qcow2", put(4*mib, map[int64]string{0: "QFI\xfb"}), "qcow2", ""},
	} {
		r, err := Look(bytes.NewReader(c.data), int64(len(c.data)))
		if err != nil || r.String() != c.want || r.Empty() != (c.want == "") {
			t.Errorf("%s: %q (%v)", c.name, r, err)
		}
		if fs, ok := r.FileSystem(); fs != c.fs || ok != (c.fs != "") {
			t.Errorf("%s: the file system is %q", c.name, fs)
		}
	}
	if _, err := Look(bytes.NewReader(make([]byte, 100)), 4096); err == nil {
		t.Error("a device that is shorter than it says")
	}
}

// TestLookAtPeers: what the programs that make file systems make is called by its name.
func TestLookAtPeers(t *testing.T) {
	for _, c := range []struct {
		want    string
		program []string
	}{
		{"ext2", []string{"mkfs.ext2", "-q", "-F"}}, {"ext3", []string{"mkfs.ext3", "-q", "-F"}}, {"ext4", []string{"mkfs.ext4", "-q", "-F"}},
		{"vfat", []string{"mkfs.vfat"}}, {"swap", []string{"mkswap"}},
	} {
		if _, err := exec.LookPath(c.program[0]); err != nil {
			continue // TestLook has it; which of the programs a machine has is its own business
		}
		path := filepath.Join(t.TempDir(), "image")
		const size = 64 << 20
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(c.program[0], append(c.program[1:], path)...).CombinedOutput(); err != nil {
			t.Errorf("%v: %v\n%s", c.program, err, out)
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		r, err := Look(f, size)
		f.Close()
		if err != nil || r.String() != c.want {
			t.Errorf("%s: %q (%v)", c.want, r, err)
		}
	}
}

func FuzzLook(f *testing.F) {
	f.Add(put(5000, map[int64]string{0: "XFSB", 1080: "\x53\xef"}))
	f.Add(put(70000, map[int64]string{510: "\x55\xaa", -512: "EFI PART"}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Look(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err)
		}
		if zero := len(bytes.Trim(data, "\x00")) == 0; zero != r.Empty() && len(data) < End {
			t.Fatalf("%d bytes, zero: %v, %q", len(data), zero, r)
		}
		for _, s := range r.Found {
			if s.Offset < 0 || s.Offset >= int64(len(data)) {
				t.Fatalf("%+v in %d bytes", s, len(data))
			}
		}
		_, _ = r.FileSystem()
	})
}
