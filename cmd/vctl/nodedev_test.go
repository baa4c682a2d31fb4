package main

import (
	"encoding/json"
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
		{"nodedev list --cap mdev", 1, `^error: invalid capability type 'mdev'`},
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
