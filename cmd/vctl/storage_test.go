package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"virtd/storage"
	"virtd/storage/storagetest"
)

// TestStorageCommands is one day of a pool, as TestCommands is one of a domain.
func TestStorageCommands(t *testing.T) {
	b := newBed(t)
	dir, file := filepath.Join(b.dir, "vms"), filepath.Join(b.dir, "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	xml := filepath.Join(b.dir, "pool.xml")
	if err := os.WriteFile(xml, []byte("<pool type='dir'><name>other</name><target><path>"+b.dir+"/other</path></target></pool>"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line   string
		status int
		prints string
	}{
		{"pool list --all", 0, `^ Name   Type   State   Autostart\n-+\n$`},
		{"pool create vms " + dir, 0, `^Pool 'vms' created in `},
		{"pool create vms " + dir + "/x", 1, `^error: failed to define pool 'vms': .*pool 'vms' already exists with uuid`},
		{"pool create vms", 1, `requires <directory>`},
		{"pool list", 0, `\n vms    dir    active   yes\n$`},
		{"pool info vms", 0, `Name: +vms\n.*\nType: +dir\n(.*\n)*Available: +[\d.]+ .iB\n$`},
		{"pool info nobody", 1, `failed to get pool 'nobody': .*no storage pool with matching name`},
		{"pool dumpxml vms", 0, `<mode>0711</mode>`},
		{"pool dumpxml vms --inactive", 0, `<pool type='dir'>`},
		{"pool define " + xml, 0, `Pool 'other' defined from`},
		{"pool start other", 1, `failed to start pool 'other': .*cannot open directory`},
		{"pool start other --build", 0, `started`},
		{"pool autostart other", 0, `changed`},
		{"pool autostart other --disable", 0, `changed`},
		{"pool refresh other", 0, `refreshed`},
		{"pool nonsense", 1, `^error: unknown command: 'pool nonsense'; vctl pool --help`},
		{"pool", 0, `list pools`},
		{"vol list", 1, `failed to get pool 'default'`},
		{"vol create a.img 1MiB -p vms", 0, `^Volume 'a.img' created in pool 'vms'\n$`},
		{"vol create a.img 1MiB -p vms", 1, `storage volume 'a.img' exists already`},
		{"vol create b.img 1000 -p vms", 1, `has no unit`},
		{"vol create b<c>.img 1MiB --allocate -p vms", 0, `created`},
		{"vol list -p vms", 0, `(?s) a.img +1.00 MiB +0 B .*b<c>.img`},
		{"vol info a.img --pool vms", 0, `Capacity: +1.00 MiB`},
		{"vol info " + dir + "/nothing", 1, `no storage vol with matching path`},
		{"vol upload a.img " + file + " --offset 100 -p vms", 0, `written`},
		{"vol download " + dir + "/a.img - --offset 102 --length 3", 0, `^234$`},
		{"vol download a.img " + b.dir + "/out -p vms --offset 100 --length 10", 0, `saved in`},
		{"vol download a.img " + b.dir + "/out -p vms", 1, `file exists`},
		{"vol resize a.img 2MiB -p vms", 0, `has 2.00 MiB`},
		{"vol resize a.img 1MiB -p vms", 1, `shrink`},
		{"vol resize a.img 1MiB --shrink -p vms", 0, `has 1.00 MiB`},
		{"vol dumpxml a.img -p vms", 0, `<format type='raw'/>`},
		{"vol create base.qcow2 2MiB -p vms --format qcow2", 0, `created`},
		{"vol create top.qcow2 -p vms --format qcow2 --backing base.qcow2 --backing-format qcow2", 0, `created`},
		{"vol create t2.qcow2 -p vms --format qcow2 --backing base.qcow2", 1, `--backing needs --backing-format`},
		{"vol create t2.qcow2 -p vms --format qed 1MiB", 1, `creating volumes of format 'qed' is not supported`},
		{"vol dumpxml top.qcow2 -p vms", 0, `<capacity unit='bytes'>2097152</capacity>`},
		{"vol clone top.qcow2 flat.img -p vms", 0, `Volume 'flat.img' created in pool 'vms'`},
		{"vol clone flat.img again.qcow2 -p vms --format qcow2", 0, `created`},
		{"vol resize again.qcow2 4MiB -p vms", 0, `.`},
		{"vol info again.qcow2 -p vms", 0, `4.00 MiB`},
		{"vol clone flat.img -p vms", 1, `requires <name>`},
		{"vol delete a.img -p vms", 0, `deleted`},
		{"vol delete a.img -p vms", 1, `failed to get volume 'a.img'`},
		{"pool undefine vms", 1, `still active`},
		{"pool destroy vms", 0, `destroyed`},
		{"pool undefine vms", 0, `undefined`},
		{"pool list --inactive", 0, `-\n$`},
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
	if got, err := os.ReadFile(b.dir + "/out"); err != nil || string(got) != "0123456789" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := os.Stat(dir + "/b<c>.img"); err != nil {
		t.Errorf("undefining a pool took its files: %v", err)
	}
}

// TestStorageKinds: pools of the types fs and logical.
func TestStorageKinds(t *testing.T) {
	b := newBed(t)
	dir := filepath.Join(b.dir, "disk")
	for _, c := range []struct {
		line   string
		status int
		prints string
	}{
		{"pool create --type fs --device /dev/sdb disk " + dir, 1, `pool 'disk' is defined, but cannot be started: .*has no filesystem that is known`},
		{"pool undefine disk", 0, `undefined`},
		{"pool create --type fs --device /dev/sdb --format ext4 --no-overwrite disk " + dir, 0, `^Pool 'disk' created in `},
		{"vol create a.img 1MiB -p disk", 0, `created`},
		{"pool destroy disk", 0, `destroyed`},
		{"pool build --no-overwrite disk", 1, `failed to build pool 'disk': .*is not empty: it carries ext4; build with --overwrite`},
		{"pool build --overwrite disk", 0, `Pool 'disk' built`},
		{"pool start disk", 0, `started`},
		{"pool create --type logical --device /dev/sdc vg", 1, `cannot find logical volume group name 'vg'`},
		{"pool start --build vg", 0, `started`},
		{"pool info vg", 0, `Type: +logical`},
		{"pool sources", 0, `\n vg +/dev/sdc\n`},
		{"vol create root 8MiB -p vg", 0, `created`},
		{"vol info root -p vg", 0, `Allocation: +8.00 MiB`},
		{"vol clone root copy -p vg", 0, `created`},
		{"vol dumpxml copy -p vg", 0, `<volume type='block'>`},
		{"vol resize copy 12MiB -p vg", 0, `12.00 MiB`},
		{"pool destroy vg", 0, `destroyed`},
		{"pool delete vg", 1, `has 2 volumes: delete them first`},
		{"pool create --type logical --group other --no-overwrite --device /dev/sdd o", 0, `^Pool 'o' created\n`},
		{"pool create --type logical --format ext4 o", 1, `takes no --format`},
		{"pool create --type fs o " + dir, 1, `takes one --device`},
		{"pool create --type nfs o " + dir, 1, `unknown type of pool`},
		{"pool create --device /dev/sdb o " + dir, 1, `for pools of other types`},
		{"pool create --type logical o " + dir, 1, `of type logical takes none`},
		{"pool create --type logical --overwrite --no-overwrite o", 1, `exclude each other`},
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
	out, stderr, _ := b.run("", "-o", "json", "pool", "sources")
	var groups []volumeGroup
	if err := json.Unmarshal([]byte(out), &groups); err != nil || len(groups) != 2 {
		t.Errorf("%v %+v %s", err, groups, stderr)
	}
}

// storageHost is a host with three empty block devices.
func (b *bed) storageHost() storage.Host {
	b.t.Helper()
	h := storagetest.New(filepath.Join(b.dir, "storage-host"))
	for _, name := range []string{"sdb", "sdc", "sdd"} {
		if _, err := h.Device(name, 64<<20); err != nil {
			b.t.Fatal(err)
		}
	}
	return h
}

func TestStorageJSON(t *testing.T) {
	b := newBed(t)
	b.run("", "pool", "create", "default", filepath.Join(b.dir, "images"))
	b.run("", "vol", "create", "v", "3MiB")
	out, stderr, _ := b.run("", "-o", "json", "pool", "list")
	var pools []poolDescription
	if err := json.Unmarshal([]byte(out), &pools); err != nil || len(pools) != 1 || pools[0].State != "active" || pools[0].Capacity == 0 {
		t.Errorf("%v %+v %s", err, pools, stderr)
	}
	out, stderr, _ = b.run("", "-o", "json", "vol", "info", "v")
	var vol volumeDescription
	if err := json.Unmarshal([]byte(out), &vol); err != nil || vol.Capacity != 3<<20 || vol.Path != filepath.Join(b.dir, "images/v") {
		t.Errorf("%v %+v %s", err, vol, stderr)
	}
}
