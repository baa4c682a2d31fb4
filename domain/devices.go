package domain

import (
	"strings"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// devices completes and checks every device, then gives each its place.
func (d *Definition) devices() error {
	root := d.doc.Root.Ensure("devices")
	if e := root.Child("emulator"); e != nil {
		e.SetContent(d.opts.Emulator)
	} else {
		root.InsertAt(0, xmltree.NewText("emulator", d.opts.Emulator))
	}
	for _, step := range []func(devices *xmltree.Node) error{
		d.readDisks, d.readInterfaces, d.readChardevs, d.readBalloon, d.readRNGs, d.readPanic, d.readHostdevs, d.readIOMMUFD, d.readIdle, d.checkInfo, d.checkROMs,
		d.assignAddresses,
	} {
		if err := step(root); err != nil {
			return err
		}
	}
	return nil
}

func (d *Definition) readBalloon(devices *xmltree.Node) error {
	b := devices.Child("memballoon")
	if b == nil {
		b = devices.Append(xmltree.New("memballoon", "model", "virtio"))
	}
	setDefault(b, "model", "virtio")
	if b.Attr("model") != "none" {
		return nil
	}
	for _, attr := range []string{"autodeflate", "freePageReporting"} {
		if b.Attr(attr) == "on" && !d.opts.Stored {
			return b.Errorf(virterr.ConfigUnsupported, "%s='on' needs a memballoon, but its model is none", attr)
		}
	}
	return nil
}

func (d *Definition) readRNGs(devices *xmltree.Node) error {
	for _, rng := range devices.All("rng") {
		setDefault(rng, "model", "virtio")
		if rate := rng.Child("rate"); rate != nil {
			if err := d.checkRate(rate); err != nil {
				return err
			}
		}
		backend := rng.Child("backend")
		if backend == nil {
			return rng.Errorf(virterr.XMLError, "missing RNG device backend: <rng> needs <backend model='random'>")
		}
		setDefault(backend, "model", "random")
		if backend.Attr("model") != "random" {
			continue
		}
		path := backend.Trimmed()
		if path == "" {
			path = "/dev/urandom"
		}
		if path[0] != '/' {
			return backend.Errorf(virterr.XMLError, "path '%s' of RNG backend must be absolute", path)
		}
		backend.SetContent(path)
	}
	return nil
}

func (d *Definition) checkRate(rate *xmltree.Node) error {
	if rate.Attr("bytes") == "" || rate.Attr("bytes") == "0" {
		return rate.Errorf(virterr.XMLError, "missing or invalid RNG rate bytes")
	}
	if rate.Attr("period") == "0" {
		return rate.Errorf(virterr.XMLError, "invalid RNG rate period: it must be at least 1 millisecond")
	}
	return nil
}

// panicPort is where pvpanic answers, as libvirt prints it.
const panicPort = "0x505"

func (d *Definition) readPanic(devices *xmltree.Node) error {
	panics := devices.All("panic")
	if len(panics) > 1 && !d.opts.Stored {
		return panics[1].Errorf(virterr.ConfigUnsupported, "only one panic device is supported")
	}
	for _, p := range panics {
		setDefault(p, "model", "isa")
		address := p.Child("address")
		if address == nil {
			address = p.Append(xmltree.New("address", "type", "isa", "iobase", panicPort))
		}
		if address.Attr("type") != "isa" || address.Attr("iobase") != panicPort {
			return address.Errorf(virterr.ConfigUnsupported, "the panic device is only available at ISA port %s", panicPort)
		}
	}
	return nil
}

// readIdle completes devices that are kept without being provided, so that NotProvided finds them. PS/2 inputs are the
// machine's own i8042; without a display nobody types there, so the guest is told nothing untrue.
func (d *Definition) readIdle(devices *xmltree.Node) error {
	if d.opts.Stored {
		return nil
	}
	for _, v := range devices.All("video") {
		setDefault(v.Ensure("model"), "type", "vga")
	}
	for _, in := range devices.All("input") {
		if in.Attr("type") == "" {
			return in.Errorf(virterr.XMLError, "missing input device type")
		}
		if in.Attr("bus") == "" {
			in.SetAttr("bus", "ps2")
		}
		if in.Attr("type") == "mouse" && in.Attr("bus") == "virtio" {
			return in.Errorf(virterr.ConfigUnsupported, "input of type 'mouse' on bus 'virtio' is not supported: there is no display; virtio inputs are keyboards")
		}
	}
	for _, c := range devices.All("controller") {
		if c.Attr("type") == "usb" {
			setDefault(c, "model", map[bool]string{true: "qemu-xhci", false: "piix3-uhci"}[d.IsQ35()])
		}
	}
	return nil
}

// checkInfo checks what devices of every kind have: aliases are unique.
func (d *Definition) checkInfo(devices *xmltree.Node) error {
	seen := map[string]bool{}
	for _, dev := range devices.Elements() {
		alias := dev.Child("alias")
		name := alias.Attr("name")
		if alias == nil || d.opts.Live && !strings.HasPrefix(name, "ua-") {
			continue
		}
		if name == "" {
			return alias.Errorf(virterr.XMLError, "device alias without name")
		}
		if seen[name] {
			if dev.Is("console") {
				continue // shares its serial port's alias
			}
			return alias.Errorf(virterr.XMLError, "non unique alias detected: %s", name)
		}
		seen[name] = true
	}
	return nil
}
