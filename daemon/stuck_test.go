package daemon_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/domain"
	"virtd/driver/fake"
	"virtd/rpc"
	"virtd/rpc/client"
)

// TestQueriesDuringStuckJobs: while every start that a client asked for hangs, the same client's queries are answered at
// once, and its domain can be destroyed.
func TestQueriesDuringStuckJobs(t *testing.T) {
	b := newTestbed(t)
	block := make(chan struct{})
	inside := make(chan struct{}, 10)
	b.driver.OnStart = func(ctx context.Context, _ *domain.Definition) error {
		inside <- struct{}{}
		select {
		case <-block:
		case <-ctx.Done():
		}
		return ctx.Err()
	}
	t.Cleanup(func() { close(block) })
	c := b.client(t, false)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var doms []libvirt.Domain
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		xml := "<domain type='kvm'><name>" + name + "</name><memory unit='MiB'>64</memory><os><type>hvm</type><kernel>/k</kernel></os></domain>"
		var ret libvirt.DomainDefineXMLRet
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainDefineXML, &libvirt.DomainDefineXMLArgs{XML: xml}, &ret); err != nil {
			t.Fatal(err)
		}
		doms = append(doms, ret.Dom)
		go c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainCreate, &libvirt.DomainCreateArgs{Dom: ret.Dom}, nil)
	}
	for range 5 { // the sixth waits for its turn on the connection
		<-inside
	}
	for _, dom := range doms {
		for number, args := range map[uint32]any{
			rpc.ProcDomainGetState:    &libvirt.DomainGetStateArgs{Dom: dom},
			rpc.ProcDomainGetInfo:     &libvirt.DomainGetInfoArgs{Dom: dom},
			rpc.ProcDomainIsActive:    &libvirt.DomainIsActiveArgs{Dom: dom},
			rpc.ProcDomainGetMessages: &libvirt.DomainGetMessagesArgs{Dom: dom},
		} {
			if err := c.Call(ctx, rpc.ProgramRemote, number, args, nil); err != nil && ctx.Err() != nil {
				t.Fatalf("procedure %d hangs", number)
			}
		}
	}
	var list libvirt.ConnectListAllDomainsRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectListAllDomains, &libvirt.ConnectListAllDomainsArgs{NeedResults: 1}, &list); err != nil || len(list.Domains) != 6 {
		t.Errorf("list: %d, %v", len(list.Domains), err)
	}
	other := b.client(t, false) // statistics are an ordinary call: from another connection they do not wait either
	var stats libvirt.ConnectGetAllDomainStatsRet
	if err := other.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{}, &stats); err != nil || len(stats.RetStats) != 6 {
		t.Errorf("stats: %d, %v", len(stats.RetStats), err)
	}
}

// TestStatsWithOneSilentEngine: an engine that does not answer costs its own numbers, not the others'.
func TestStatsWithOneSilentEngine(t *testing.T) {
	b := newTestbed(t)
	var silent atomic.Bool
	b.driver.OnCall = func(ctx context.Context, e *fake.Engine, method string) error {
		if !silent.Load() {
			return nil
		}
		if method == "VCPUs" || method == "BlockStats" {
			return context.DeadlineExceeded
		}
		return nil
	}
	dom := startDemo(t, b)
	silent.Store(true)
	c := b.client(t, true)
	var stats libvirt.ConnectGetAllDomainStatsRet
	if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcConnectGetAllDomainStats, &libvirt.ConnectGetAllDomainStatsArgs{Doms: []libvirt.Domain{dom}}, &stats); err != nil {
		t.Fatal(err)
	}
	has := map[string]bool{}
	for _, p := range stats.RetStats[0].Params {
		has[p.Field] = true
	}
	if !has["state.state"] || !has["balloon.current"] || !has["net.count"] || has["vcpu.0.time"] {
		t.Errorf("%v", has)
	}
}

func BenchmarkDomainGetState(b *testing.B) {
	bed := newTestbed(b)
	dom := startDemo(b, bed)
	c, err := client.Dial(context.Background(), bed.sock)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	if err := c.Open(context.Background(), "", true); err != nil {
		b.Fatal(err)
	}
	args := &libvirt.DomainGetStateArgs{Dom: dom}
	b.ReportAllocs()
	for b.Loop() {
		var ret libvirt.DomainGetStateRet
		if err := c.Call(context.Background(), rpc.ProgramRemote, rpc.ProcDomainGetState, args, &ret); err != nil {
			b.Fatal(err)
		}
	}
}
