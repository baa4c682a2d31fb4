package nodedev

import (
	"errors"
	"io"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
)

// maxAttr bounds what is read of one file in sysfs or of udev's database: both are small, and neither is ours.
const maxAttr = 64 << 10

// sysfs reads the tree below root. Paths are relative to it, with links resolved ("devices/pci0000:00/0000:00:01.0").
type sysfs struct {
	root string
	udev string // udevd's database (/run/udev/data), or ""
	vpds *vpdCache
}

// openSysfs returns a reader of the tree at root.
func openSysfs(root, udev string) (*sysfs, error) {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	return &sysfs{root: real, udev: udev, vpds: &vpdCache{known: map[string]vpdKnown{}}}, nil
}

// bytes returns the first part of a file, at most limit bytes.
func (s *sysfs) bytes(limit int64, elem ...string) ([]byte, error) {
	f, err := os.Open(filepath.Join(append([]string{s.root}, elem...)...))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// attr returns an attribute without the white space around it; "" when it is missing, unreadable or empty, as many are on
// one device and not on the next.
func (s *sysfs) attr(dev, name string) string {
	b, err := s.bytes(maxAttr, dev, name)
	if err != nil {
		return ""
	}
	return clean(string(b))
}

// number returns an attribute that is a number in the base given (0: as written), if it is one.
func (s *sysfs) number(dev, name string, base int) (uint64, bool) {
	return parseNumber(s.attr(dev, name), base)
}

func parseNumber(text string, base int) (uint64, bool) {
	if base == 16 {
		text = strings.TrimPrefix(text, "0x")
	}
	n, err := strconv.ParseUint(text, base, 64)
	return n, err == nil
}

// link returns the last part of where a link leads, or "".
func (s *sysfs) link(dev, name string) string {
	to, err := os.Readlink(filepath.Join(s.root, dev, name))
	if err != nil {
		return ""
	}
	return path.Base(to)
}

// exists reports whether a device has a file.
func (s *sysfs) exists(dev, name string) bool {
	_, err := os.Lstat(filepath.Join(s.root, dev, name))
	return err == nil
}

// resolve follows links and returns the path of the device itself.
func (s *sysfs) resolve(name string) (string, error) {
	real, err := filepath.EvalSymlinks(filepath.Join(s.root, name))
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(s.root, real)
	if err == nil && !filepath.IsLocal(rel) {
		err = errors.New("it leads out of sysfs")
	}
	return rel, err
}

// list returns the names in a directory, sorted; none when it does not exist.
func (s *sysfs) list(dir string) []string {
	entries, err := os.ReadDir(filepath.Join(s.root, dir))
	if err != nil {
		return nil
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names
}

// properties are what the kernel tells of a device in its uevent file, and what udevd has found out beyond that.
func (s *sysfs) properties(dev string) map[string]string {
	props := map[string]string{}
	b, err := s.bytes(maxAttr, dev, "uevent")
	if err != nil {
		return props
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\n"), "="); ok {
			props[key] = value
		}
	}
	return props
}

// database adds udevd's knowledge of a device to its properties and returns the links in /dev that lead to it.
func (s *sysfs) database(id string, props map[string]string) (links []string) {
	if s.udev == "" {
		return nil
	}
	f, err := os.Open(filepath.Join(s.udev, id))
	if err != nil {
		return nil // udevd does not run, or has nothing to say
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxAttr))
	if err != nil {
		return nil
	}
	return parseDatabase(string(b), props)
}

// parseDatabase reads an entry of udevd's database: E: lines are properties, S: lines links below /dev.
func parseDatabase(text string, props map[string]string) (links []string) {
	for line := range strings.Lines(text) {
		kind, value, _ := strings.Cut(strings.TrimRight(line, "\n"), ":")
		switch kind {
		case "E":
			if key, v, ok := strings.Cut(value, "="); ok {
				props[key] = clean(v)
			}
		case "S":
			links = append(links, "/dev/"+clean(value))
		}
	}
	return links
}

// clean trims white space and drops what XML cannot carry: vendors write anything into these fields.
func clean(s string) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffe || r == 0xffff {
			return -1
		}
		return r
	}, s)
	return strings.TrimSpace(s)
}
