package e2e

import (
	"context"
	"fmt"
	"syscall"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/lab/labtest"
	"virtd/rpc"
	"virtd/rpc/client"
)

// A domain that is to end with its client does so when the client leaves, when virtd stops, and when virtd was killed.
func TestLabAutodestroy(t *testing.T) {
	labtest.Need(t, labtest.KVM)
	h := startHost(t)
	name := h.define(guest{name: "doomed", kernel: labtest.Kernel("6.1"), memory: 128})
	stays := h.define(guest{name: "stays", kernel: labtest.Kernel("6.1"), memory: 128})
	h.vctl("start", "--paused", stays)
	gone := func(pid int) func() bool {
		return func() bool { return !exists(fmt.Sprintf("/proc/%d", pid)) }
	}

	c, pid := autodestroyed(t, h, name)
	c.Close()
	h.until(20*time.Second, "the end with its client", gone(pid))
	h.state(name, "shut off")

	_, pid = autodestroyed(t, h, name)
	h.stopDaemon(syscall.SIGTERM)
	h.until(20*time.Second, "the end with virtd", gone(pid))
	h.startDaemon()
	h.state(name, "shut off")

	_, pid = autodestroyed(t, h, name)
	h.stopDaemon(syscall.SIGKILL)
	if gone(pid)() {
		t.Error("the engine ended although virtd could not tell it")
	}
	h.startDaemon()
	h.until(20*time.Second, "the end by the next virtd", gone(pid))
	h.state(name, "shut off")
	h.state(stays, "paused")
}

// autodestroyed starts a domain, paused, for a client of its own, and returns that and the engine.
func autodestroyed(t *testing.T, h *host, name string) (*client.Client, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c, err := client.Dial(ctx, h.path("sock/libvirt-sock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Open(ctx, "", false); err != nil {
		t.Fatal(err)
	}
	var found libvirt.DomainLookupByNameRet
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainLookupByName, &libvirt.DomainLookupByNameArgs{Name: name}, &found); err != nil {
		t.Fatal(err)
	}
	args := &libvirt.DomainCreateWithFlagsArgs{Dom: found.Dom, Flags: uint32(libvirt.DomainStartAutodestroy | libvirt.DomainStartPaused)}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcDomainCreateWithFlags, args, nil); err != nil {
		t.Fatal(err)
	}
	return c, h.engine(name)
}
