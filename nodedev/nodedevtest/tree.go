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
//	vpd hex 820100 4178                 a file with these bytes
//	pci PATH 8086:10fb 020000 ixgbe 12  @ PATH, and in it what each PCI function has: numbers, class, driver and IOMMU group,
//	                                    which are - where it has none. What is said later counts.
//	repeat 63 0180 2                    the lines up to "end" 63 times: {i} is the number from 0 on, {at} the bus, device and
//	                                    function of the routing id 0x0180, in steps of 2
//
// A link called subsystem also puts the device into the folder of its bus or class, as the kernel does. A link may lead to
// what is not there, with "->?".
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
	lines, err := expand(strings.Split(description, "\n"))
	if err != nil {
		return err
	}
	dev := ""
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, _ := strings.Cut(line, " ")
		var err error
		target, isLink := strings.CutPrefix(value, "-> ")
		dangling, isDangling := strings.CutPrefix(value, "->? ")
		bytes, isHex := strings.CutPrefix(value, "hex ")
		switch {
		case name == "pci":
			dev, err = function(root, value)
		case isDangling:
			if err = os.MkdirAll(filepath.Join(root, dev, path.Dir(name)), 0o755); err == nil {
				err = os.Symlink(dangling, filepath.Join(root, dev, name))
			}
		case isHex:
			var data []byte
			if data, err = hex.DecodeString(strings.ReplaceAll(bytes, " ", "")); err == nil {
				err = write(root, path.Join(dev, name), data)
			}
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
			return fmt.Errorf("line %d, %s: %w", i+1, line, err)
		}
	}
	return nil
}

// expand puts what is repeated in its place.
func expand(lines []string) ([]string, error) {
	var out []string
	for i := 0; i < len(lines); i++ {
		words := strings.Fields(lines[i])
		if len(words) == 0 || words[0] != "repeat" {
			out = append(out, lines[i])
			continue
		}
		var count, id, step int
		if _, err := fmt.Sscanf(lines[i], "repeat %d %x %d", &count, &id, &step); err != nil {
			return nil, fmt.Errorf("%s: %w", lines[i], err)
		}
		begin := i + 1
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "end"; i++ {
		}
		for n := range count {
			rid := id + n*step
			at := strings.NewReplacer("{i}", strconv.Itoa(n), "{at}", fmt.Sprintf("%02x:%02x.%x", rid>>8, rid>>3&0x1f, rid&7))
			for _, l := range lines[begin:min(i, len(lines))] {
				out = append(out, at.Replace(l))
			}
		}
	}
	return out, nil
}

// function makes the folder of a PCI function.
func function(root, value string) (string, error) {
	var at, ids, class, driver, group string
	if _, err := fmt.Sscan(value, &at, &ids, &class, &driver, &group); err != nil {
		return "", err
	}
	vendor, device, _ := strings.Cut(ids, ":")
	properties := fmt.Sprintf("PCI_CLASS=%s|PCI_ID=%s|PCI_SLOT_NAME=%s", strings.TrimLeft(class, "0"), strings.ToUpper(ids), path.Base(at))
	text := fmt.Sprintf("@ %s\nsubsystem -> bus/pci\nvendor 0x%s\ndevice 0x%s\nclass 0x%s\nnuma_node -1\nconfig 0e=00\nreset 0\n", at, vendor, device, class)
	if driver != "-" {
		properties = "DRIVER=" + driver + "|" + properties
		text += "driver -> bus/pci/drivers/" + driver + "\n"
	}
	text += "uevent " + properties + "\n"
	if group != "-" {
		text += fmt.Sprintf("iommu_group -> kernel/iommu_groups/%s\n@ kernel/iommu_groups/%s\ndevices/%s -> %s\n", group, group, path.Base(at), at)
	}
	return at, build(root, text)
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
