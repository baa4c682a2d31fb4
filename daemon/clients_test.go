package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// interpreter is the Python that the distribution's libvirt module and virt-install belong to.
const interpreter = "/usr/bin/python3"

// TestClients runs the scripts in testdata/clients with unmodified programs other than virsh. They are written as those of
// TestVirsh, whose commands they may use too, and begin a line with
//
//	$ virt-install, virt-xml, virt-clone arguments   runs the program of that name against the daemon
//	$ python FILE arguments                          runs testdata/python/FILE with the module libvirt
//	$ edit FILE OLD NEW                              replaces text in a file of the testbed's directory
func TestClients(t *testing.T) {
	needClients(t)
	runScripts(t, "testdata/clients/*.txt", "virsh")
}

// needClients skips where the programs are not installed, unless a check of them was asked for: .ci sets VIRTD_CLIENTS
// where it installed them.
func needClients(t *testing.T) {
	t.Helper()
	var missing []string
	for program, pkg := range map[string]string{"virsh": "libvirt-clients", "virt-install": "virtinst", interpreter: "python3"} {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, pkg)
		}
	}
	if exec.Command(interpreter, "-c", "import libvirt").Run() != nil {
		missing = append(missing, "python3-libvirt")
	}
	if len(missing) > 0 {
		lacks(t, missing...)
	}
}

// lacks ends a test for want of programs or packages.
func lacks(t *testing.T, missing ...string) {
	t.Helper()
	if os.Getenv("VIRTD_CLIENTS") != "" {
		t.Fatalf("not installed, but asked for by VIRTD_CLIENTS: %s", strings.Join(missing, ", "))
	}
	t.Skipf("not installed: %s", strings.Join(missing, ", "))
}

// unpacked returns a program of a tree of packages that .ci/clients.sh unpacked: "bookworm" or "backports".
func unpacked(t *testing.T, tree, program string) string {
	t.Helper()
	dir := os.Getenv("VIRTD_CLIENTS")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Skip(err)
		}
		dir = filepath.Join(cache, "virtd-lab/clients")
	}
	path := filepath.Join(dir, tree, "run/bin", program)
	if _, err := os.Stat(path); err != nil {
		lacks(t, program+" (unpacked by .ci/clients.sh)")
	}
	return path
}

// client runs one command line of a program other than virsh and returns what it printed, as step does.
func (b *testbed) clientProgram(t *testing.T, fields []string) string {
	t.Helper()
	uri := "qemu:///system?socket=" + b.sock
	args := append([]string(nil), fields...)
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "$DIR", b.dir)
	}
	switch args[0] {
	case "python":
		script, err := filepath.Abs(filepath.Join("testdata/python", args[1]))
		if err != nil {
			t.Fatal(err)
		}
		args = append([]string{interpreter, script, uri, "qemu:///system?socket=" + b.ro}, args[2:]...)
	case "edit":
		return b.edit(t, args[1], args[2], args[3])
	default:
		args = append([]string{args[0], "--connect", uri}, args[1:]...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = b.dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "HOME="+b.dir, "XDG_CACHE_HOME="+b.dir, "PYTHONUNBUFFERED=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	text := strings.TrimRight(strings.ReplaceAll(out.String(), b.dir, "$DIR"), "\n") + "\n\n"
	if err != nil {
		text = fmt.Sprintf("[%v]\n%s", err, text)
	}
	return text
}

func (b *testbed) edit(t *testing.T, name, old, with string) string {
	t.Helper()
	path := filepath.Join(b.dir, name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b.write(t, name, replace(string(text), old, with))
	return "\n"
}
