package kvm_test

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"virtd/domain/manager"
	"virtd/virterr"
)

// TestRealEngineSaveRestore takes a guest through images, a managed save with virtd replaced in between, failures and a
// dump.
func TestRealEngineSaveRestore(t *testing.T) {
	h := newRealHost(t)
	d := h.guest("a", codeEcho, "")
	h.must(d.Start(bg, 0))
	h.talk(d)
	image := filepath.Join(h.dir, "image")
	h.must(d.Save(bg, image, "", 0))
	h.waitState(d, manager.ShutOff, manager.ShutOffSaved)
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
	h.must(h.m.Restore(bg, image, "", 0))
	h.waitState(d, manager.Running, manager.RunningRestored)
	h.talk(d)

	h.must(d.ManagedSave(bg, 0))
	h.m.Close()
	h.open()
	d, err := h.m.LookupByName("a")
	h.must(err)
	if saved, err := d.HasManagedSave(); err != nil || !saved {
		t.Errorf("managed save after a new virtd: %v, %v", saved, err)
	}
	h.must(d.Start(bg, 0))
	h.waitState(d, manager.Running, manager.RunningRestored)
	h.talk(d)

	if err := d.Save(bg, "/proc/image", "", 0); err == nil {
		t.Error("saved into /proc")
	}
	core := filepath.Join(h.dir, "core")
	h.must(d.CoreDump(bg, core, 0, manager.DumpMemoryOnly))
	f, err := elf.Open(core)
	h.must(err)
	f.Close()
	h.talk(d)
	h.must(d.Destroy(bg, 0))
	if left := h.leftovers(); len(left) != 0 {
		t.Error("left over:", left)
	}
}

// TestRealEngineRefusesStates: a damaged image starts nothing, says why, and leaves a managed one where it is.
func TestRealEngineRefusesStates(t *testing.T) {
	h := newRealHost(t)
	d := h.guest("a", codeEcho, "")
	h.must(d.Start(bg, 0))
	h.must(d.ManagedSave(bg, 0))
	h.waitState(d, manager.ShutOff, manager.ShutOffSaved)
	path := filepath.Join(h.dir, "save", d.UUID().String()+".save")
	whole, err := os.ReadFile(path)
	h.must(err)
	for want, bad := range map[string][]byte{
		"cut off": whole[:len(whole)-1],
		"damaged": append(append([]byte(nil), whole[:len(whole)-1]...), whole[len(whole)-1]^1),
	} {
		h.must(os.WriteFile(path, bad, 0o600))
		err := d.Start(bg, 0)
		if err == nil || !strings.Contains(err.Error(), want) || !virterr.Is(err, virterr.InternalError) {
			t.Errorf("%s: %v", want, err)
		}
		h.waitState(d, manager.ShutOff, manager.ShutOffFailed)
		if left := h.leftovers(); len(left) != 0 {
			t.Error("left over:", left)
		}
	}
	h.must(os.WriteFile(path, whole, 0o600))
	h.must(d.Start(bg, 0))
	h.talk(d)
}
