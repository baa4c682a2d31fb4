package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestNodedevCommands(t *testing.T) {
	b := newBed(t)
	for _, c := range []struct {
		line   string
		status int
		prints string
	}{
		{"nodedev list", 0, `^block_nvme0n1_.*\n(.*\n)*usb_usb1\n$`},
		{"nodedev list --cap drm,system", 0, `^computer\ndrm_card0\ndrm_renderD128\n$`},
		{"nodedev list --cap drm --cap fc_host", 0, `^drm_card0\ndrm_renderD128\nscsi_host2\n$`},
		{"nodedev list --cap mdev,mdev_types", 0, `^mdev_83b8f4f2_509f_382f_3c1e_e6bfe0fa1001_0000_00_07_0\npci_0000_00_07_0\n$`},
		{"nodedev list --cap ccw", 1, `^error: invalid capability type 'ccw'`},
		{"nodedev list --tree", 0, `(?m)^computer\n(  .*\n)*  pci_0000_00_02_0\n    drm_card0\n    drm_renderD128\n    pci_0000_01_00_0\n      net_enp1s0_52_54_00_aa_00_01\n    pci_0000_01_10_0\n`},
		{"nodedev list --tree --cap pci", 1, `incompatible`},
		{"nodedev dumpxml pci_0000_01_10_2", 0, `(?s)^<device>.*<capability type='phys_function'>`},
		{"nodedev dumpxml nothing", 1, `^error: could not find matching device 'nothing': Node device not found: no node device with matching name 'nothing'`},
		{"nodedev dumpxml", 1, `^error: command 'nodedev dumpxml' requires <device>`},
		{"nodedev info scsi_host2", 0, `^Name: +scsi_host2\nParent: +computer\nCapabilities: +scsi_host, fc_host, vports\nActive: +yes\nPersistent: +no\nAutostart: +no\n$`},
		{"nodedev info computer", 0, `(?s)Persistent: +yes`},
		{"nodedev nonsense", 1, `^error: unknown command: 'nodedev nonsense'`},
		{"nodedev dumpxml --generate-bash-completion", 0, `(?m)^pci_0000_01_00_0$`},
	} {
		stdout, stderr, status := b.run("", strings.Fields(c.line)...)
		got := stdout
		if c.status != 0 {
			got = stderr
		}
		if status != c.status || !regexp.MustCompile(c.prints).MatchString(got) {
			t.Errorf("vctl %s: status %d, want %d and %q\nstdout: %s\nstderr: %s", c.line, status, c.status, c.prints, stdout, stderr)
		}
	}
}

func TestNodedevJSON(t *testing.T) {
	b := newBed(t)
	var list []listedDevice
	out, errs, status := b.run("", "-o", "json", "nodedev", "list", "--cap", "net")
	if err := json.Unmarshal([]byte(out), &list); err != nil || status != 0 {
		t.Fatalf("%d %v\n%s%s", status, err, out, errs)
	}
	i := slices.IndexFunc(list, func(d listedDevice) bool { return d.Name == "net_enp1s0_52_54_00_aa_00_01" })
	if i < 0 || list[i].Parent != "pci_0000_01_00_0" || !slices.Equal(list[i].Capabilities, []string{"net"}) {
		t.Errorf("%+v", list)
	}
	var info deviceInfo
	out, _, _ = b.run("", "-o", "json", "nodedev", "info", "computer")
	if err := json.Unmarshal([]byte(out), &info); err != nil || info.Name != "computer" || !info.Active || !info.Autostart || info.Parent != "" {
		t.Errorf("%v %+v", err, info)
	}
	var dump map[string]string
	out, _, _ = b.run("", "-o", "json", "nodedev", "dumpxml", "computer")
	if err := json.Unmarshal([]byte(out), &dump); err != nil || !strings.HasPrefix(dump["xml"], "<device>") {
		t.Errorf("%v %+v", err, dump)
	}
}

const (
	mdevXML = "<device><parent>pci_0000_00_07_0</parent><capability type='mdev'><type id='exvgpu-1'/><uuid>5e8c1a52-1b4f-4c8e-9d5f-000000000001</uuid></capability></device>"
	mdev    = "mdev_5e8c1a52_1b4f_4c8e_9d5f_000000000001_0000_00_07_0"
)

// TestNodedevMediated: the life of a mediated device.
func TestNodedevMediated(t *testing.T) {
	b := newBed(t)
	file := filepath.Join(b.dir, "mdev.xml")
	if err := os.WriteFile(file, []byte(mdevXML), 0o600); err != nil {
		t.Fatal(err)
	}
	b.day([]line{
		{"nodedev create " + file, 0, `^Node device '` + mdev + `' created from '` + file + `'\n$`},
		{"nodedev create " + file, 1, `^error: failed to create node device from '.*': internal error: Unable to start mediated device: there is a device with the uuid`},
		{"nodedev create", 1, `^error: command 'nodedev create' requires <file>`},
		{"nodedev create /nonexistent", 1, `/nonexistent`},
		{"nodedev dumpxml --inactive " + mdev, 1, `is not persistent`},
		{"nodedev list --cap mdev --transient", 0, `(?m)^` + mdev + `$`},
		{"nodedev destroy " + mdev, 0, `^Node device '` + mdev + `' destroyed\n$`},
		{"nodedev define " + file, 0, `^Node device '` + mdev + `' defined from`},
		{"nodedev list --cap mdev", 0, `^mdev_83b8f4f2_[^\n]*\n$`},
		{"nodedev list --inactive", 0, `^` + mdev + `\n$`},
		{"nodedev list --all --cap mdev", 0, `^` + mdev + `\nmdev_83b8f4f2`},
		{"nodedev list --persistent --all", 0, `^computer\n` + mdev + `\n$`},
		{"nodedev autostart " + mdev, 0, `changed`},
		{"nodedev info " + mdev, 0, `(?s)Active: +no\nPersistent: +yes\nAutostart: +yes\n$`},
		{"nodedev autostart --disable " + mdev, 0, `changed`},
		{"nodedev start " + mdev, 0, `^Node device '` + mdev + `' started\n$`},
		{"nodedev info " + mdev, 0, `(?s)Active: +yes\nPersistent: +yes\nAutostart: +no\n$`},
		{"nodedev undefine " + mdev, 0, `undefined`},
		{"nodedev undefine " + mdev, 1, `^error: failed to undefine node device '` + mdev + `': Requested operation is not valid: Node device '` + mdev + `' is not defined`},
		{"nodedev destroy " + mdev, 0, `destroyed`},
		{"nodedev start " + mdev, 1, `^error: could not find matching device`},
		{"nodedev destroy computer", 1, `^error: failed to destroy node device 'computer': unsupported configuration: Unsupported device type`},
	})
}

// TestNodedevEvent: what happens to devices is printed, for one of them or all.
func TestNodedevEvent(t *testing.T) {
	b := newBed(t)
	if _, stderr, status := b.run("", "nodedev", "event", "nosuch", "--timeout", "100ms"); status != 1 || !strings.Contains(stderr, "event loop timed out") {
		t.Errorf("no event: %d %s", status, stderr)
	}
	printed := make(chan string, 1)
	go func() {
		out, errs, status := b.run("", "nodedev", "event", "--count", "2", mdev)
		printed <- fmt.Sprint(status, " ", errs, out)
	}()
	const defined, undefined = "event 'lifecycle' for node device " + mdev + ": Defined\n", "event 'lifecycle' for node device " + mdev + ": Undefined\n"
	for {
		// until the watcher is there; not by vctl, two of which in a process share the flags of its library
		_, err := b.devices.Define(mdevXML, false)
		if err := errors.Join(err, b.devices.Undefine(mdev)); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-printed:
			if got != "0 "+defined+undefined && got != "0 "+undefined+defined {
				t.Errorf("printed %q", got)
			}
			return
		default:
		}
	}
}
