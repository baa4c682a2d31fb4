package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// bash, with the script that vctl prints, completes commands, options and names.
func TestCompletion(t *testing.T) {
	bash, err := exec.LookPath("bash")
	if err != nil {
		t.Fatal(err)
	}
	b := newBed(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(b.dir, "vctl")); err != nil {
		t.Fatal(err)
	}
	b.run(testDomain, "define", "-")
	b.day([]line{
		{"disk attach demo /srv/a.img vda", 0, ``},
		{"net create lab --nat 10.9.0.0/24", 0, ``},
		{"pool create vms " + filepath.Join(b.dir, "pool"), 0, ``},
		{"vol create a.img 1MiB --pool vms", 0, ``},
	})
	for _, tt := range []struct{ typed, want string }{
		{"ne", "net"},
		{"net inf", "info"},
		{"start ", "demo"},
		{"start demo --con", "--console"},
		{"domstats demo ", "demo"},
		{"dirty-rate demo --mode d", "dirty-bitmap"},
		{"disk detach demo ", "vda"},
		{"net info ", "lab"},
		{"net update lab ", "add-first"},
		{"nic attach demo --network ", "lab"},
		{"pool info v", "vms"},
		{"vol list --pool ", "vms"},
		{"vol delete --pool vms ", "a.img"},
		{"nodedev info pci_0000_01_00", "pci_0000_01_00_0"},
		{"passthrough pci_0000_01_00_0 ", "demo"},
		{"completion f", "fish"},
	} {
		words := strings.Split("vctl "+tt.typed, " ")
		cmd := exec.CommandContext(t.Context(), bash, append([]string{"-c",
			`source <(vctl completion bash); COMP_WORDS=("$@") COMP_CWORD=$(($#-1)); _vctl; printf '%s\n' "${COMPREPLY[@]}"`, "bash"}, words...)...)
		cmd.Env = append(os.Environ(), "PATH="+b.dir+":"+os.Getenv("PATH"), "VIRTD_URI=qemu:///system?socket="+b.socket)
		out, err := cmd.CombinedOutput()
		if err != nil || !slices.Contains(strings.Fields(string(out)), tt.want) {
			t.Errorf("vctl %s: %v, no %s in %q", tt.typed, err, tt.want, out)
		}
	}
}
