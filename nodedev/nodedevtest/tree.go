package nodedevtest

import (
	"encoding/hex"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Build makes a copy of /sys in dir from a description:
//
//	@ devices/pci0000:00/0000:00:01.0   what follows is in this folder
//	vendor 0x8086                       a file; | stands for a new line
//	driver -> bus/pci/drivers/igb       a link to a path below the root
//	config 06=10 34=40 40=1000          256 bytes, zero but for some, at offsets; all hexadecimal
//
// A link called subsystem also puts the device into the folder of its bus or class, as the kernel does.
func Build(t testing.TB, dir, description string) {
	t.Helper()
	if err := build(dir, description); err != nil {
		t.Fatalf("making a sysfs tree: %v", err)
	}
}

// Load is Build from a file, in a folder that goes with the test, which it returns.
func Load(t testing.TB, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	Build(t, dir, string(text))
	return dir
}

func build(root, description string) error {
	dev := ""
	for i, line := range strings.Split(description, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		var err error
		target, isLink := strings.CutPrefix(value, "-> ")
		switch {
		case name == "@":
			dev = value
			err = os.MkdirAll(filepath.Join(root, dev), 0o755)
		case isLink:
			err = link(root, path.Join(dev, name), target)
			if name == "subsystem" && err == nil {
				place := target
				if strings.HasPrefix(target, "bus/") {
					place += "/devices"
				}
				err = link(root, path.Join(place, path.Base(dev)), dev)
			}
		case name == "config":
			var data []byte
			if data, err = config(value); err == nil {
				err = write(root, path.Join(dev, name), data)
			}
		default:
			err = write(root, path.Join(dev, name), []byte(strings.ReplaceAll(value, "|", "\n")+"\n"))
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return nil
}

func write(root, name string, data []byte) error {
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// link makes a relative link, as sysfs has them. What it leads to may come later.
func link(root, name, target string) error {
	file := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, target), 0o755); err != nil {
		return err
	}
	to, err := filepath.Rel(path.Dir(name), target)
	if err != nil {
		return err
	}
	return os.Symlink(to, file)
}

func config(patches string) ([]byte, error) {
	data := make([]byte, 256)
	for _, p := range strings.Fields(patches) {
		offset, bytes, _ := strings.Cut(p, "=")
		at, err := strconv.ParseUint(offset, 16, 8)
		if err != nil {
			return nil, err
		}
		b, err := hex.DecodeString(bytes)
		if err != nil {
			return nil, err
		}
		copy(data[at:], b)
	}
	return data, nil
}
