package daemon_test

import (
	"context"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// TestRefusedJobsAreNotTooFast: virsh loses an answer that comes before its main loop runs, and then never ends.
func TestRefusedJobsAreNotTooFast(t *testing.T) {
	c := newTestbed(t).client(t, false)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	nobody := libvirt.Domain{Name: "nobody"}
	for number, args := range map[uint32]any{
		rpc.ProcDomainSave:               &libvirt.DomainSaveArgs{Dom: nobody, To: "/x"},
		rpc.ProcDomainSaveFlags:          &libvirt.DomainSaveFlagsArgs{Dom: nobody, To: "/x"},
		rpc.ProcDomainSaveParams:         &libvirt.DomainSaveParamsArgs{Dom: nobody},
		rpc.ProcDomainManagedSave:        &libvirt.DomainManagedSaveArgs{Dom: nobody},
		rpc.ProcDomainCoreDump:           &libvirt.DomainCoreDumpArgs{Dom: nobody, To: "/x"},
		rpc.ProcDomainCoreDumpWithFormat: &libvirt.DomainCoreDumpWithFormatArgs{Dom: nobody, To: "/x"},
	} {
		from := time.Now()
		if err := c.Call(ctx, rpc.ProgramRemote, number, args, nil); err == nil || ctx.Err() != nil {
			t.Errorf("procedure %d of no domain: %v", number, err)
		}
		if took := time.Since(from); took < 50*time.Millisecond {
			t.Errorf("procedure %d is refused after %v", number, took)
		}
	}
}
