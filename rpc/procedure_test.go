package rpc

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/virterr"
)

func TestTablesAreComplete(t *testing.T) {
	for _, tt := range []struct {
		name  string
		procs []Procedure
		want  int
	}{{"remote", remoteProcs, 453}, {"qemu", qemuProcs, 7}} {
		if len(tt.procs) != tt.want {
			t.Errorf("%s: %d procedures, want %d", tt.name, len(tt.procs), tt.want)
		}
		for i, p := range tt.procs {
			if p.Number != uint32(i+1) {
				t.Errorf("%s: row %d is procedure %d", tt.name, i, p.Number)
			}
			if p.Message != (p.API == "") || p.Message && (p.Args == nil || p.Ret != nil) {
				t.Errorf("%s %s: message %t, API %q, args %v, ret %v", tt.name, p.Name, p.Message, p.API, p.Args, p.Ret)
			}
		}
	}
}

// TestReadOnlyRules compares every procedure's rule with testdata/readonly.txt, which a person can review, and runs the check.
func TestReadOnlyRules(t *testing.T) {
	f, err := os.Open("testdata/readonly.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	allowed := map[string]bool{}
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
			allowed[line] = true
		}
	}
	for program, procs := range map[string][]Procedure{"REMOTE": remoteProcs, "QEMU": qemuProcs, "PRIVATE": privateProcs} {
		for _, p := range procs {
			if p.Message {
				continue
			}
			key := program + " " + p.Name
			err := checkReadOnly(&p, nil)
			if want := allowed[key]; want != (err == nil) {
				t.Errorf("%s: allowed %t, want %t", key, err == nil, want)
			}
			if err != nil && (!virterr.Is(err, virterr.OperationDenied) || !strings.Contains(err.Error(), p.API)) {
				t.Errorf("%s: refused with %v", key, err)
			}
			delete(allowed, key)
		}
	}
	for key := range allowed {
		t.Errorf("testdata names %s, which no table has", key)
	}
}

func TestReadOnlyFlags(t *testing.T) {
	proc := func(n uint32) *Procedure { return LookupProcedure(ProgramRemote, n) }
	tests := []struct {
		proc *Procedure
		args any
		want string
	}{
		{proc(ProcDomainGetXMLDesc), &libvirt.DomainGetXMLDescArgs{}, ""},
		{proc(ProcDomainGetXMLDesc), &libvirt.DomainGetXMLDescArgs{Flags: libvirt.DomainXMLInactive}, ""},
		{proc(ProcDomainGetXMLDesc), &libvirt.DomainGetXMLDescArgs{Flags: libvirt.DomainXMLSecure}, "operation forbidden: virDomainGetXMLDesc with secure flag"},
		{proc(ProcDomainGetXMLDesc), &libvirt.DomainGetXMLDescArgs{Flags: libvirt.DomainXMLMigratable}, "operation forbidden: virDomainGetXMLDesc with secure flag"},
		{proc(ProcDomainSnapshotGetXMLDesc), &libvirt.DomainSnapshotGetXMLDescArgs{Flags: 1}, "operation forbidden: virDomainSnapshotGetXMLDesc with secure flag"},
		{proc(ProcDomainCheckpointGetXMLDesc), &libvirt.DomainCheckpointGetXMLDescArgs{Flags: 1}, "operation forbidden: virDomainCheckpointGetXMLDesc with secure flag"},
		{proc(ProcDomainManagedSaveGetXMLDesc), &libvirt.DomainManagedSaveGetXMLDescArgs{Flags: 1}, "operation forbidden: virDomainManagedSaveGetXMLDesc with secure flag"},
		{proc(ProcDomainGetVcpusFlags), &libvirt.DomainGetVcpusFlagsArgs{}, ""},
		{proc(ProcDomainGetVcpusFlags), &libvirt.DomainGetVcpusFlagsArgs{Flags: 8}, "operation forbidden: read only access prevents virDomainGetVcpusFlags"},
		{proc(ProcDomainInterfaceAddresses), &libvirt.DomainInterfaceAddressesArgs{Source: 0}, ""},
		{proc(ProcDomainInterfaceAddresses), &libvirt.DomainInterfaceAddressesArgs{Source: 1}, "operation forbidden: read only access prevents virDomainInterfaceAddresses"},
		{proc(ProcDomainCreate), &libvirt.DomainCreateArgs{}, "operation forbidden: read only access prevents virDomainCreate"},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%s %+v", tt.proc.Name, tt.args), func(t *testing.T) {
			got := ""
			if err := checkReadOnly(tt.proc, tt.args); err != nil {
				got = err.Error()
			}
			if got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPriority(t *testing.T) {
	n := 0
	for _, p := range remoteProcs {
		if p.Priority {
			n++
		}
	}
	if n != 187 {
		t.Errorf("%d priority procedures, libvirt 11.3 has 187", n)
	}
	for _, number := range []uint32{ProcDomainDestroy, ProcDomainGetState, ProcConnectListAllDomains, ProcNodeGetInfo} {
		if !LookupProcedure(ProgramRemote, number).Priority {
			t.Errorf("procedure %d is not a priority call", number)
		}
	}
	if LookupProcedure(ProgramRemote, ProcDomainCreate).Priority {
		t.Error("DOMAIN_CREATE is a priority call")
	}
}
