package nodedev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"virtd/durable"
	"virtd/virterr"
)

// PhysicalFunction is a card that can make virtual functions.
type PhysicalFunction struct {
	Address
	Interface string // of its driver, "" for none
	Driver    string
	Total     int // virtual functions that it can have
	Functions []VirtualFunction
	Kept      bool // made again after each boot of the host
}

// VirtualFunction is a slice of a card.
type VirtualFunction struct {
	Address
	Number    int
	Interface string
	Driver    string
	User      string         // the domain that has it, or ""
	Config    FunctionConfig // as far as the card tells
	// Representor is the interface of the card that stands for the function, where the card is in switchdev mode.
	Representor string
}

// PhysicalFunctions lists the cards with SR-IOV.
func (h *Hostdevs) PhysicalFunctions() []PhysicalFunction {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []PhysicalFunction
	for _, name := range h.list("bus/pci/devices") {
		a, err := ParseAddress(name)
		if err != nil {
			continue
		}
		if dev, err := h.pciPath(a); err == nil && h.total(dev) > 0 {
			out = append(out, h.physicalFunction(a, dev))
		}
	}
	return out
}

func (h *Hostdevs) total(dev string) int {
	n, _ := h.number(dev, "sriov_totalvfs", 10)
	return int(n)
}

func (h *Hostdevs) physicalFunction(a Address, dev string) PhysicalFunction {
	p := PhysicalFunction{Address: a, Interface: h.netOf(dev), Driver: h.link(dev, "driver"), Total: h.total(dev)}
	_, err := os.Stat(h.keptFile(a))
	p.Kept = err == nil
	representors := h.representors(dev)
	for i, v := range h.virtualFunctions(dev) {
		at := "bus/pci/devices/" + v.String()
		f := VirtualFunction{Address: v, Number: i, Interface: h.netOf(at), Driver: h.link(at, "driver"), User: h.users[v].Name,
			Representor: representors[i]}
		if p.Interface != "" {
			f.Config, _ = h.links.Function(p.Interface, i) // more information only
		}
		p.Functions = append(p.Functions, f)
	}
	return p
}

// VirtualFunctions returns the virtual functions of the card with that interface, in the order of their numbers.
func (h *Hostdevs) VirtualFunctions(pf string) ([]Address, error) {
	name := ""
	for _, at := range h.list("bus/pci/devices") {
		if pf != "" && slices.Contains(h.list("bus/pci/devices/"+at+"/net"), pf) {
			name = at
		}
	}
	a, err := ParseAddress(name)
	if err != nil {
		return nil, virterr.NewFrom(virterr.FromNodeDev, virterr.OperationFailed, "the host has no PCI card with the interface '%s'", pf)
	}
	dev, err := h.pciPath(a)
	if err != nil {
		return nil, err
	}
	if h.total(dev) == 0 {
		return nil, virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "interface '%s' (PCI device %s) has no SR-IOV", pf, a)
	}
	return h.virtualFunctions(dev), nil
}

// FindFunction finds a PCI function by what people call it: its address, its interface, or the name of its node device.
func (h *Hostdevs) FindFunction(name string) (Address, error) {
	if a, err := ParseAddress(name); err == nil {
		return a, nil
	}
	if a, err := ParseAddress("0000:" + name); err == nil {
		return a, nil
	}
	if rest, ok := strings.CutPrefix(name, "pci_"); ok {
		if p := strings.Split(rest, "_"); len(p) == 4 {
			return ParseAddress(p[0] + ":" + p[1] + ":" + p[2] + "." + p[3])
		}
	}
	if !strings.Contains(name, "/") && h.exists("class/net", name) {
		if a, err := ParseAddress(h.link("class/net/"+name, "device")); err == nil {
			return a, nil
		}
	}
	return Address{}, virterr.NewFrom(virterr.FromNodeDev, virterr.InvalidArg, "'%s' is not a PCI address, an interface of a PCI card, or a node device like pci_0000_01_00_0", name)
}

// CountOptions say how virtual functions are made.
type CountOptions struct {
	Keep       bool // again after each boot of the host, until the number is set without
	Driverless bool // no driver of the host gets them: they are for guests
}

// SetFunctionCount makes n virtual functions of a physical one, or with 0 removes them. Those that exist go first, so none
// may be in use. A failure leaves as many as there were.
func (h *Hostdevs) SetFunctionCount(ctx context.Context, a Address, n int, o CountOptions) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	dev, err := h.pciPath(a)
	if err != nil {
		return err
	}
	total := h.total(dev)
	switch driver := h.link(dev, "driver"); {
	case total == 0:
		return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "PCI device %s has no SR-IOV", a)
	case n < 0 || n > total:
		return virterr.NewFrom(virterr.FromNodeDev, virterr.InvalidArg, "PCI device %s can have 0 to %d virtual functions, not %d", a, total, n)
	case driver == "" || isVFIO(driver):
		return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid,
			"PCI device %s has driver '%s': its own driver makes virtual functions; give it back first (vctl nodedev reattach %s)", a, driver, a.Name())
	}
	old := h.virtualFunctions(dev)
	for _, v := range old {
		if err := h.idleFunction(v); err != nil {
			return err
		}
	}
	if len(old) != n || o.Driverless && slices.ContainsFunc(old, func(v Address) bool { return h.Driver(v) != "" && !isVFIO(h.Driver(v)) }) {
		if err := h.countProbing(ctx, dev, len(old), n, o.Driverless); err != nil {
			return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationFailed, "cannot make %d virtual functions of PCI device %s (driver %s): %w", n, a, h.link(dev, "driver"), err)
		}
	}
	if err := h.keepCount(a, dev, n, o); err != nil {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.SystemError, "the virtual functions of PCI device %s are made, and will not be after a boot: %w", a, err)
	}
	return nil
}

// idleFunction refuses to remove a virtual function that somebody uses. The caller holds mu.
func (h *Hostdevs) idleFunction(v Address) error {
	if err := h.free(v); err != nil {
		return err
	}
	if _, taken := h.detached[v]; taken {
		return virterr.NewFrom(virterr.FromNodeDev, virterr.OperationInvalid, "virtual function %s is detached; give it back first (vctl nodedev reattach %s)", v, v.Name())
	}
	return h.guard(v, "bus/pci/devices/"+v.String())
}

// autoprobe says whether drivers look at new virtual functions of a card.
const autoprobe = "sriov_drivers_autoprobe"

// countProbing is count, which drivers do not see with driverless. The caller holds mu.
func (h *Hostdevs) countProbing(ctx context.Context, dev string, old, n int, driverless bool) error {
	if probing, _ := h.number(dev, autoprobe, 10); !driverless || probing == 0 {
		return h.count(ctx, dev, old, n)
	}
	if err := h.set("0", dev, autoprobe); err != nil {
		return err
	}
	err := h.count(ctx, dev, old, n)
	rerr := h.set("1", dev, autoprobe)
	switch {
	case err != nil: // the old ones are there again
		h.probeAgain(dev, h.virtualFunctions(dev), 0)
	case rerr != nil:
		err = fmt.Errorf("the functions are there, and drivers do not look at further ones: %w", rerr)
	}
	return err
}

// count sets the number, over none, as the kernel wants it, and waits for the functions. After a failure there are old ones
// again, unless another program set a number meanwhile, which is left. The caller holds mu.
func (h *Hostdevs) count(ctx context.Context, dev string, old, n int) error {
	if old > 0 {
		if err := h.set("0", dev, "sriov_numvfs"); err != nil {
			return err
		}
	}
	if n == 0 {
		return nil
	}
	err := h.set(strconv.Itoa(n), dev, "sriov_numvfs")
	if err == nil {
		err = h.awaitFunctions(ctx, dev, n)
	}
	if err == nil {
		return nil
	}
	if now, _ := h.number(dev, "sriov_numvfs", 10); now != 0 && (int(now) != n || errors.Is(err, unix.EBUSY)) {
		return fmt.Errorf("another program changed their number to %d meanwhile; make sure that it is done and try again: %w", now, err)
	}
	if old > 0 {
		err = errors.Join(err, h.set("0", dev, "sriov_numvfs"), h.set(strconv.Itoa(old), dev, "sriov_numvfs"))
	}
	return err
}

// functionWait bounds how long functions, and the interfaces of those that have a driver, take to appear.
const functionWait = 10 * time.Second

func (h *Hostdevs) awaitFunctions(ctx context.Context, dev string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, functionWait)
	defer cancel()
	for try := 0; ; try++ {
		list := h.virtualFunctions(dev)
		ready := len(list) == n
		for _, v := range list {
			at := "bus/pci/devices/" + v.String()
			ready = ready && (h.link(at, "driver") == "" || h.netOf(dev) == "" || h.netOf(at) != "")
		}
		if ready && !h.probeAgain(dev, list, try) {
			return nil
		}
		select {
		case <-ctx.Done():
			if len(list) == n { // they are there; a driver is slow
				return nil
			}
			return fmt.Errorf("%d of %d appeared in %v", len(list), n, functionWait)
		case <-time.After(probePause):
		}
	}
}

// probeAgain lets drivers look again at new functions that have none, when the card's functions are to have one: see probes. It
// reports whether one may still get it. The caller holds mu.
func (h *Hostdevs) probeAgain(dev string, list []Address, try int) (again bool) {
	if probing, _ := h.number(dev, autoprobe, 10); probing == 0 || try >= probes {
		return false
	}
	for _, v := range list {
		if h.Driver(v) != "" {
			continue
		}
		again = true
		if err := h.set(v.String(), "bus/pci/drivers_probe"); err != nil {
			h.log.Debug("the driver of a new virtual function does not take it yet", "device", v.String(), "error", err)
		}
	}
	return again
}

// keptCount is the record of virtual functions that are made again.
type keptCount struct {
	Version    int    `json:"version"`
	Identity   string `json:"identity"`
	Count      int    `json:"count"`
	Driverless bool   `json:"driverless,omitempty"`
	Boot       string `json:"boot"` // at which it was last done
}

func (h *Hostdevs) keptFile(a Address) string {
	return filepath.Join(h.state, "sriov", a.String()+recordSuffix)
}

func (h *Hostdevs) keepCount(a Address, dev string, n int, o CountOptions) error {
	file := h.keptFile(a)
	if !o.Keep || n == 0 {
		return durable.Remove(file) // else a power cut brings them back
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	if err := durable.SyncDir(h.state); err != nil { // the folder may be new
		return err
	}
	text, err := json.Marshal(keptCount{detachedVersion, h.identity(dev), n, o.Driverless, h.boot})
	if err != nil {
		return err
	}
	return durable.Write(file, text)
}

// RestoreFunctions makes the virtual functions that are to be there after a boot of the host, once for each boot.
func (h *Hostdevs) RestoreFunctions(ctx context.Context) {
	entries, err := os.ReadDir(filepath.Join(h.state, "sriov"))
	if err != nil {
		return // none were ever kept
	}
	for _, e := range entries {
		a, err := ParseAddress(strings.TrimSuffix(e.Name(), recordSuffix))
		if err != nil {
			continue
		}
		if err := h.restoreCount(ctx, a); err != nil {
			h.log.Warn("virtual functions are not made again", "device", a.String(), "error", err)
		}
	}
}

func (h *Hostdevs) restoreCount(ctx context.Context, a Address) error {
	var k keptCount
	text, err := os.ReadFile(h.keptFile(a))
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil || k.Boot == h.boot {
		return err
	}
	dev, err := h.pciPath(a)
	if err != nil {
		return err
	}
	if h.identity(dev) != k.Identity {
		return errors.New("another card is at this address")
	}
	if len(h.virtualFunctions(dev)) > 0 {
		return errors.New("it has virtual functions already")
	}
	return h.SetFunctionCount(ctx, a, k.Count, CountOptions{Keep: true, Driverless: k.Driverless})
}
