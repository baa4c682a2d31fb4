package kvm

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/domain"
	"virtd/driver/kvm/imagelock"
	"virtd/hypervisor"
	"virtd/hypervisor/block/qcow2"
)

// overlay makes a qcow2 image over backing.
func overlay(t *testing.T, path, backing, format string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := qcow2.Create(qcow2.OSFile{File: f}, qcow2.Settings{Size: 1 << 20, BackingFile: backing, BackingFormat: format}); err != nil {
		t.Fatal(err)
	}
}

// chainOf opens the chain of a disk as a start does.
func chainOf(t *testing.T, path string, chain *ChainResource) (*opened, error) {
	t.Helper()
	d := &Driver{log: slog.New(slog.DiscardHandler), images: map[inode][]string{}}
	o := &opened{runtime: domain.Runtime{Chains: map[string][]domain.BackingImage{}}}
	r := Resource{Kind: ResourceDisk, Alias: "virtio-disk0", Path: path, Disk: &DiskResource{Chain: chain}}
	f, _, err := d.openImage(r)
	if err != nil {
		t.Fatal(err)
	}
	o.files = append(o.files, f)
	t.Cleanup(o.close)
	return o, d.openChain(o, f, r)
}

func TestChainIsOpenedAsHeadersSay(t *testing.T) {
	dir := t.TempDir()
	base, middle, top := filepath.Join(dir, "base"), filepath.Join(dir, "middle"), filepath.Join(dir, "top")
	if err := os.WriteFile(base, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	overlay(t, middle, "base", "raw") // relative to where middle is
	overlay(t, top, middle, "qcow2")
	o, err := chainOf(t, top, &ChainResource{})
	if err != nil {
		t.Fatal(err)
	}
	chain := o.runtime.Chains["virtio-disk0"]
	if len(chain) != 2 || chain[0] != (domain.BackingImage{Path: middle, Format: "qcow2"}) || chain[1] != (domain.BackingImage{Path: base, Format: "raw"}) {
		t.Errorf("chain %+v", chain)
	}
	cfg := hypervisor.Config{Files: []hypervisor.FileName{"disk:virtio-disk0"}, Disks: []hypervisor.Disk{{ID: "virtio-disk0"}}}
	o.addChains(&cfg)
	if len(cfg.Files) != 3 || len(o.files) != 3 || len(cfg.Disks[0].Backing) != 2 || cfg.Disks[0].Backing[1].Format != "raw" ||
		cfg.Disks[0].Backing[0].File != cfg.Files[1] || o.files[1].Name() != middle {
		t.Errorf("config %+v, %d files", cfg, len(o.files))
	}
	// a writer of a backing image is kept out
	w, err := os.OpenFile(base, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if err := imagelock.Take(w, imagelock.Exclusive); err == nil {
		t.Error("the base can be written to")
	}
	if err := imagelock.Take(w, imagelock.ReadOnly); err != nil {
		t.Errorf("the base cannot be shared: %v", err)
	}
}

func TestChainRefusals(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	overlay(t, at("noformat"), "base", "")
	overlay(t, at("missing"), "gone", "raw")
	overlay(t, at("loop1"), "loop2", "qcow2")
	overlay(t, at("loop2"), "loop1", "qcow2")
	overlay(t, at("self"), "self", "qcow2")
	overlay(t, at("nbd"), "nbd://host/export", "raw")
	overlay(t, at("json"), `json:{"driver":"file"}`, "raw")
	overlay(t, at("vmdk"), "base", "vmdk")
	overlay(t, at("dir"), ".", "raw")
	overlay(t, at("good"), "base", "raw")
	overlay(t, at("notqcow2"), "base", "qcow2")
	if err := os.WriteFile(at("base"), make([]byte, 4096), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name  string
		chain ChainResource
		want  string
	}{
		{"noformat", ChainResource{}, "format of backing image 'base' of image '" + at("noformat") + "' was not specified in the image metadata"},
		{"missing", ChainResource{}, "Cannot access backing file '" + at("gone") + "' of storage file '" + at("missing") + "'"},
		{"loop1", ChainResource{}, "is self-referential"},
		{"self", ChainResource{}, "is self-referential"},
		{"nbd", ChainResource{}, "is not a file's name"},
		{"json", ChainResource{}, "is not a file's name"},
		{"vmdk", ChainResource{}, "has format 'vmdk'"},
		{"dir", ChainResource{}, "is a directory"},
		{"notqcow2", ChainResource{}, "magic number"},
		{"base", ChainResource{}, "cannot use image '" + at("base") + "' as qcow2"},
		{"good", ChainResource{Known: true}, "none, the image's header '" + at("base") + "'"},
		{"good", ChainResource{Known: true, Images: []domain.BackingImage{{Path: "/other", Format: "raw"}}}, "'/other' of format 'raw'"},
	} {
		o, err := chainOf(t, at(c.name), &c.chain)
		o.close()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
	if _, err := chainOf(t, at("good"), &ChainResource{Known: true, Images: []domain.BackingImage{{Path: at("base"), Format: "raw"}}}); err != nil {
		t.Error(err)
	}
}
