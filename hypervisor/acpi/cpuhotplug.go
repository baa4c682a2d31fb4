package acpi

import (
	"fmt"

	"virtd/hypervisor/chipset"
)

// processorContainer is the device that has all processors the machine can have, and the methods by which they come and
// go. Selecting a processor and reading its registers are steps that nothing may come between; CPLK sees to that.
func processorContainer(c *Config) aml {
	flags, selector := nameString("CFLG"), nameString("CSEL")
	locked := func(body ...aml) aml { return join(acquire("CPLK"), join(body...), release("CPLK")) }
	methods := join(
		// CPST tells whether processor Arg0 is there, as _STA does.
		method("CPST", 1, false,
			store(integer(0), local(0)),
			locked(store(arg(0), selector),
				ifTrue(and(flags, integer(chipset.CPUFlagEnabled), nowhere), store(integer(0x0f), local(0)))),
			ret(local(0))),
		// CPEJ lets processor Arg0 go.
		method("CPEJ", 1, false,
			locked(store(arg(0), selector), store(integer(chipset.CPUFlagEject), flags))),
		// CPOS passes on what became (Arg2) of event Arg1 for processor Arg0.
		method("CPOS", 3, false,
			locked(store(arg(0), selector),
				command(chipset.CPUCommandOSTEvent), store(arg(1), nameString("CDAT")),
				command(chipset.CPUCommandOSTStatus), store(arg(2), nameString("CDAT")))),
		notifyProcessor(c),
		scanProcessors(locked))
	out := join(
		name("_HID", str("ACPI0010")), name("_CID", eisaID("PNP0A05")),
		ports("CPRG", chipset.CPUHotplugPort, chipset.CPUHotplugPorts),
		dwords("CPRG", "CSEL", "", "CDAT"),
		octets("CPRG", "", "", "", "", "CFLG", "CCMD"),
		mutex("CPLK"),
		methods)
	for uid, cpu := range c.CPUs {
		out = append(out, processor(uid, cpu.APICID)...)
	}
	return device("CPUS", out)
}

func command(c uint64) aml { return store(integer(c), nameString("CCMD")) }

// processor is one of them. The first one stays for ever (8.4).
func processor(uid int, id uint32) aml {
	number := integer(uint64(uid))
	out := join(
		name("_HID", str("ACPI0007")), name("_UID", number),
		// Of a processor that is there, for those who read it are the ones who just heard of it.
		name("_MAT", buffer(localAPIC(uid, id, madtEnabled))),
		method("_STA", 0, false, ret(call("CPST", number))))
	if uid != 0 {
		out = join(out,
			method("_EJ0", 1, false, call("CPEJ", number)),
			method("_OST", 3, false, call("CPOS", number, arg(0), arg(1))))
	}
	return device(processorName(uid), out)
}

func processorName(uid int) string { return fmt.Sprintf("C%03X", uid) }

// notifyProcessor is CPNT, which gives processor Arg0 the notification Arg1.
func notifyProcessor(c *Config) aml {
	var body aml
	for uid := 1; uid < len(c.CPUs); uid++ {
		body = append(body, ifTrue(equal(arg(0), integer(uint64(uid))), notify(nameString(processorName(uid)), arg(1)))...)
	}
	return method("CPNT", 2, false, body)
}

// scanProcessors is CSCN: it notifies each processor that has an event, and takes the event back, until there is none.
func scanProcessors(locked func(...aml) aml) aml {
	told := func(event, notification uint64) aml {
		return ifTrue(and(local(1), integer(event), nowhere),
			call("CPNT", nameString("CDAT"), integer(notification)),
			store(integer(event), nameString("CFLG")),
			store(integer(1), local(0)))
	}
	return method("CSCN", 0, false, locked(
		store(integer(0), nameString("CSEL")), // one that exists
		store(integer(1), local(0)),
		while(local(0),
			store(integer(0), local(0)),
			command(chipset.CPUCommandNext),
			store(nameString("CFLG"), local(1)),
			told(chipset.CPUFlagInserting, notifyDeviceCheck),
			told(chipset.CPUFlagRemoving, notifyEjectRequest))))
}
