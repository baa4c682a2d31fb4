package bridgetest

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"virtd/network/bridge"
)

// TestFakeActsAsTheHost checks what tests of others lean on: names, the missing bridge, clean-up.
func TestFakeActsAsTheHost(t *testing.T) {
	var f Fake
	if _, err := f.OpenTap(bridge.TapConfig{Bridge: "br0"}); !errors.Is(err, unix.ENODEV) {
		t.Errorf("missing bridge: %v", err)
	}
	if err := f.AddBridge(bridge.BridgeConfig{Name: "br0", MTU: 1400}); err != nil {
		t.Fatal(err)
	}
	tap, err := f.OpenTap(bridge.TapConfig{Bridge: "br0", Queues: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	l, err := f.Link("vnet0")
	if err != nil || l.Bridge != "br0" || l.MTU != 1400 || len(tap.Files) != 2 {
		t.Errorf("link %+v with %d queues, %v", l, len(tap.Files), err)
	}
	if err := f.Delete("vnet0"); err != nil {
		t.Fatal(err)
	}
	if links, _ := f.List(); len(links) != 1 {
		t.Errorf("links %+v", links)
	}
}
