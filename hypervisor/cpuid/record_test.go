package cpuid

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"virtd/hypervisor/kvm"
)

var record = flag.String("record", "", "write this host's KVM_GET_SUPPORTED_CPUID to testdata/hosts/NAME.json")

// TestRecord records the host it runs on when asked to.
func TestRecord(t *testing.T) {
	if *record == "" {
		t.Skip("run with -record NAME to record this host")
	}
	sys, err := kvm.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close()
	entries, err := sys.SupportedCPUID()
	if err != nil {
		t.Fatal(err)
	}
	var out []Entry
	for _, e := range entries {
		out = append(out, Entry{e.Function, e.Index, e.Flags, e.EAX, e.EBX, e.ECX, e.EDX})
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(hostFile(*record)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hostFile(*record), append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func hostFile(name string) string { return filepath.Join("testdata", "hosts", name+".json") }
