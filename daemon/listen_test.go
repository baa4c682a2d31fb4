package daemon_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/rpc/client"
)

// TestListenAgain: whoever registers gets every event from then on, also when there was nobody meanwhile, by deregistering
// or by leaving, and nothing of that time.
func TestListenAgain(t *testing.T) {
	b := newTestbed(t)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	defines := 0
	define := func() string {
		defines++
		name := fmt.Sprintf("d%d", defines)
		xml := "<domain type='kvm'><name>" + name + "</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"
		if _, err := b.mgr.Define(ctx, xml, 0); err != nil {
			t.Fatal(err)
		}
		return name
	}
	listener := func() (c *client.Client, next func() string) {
		names := make(chan string, 10)
		c = b.client(t, false)
		c.OnEvent(func(_, procedure uint32, body []byte) {
			var msg libvirt.DomainEventCallbackLifecycleMsg
			if err := rpc.Unmarshal(body, &msg); err != nil || procedure != rpc.ProcDomainEventCallbackLifecycle {
				t.Errorf("procedure %d: %v", procedure, err)
			}
			names <- msg.Msg.Dom.Name
		})
		return c, func() string {
			select {
			case name := <-names:
				return name
			case <-ctx.Done():
				return "no event"
			}
		}
	}
	register := func(c *client.Client) (id int32) {
		var ret libvirt.ConnectDomainEventCallbackRegisterAnyRet
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectDomainEventCallbackRegisterAny,
			&libvirt.ConnectDomainEventCallbackRegisterAnyArgs{EventID: 0}, &ret); err != nil {
			t.Fatal(err)
		}
		return ret.CallbackID
	}
	first, heard := listener()
	second, alsoHeard := listener()
	for round := range 3 {
		define() // nobody listens
		one, other := register(first), register(second)
		if want, got, also := define(), heard(), alsoHeard(); got != want || also != want {
			t.Errorf("round %d: %s and %s heard of, not %s", round, got, also, want)
		}
		for c, id := range map[*client.Client]int32{first: one, second: other} {
			if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectDomainEventCallbackDeregisterAny,
				&libvirt.ConnectDomainEventCallbackDeregisterAnyArgs{CallbackID: id}, nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	register(second)
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	define()
	register(first)
	if want, got := define(), heard(); got != want {
		t.Errorf("%s heard of, not %s", got, want)
	}
}
