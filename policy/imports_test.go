package policy

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A rule says that packages below From must not import any of Not.
type rule struct {
	from   string
	except []string
	not    []string
	may    []string // of what is in not
	why    string
}

var rules = []rule{
	{
		from: "hypervisor",
		not:  []string{"libvirt.org/go/libvirtxml", "encoding/xml", "github.com/vishvananda/netlink", "virtd/rpc", "virtd/domain", "virtd/driver", "virtd/daemon", "virtd/network", "virtd/nodedev"},
		why:  "the engine gets a Config and open files; whoever plans them is not its business",
	},
	{
		from: "cmd/virtd-vmm",
		not:  []string{"libvirt.org/go/libvirtxml", "encoding/xml", "net/http", "github.com/vishvananda/netlink", "virtd/rpc", "virtd/domain", "virtd/driver", "virtd/daemon", "virtd/network", "virtd/nodedev"},
		why:  "it imports hypervisor/ and little else",
	},
	{
		from: "domain",
		not:  []string{"virtd/hypervisor", "virtd/driver/kvm", "virtd/rpc", "virtd/daemon"},
		why:  "what a domain is does not depend on what runs it or who asks",
	},
	{
		from: "rpc",
		not:  []string{"virtd/domain", "virtd/driver", "virtd/daemon", "virtd/hypervisor", "virtd/network"},
		why:  "the wire protocol knows no domains",
	},
	{
		from: "driver",
		not:  []string{"virtd/rpc", "virtd/daemon"},
		why:  "drivers are called by managers, never by the wire",
	},
	{
		from: "nodedev",
		not:  []string{"virtd/rpc", "virtd/daemon", "virtd/driver", "virtd/hypervisor", "virtd/domain/manager"},
		why:  "what devices the host has does not depend on who asks or what uses them",
	},
	{
		from: "storage",
		not:  []string{"virtd/rpc", "virtd/daemon", "virtd/driver", "virtd/hypervisor", "virtd/domain/manager"},
		may:  []string{"virtd/hypervisor/block/qcow2"}, // a format, which knows no machine
		why:  "pools know neither who asks nor which domains use their files",
	},
	{
		from: "secret",
		not:  []string{"virtd/rpc", "virtd/daemon", "virtd/driver", "virtd/hypervisor", "virtd/domain/manager"},
		why:  "secrets know neither who asks nor what uses them",
	},
	{
		from: "sasl",
		not:  []string{"virtd/rpc", "virtd/daemon", "virtd/driver", "virtd/hypervisor", "virtd/domain"},
		why:  "passwords know neither how words travel nor what they open",
	},
	{
		from: "network",
		not:  []string{"virtd/rpc", "virtd/daemon", "virtd/hypervisor", "virtd/domain/manager"},
		why:  "networks know neither who asks nor what the domains on them run",
	},
	{
		from: "cmd/vctl",
		not:  []string{"virtd/hypervisor", "virtd/driver", "virtd/daemon", "virtd/nodedev", "virtd/network", "github.com/vishvananda/netlink"},
		why:  "vctl never touches host state itself, so remote connections always work",
	},
}

func TestImportRules(t *testing.T) {
	for _, s := range tree(t) {
		if s.test() {
			continue
		}
		for _, r := range rules {
			if !within(s.pkg(), r.from) {
				continue
			}
			for _, i := range s.imports {
				for _, n := range r.not {
					if slices.Contains(r.may, i) {
						continue
					}
					if i == n || strings.HasPrefix(i, n+"/") {
						t.Errorf("%s imports %s: %s", s.file, i, r.why)
					}
				}
			}
		}
	}
}

// Rules about packages that are gone would pass for ever.
func TestImportRulesNameFolders(t *testing.T) {
	for _, r := range rules {
		if _, err := os.Stat(filepath.Join("..", r.from)); err != nil {
			t.Errorf("import rule for %s: %v", r.from, err)
		}
	}
}

// /dev/kvm's ioctls live in one typed package. The confinement names their numbers too, to filter them.
func TestKVMIoctlsOnlyInKVMPackage(t *testing.T) {
	// a request number as _IO and _IOW write it, with KVM's type byte: 0xAE01, 0x4020AE46
	request := regexp.MustCompile(`\b0[xX]([0-9a-fA-F]{4})?[aA][eE][0-9a-fA-F]{2}\b`)
	for _, s := range tree(t) {
		if within(s.pkg(), "hypervisor/kvm") || s.pkg() == "hypervisor/confine" || s.pkg() == "policy" {
			continue
		}
		if n := request.FindString(s.text); n != "" && slices.Contains(s.imports, "golang.org/x/sys/unix") {
			t.Errorf("%s has the KVM request number %s: use hypervisor/kvm", s.file, n)
		}
	}
}

// The engine starts in milliseconds and stays small because of what is not in it. This list is its whole
// dependency tree outside the standard library; a line more is a decision, made here.
func TestEngineDependencies(t *testing.T) {
	deps := dependencies(t, "./cmd/virtd-vmm")
	forbidden := []string{"net/http", "encoding/xml", "crypto/tls", "text/template", "html/template", "testing"}
	allowed := []string{"golang.org/x/sys/", "github.com/elastic/go-seccomp-bpf", "github.com/landlock-lsm/go-landlock/", "kernel.org/pub/linux/libs/security/libcap/", "golang.org/x/net/bpf", "golang.org/x/arch/",
		"github.com/klauspost/compress/"} // qcow2 clusters of type zstd
	for _, d := range deps {
		if slices.Contains(forbidden, d) {
			t.Errorf("virtd-vmm contains %s", d)
		}
		if first, _, _ := strings.Cut(d, "/"); !strings.Contains(first, ".") || strings.HasPrefix(d, "vendor/") {
			continue
		}
		ok := false
		for _, a := range allowed {
			ok = ok || strings.HasPrefix(d+"/", a) || strings.HasPrefix(d, a)
		}
		if !ok {
			t.Errorf("virtd-vmm contains %s, which is not on its list", d)
		}
	}
}

// The network stack of virtd-usernet, large and busy with what guests send, is in that program alone.
func TestNetworkStackIsApart(t *testing.T) {
	for _, program := range []string{"./cmd/virtd", "./cmd/vctl", "./cmd/virtd-vmm"} {
		for _, d := range dependencies(t, program) {
			if strings.HasPrefix(d, "gvisor.dev/") || strings.HasPrefix(d, "github.com/containers/") {
				t.Errorf("%s contains %s", program, d)
			}
		}
	}
}

func dependencies(t *testing.T, pkg string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", pkg)
	cmd.Dir = ".."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps %s: %v", pkg, err)
	}
	return strings.Fields(string(out))
}
