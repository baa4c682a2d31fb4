package acpi

import (
	"fmt"

	"virtd/hypervisor/pci"
)

// Notification values that a device's driver gets (5.6.6).
const (
	notifyDeviceCheck  = 1
	notifyEjectRequest = 3
)

// events are the methods of the general purpose events: edge-triggered, so that the guest clears the status before it
// looks, and what comes while it looks is an event of its own.
func events(c *Config) aml {
	event := func(gpe int, look string) aml { return method(fmt.Sprintf("_E%02X", gpe), 0, false, call(look)) }
	all := event(HotplugGPE, `\_SB.PCI0.PCNT`)
	if c.CPUHotplug {
		all = append(all, event(CPUHotplugGPE, `\_SB.CPUS.CSCN`)...)
	}
	return scope(`\_GPE`, all)
}

// hotplug is the part of PCI0 by which devices come and go: the registers, a device object for each place, and PCNT, which
// notifies the objects of the places where something happened. Selecting a bus and reading its registers are steps that
// nothing may come between; BLCK sees to that.
func hotplug(c *Config) aml {
	out := join(
		ports("PCST", pci.HotplugPort, pci.HotplugPorts),
		dwords("PCST", "PCIU", "PCID", "B0EJ", "", "BNUM", "OSTS"),
		mutex("BLCK"),
		// PCEJ lets the device in slot Arg1 of bus Arg0 go.
		method("PCEJ", 2, false,
			acquire("BLCK"),
			store(arg(0), nameString("BNUM")),
			shiftLeft(integer(1), arg(1), nameString("B0EJ")),
			release("BLCK")),
		// PCOS passes on what became (Arg3) of event Arg2 for slot Arg1 of bus Arg0.
		method("PCOS", 4, false,
			// Events of the operating system's own are above 0xff.
			ifTrue(less(arg(2), integer(0x100)),
				acquire("BLCK"),
				store(arg(0), nameString("BNUM")),
				and(arg(3), integer(0xff), local(0)),
				shiftLeft(local(0), integer(16), local(0)),
				shiftLeft(arg(2), integer(8), local(1)),
				or(local(0), local(1), local(0)),
				or(local(0), arg(1), nameString("OSTS")),
				release("BLCK"))))
	var look aml
	if c.Board == PC {
		var notifications aml
		for slot := uint8(FirstHotplugSlot); slot < 32; slot++ {
			name := fmt.Sprintf("S%02X", slot<<3)
			out = append(out, device(name, join(address(slot, 0), ejectable(0, slot)))...)
			notifications = append(notifications, notifySlot(name, slot)...)
		}
		look = append(selectBus(0), notifications...)
	}
	for _, p := range c.Ports {
		port := fmt.Sprintf("S%02X", p.Slot<<3|p.Function)
		out = append(out, device(port, address(p.Slot, p.Function), device("S00", address(0, 0), ejectable(p.Index, 0)))...)
		look = append(look, append(selectBus(p.Index), notifySlot(`\_SB.PCI0.`+port+".S00", 0)...)...)
	}
	return join(out, method("PCNT", 0, false, acquire("BLCK"), look, release("BLCK")))
}

func address(slot, function uint8) aml {
	return name("_ADR", integer(uint64(slot)<<16|uint64(function)))
}

// ejectable makes a device object one that can be ejected (6.3). The guest shows _SUN as the slot's number: the slot on the pc
// board, the root port's controller index on q35.
func ejectable(bus, slot uint8) aml {
	number := slot
	if bus != 0 {
		number = bus
	}
	at := []aml{integer(uint64(bus)), integer(uint64(slot))}
	return join(
		name("_SUN", integer(uint64(number))),
		method("_EJ0", 1, false, call("PCEJ", at...)),
		method("_OST", 3, false, call("PCOS", append(at, arg(0), arg(1))...)))
}

// selectBus reads what happened on a bus into Local0 (came) and Local1 (asked to go).
func selectBus(bus uint8) aml {
	return join(store(integer(uint64(bus)), nameString("BNUM")),
		store(nameString("PCIU"), local(0)), store(nameString("PCID"), local(1)))
}

// notifySlot tells the object of a slot what the bits in Local0 and Local1 say.
func notifySlot(object string, slot uint8) aml {
	bit := integer(1 << slot)
	return join(
		ifTrue(and(local(0), bit, nowhere), notify(nameString(object), integer(notifyDeviceCheck))),
		ifTrue(and(local(1), bit, nowhere), notify(nameString(object), integer(notifyEjectRequest))))
}
