package daemon_test

import (
	"context"
	"errors"
	"reflect"
	"testing"

	"virtd/rpc"
	"virtd/virterr"
)

// TestEveryProcedure: each procedure of libvirt's two programs is answered, or refused with the code and the words by which
// clients know that a driver does not have it.
func TestEveryProcedure(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, false)
	for _, program := range []struct {
		number uint32
		procs  uint32
	}{{rpc.ProgramRemote, 453}, {rpc.ProgramQEMU, 7}} {
		for number := uint32(1); number <= program.procs; number++ {
			p := rpc.LookupProcedure(program.number, number)
			if p == nil {
				t.Fatalf("program %#x has no procedure %d", program.number, number)
			}
			if p.Message || b.registry.Lookup(program.number, number) != nil {
				continue
			}
			var args any
			if p.Args != nil {
				args = reflect.New(p.Args).Interface()
			}
			err := c.Call(context.Background(), program.number, number, args, nil)
			want := "this function is not supported by the connection driver: " + p.API
			var refused *rpc.RemoteError
			if !errors.As(err, &refused) || refused.Code != virterr.NoSupport || refused.Message != want {
				t.Errorf("%s: %v, want %q", p.Name, err, want)
			}
		}
	}
}
