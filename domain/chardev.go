package domain

import (
	"strconv"

	"virtd/domain/xmltree"
	"virtd/virterr"
)

// MaxSerials is how many 16550 ports a PC has: COM1 to COM4.
const MaxSerials = 4

func (d *Definition) readChardevs(devices *xmltree.Node) error {
	pairConsole(devices)
	if err := d.readSerials(devices); err != nil {
		return err
	}
	return d.readConsoles(devices)
}

// pairConsole keeps the first console and the first serial port the same thing, as libvirt does for full
// virtualization: each is made from the other when it is missing.
func pairConsole(devices *xmltree.Node) {
	console, serial := devices.Child("console"), devices.Child("serial")
	if console != nil {
		if t := console.Child("target").Attr("type"); t != "" && t != "serial" {
			return
		}
	}
	switch {
	case console == nil && serial == nil:
		return
	case serial == nil:
		serial = console.Clone()
		serial.Name.Local = "serial"
		serial.RemoveAll("target")
		devices.Append(serial)
	case console == nil:
		console = devices.Append(xmltree.New("console"))
	}
	twin := serial.Clone()
	twin.Name.Local = "console"
	twin.Line, twin.Col = console.Line, console.Col
	twin.RemoveAll("target")
	twin.RemoveAll("address")
	tty, ok := console.LookupAttr("tty")
	twin.Append(xmltree.New("target", "type", "serial", "port", "0"))
	if ok {
		twin.SetAttr("tty", tty)
	}
	console.Replace(twin)
}

func (d *Definition) readSerials(devices *xmltree.Node) error {
	used := map[int]bool{}
	serials := devices.All("serial")
	for _, s := range serials {
		if text, ok := s.Child("target").LookupAttr("port"); ok {
			port, err := strconv.Atoi(text)
			if err != nil || port < 0 || port >= MaxSerials {
				return s.Errorf(virterr.ConfigUnsupported, "serial port '%s' is not supported: ports are 0 to %d", text, MaxSerials-1)
			}
			if used[port] {
				return s.Errorf(virterr.XMLError, "serial port %d is given twice", port)
			}
			used[port] = true
		}
	}
	for _, s := range serials {
		if err := d.checkChardev(s); err != nil {
			return err
		}
		target := s.Ensure("target")
		setDefault(target, "type", "isa-serial")
		if _, ok := target.LookupAttr("port"); !ok {
			port := 0
			for used[port] {
				port++
			}
			if port >= MaxSerials {
				return s.Errorf(virterr.ConfigUnsupported, "more than %d serial ports are not supported", MaxSerials)
			}
			used[port] = true
			target.SetAttr("port", strconv.Itoa(port))
		}
		setDefault(target.Ensure("model"), "name", "isa-serial")
	}
	return nil
}

func (d *Definition) readConsoles(devices *xmltree.Node) error {
	for i, c := range devices.All("console") {
		if err := d.checkChardev(c); err != nil {
			return err
		}
		target := c.Ensure("target")
		setDefault(target, "type", "serial")
		if i > 0 && target.Attr("type") == "serial" && !d.opts.Stored {
			return c.Errorf(virterr.ConfigUnsupported, "Only the first console can be a serial port")
		}
		target.SetAttr("port", strconv.Itoa(i))
	}
	return nil
}

// checkChardev checks the host side of a serial port or console.
func (d *Definition) checkChardev(c *xmltree.Node) error {
	setDefault(c, "type", "pty")
	source := c.Child("source")
	switch c.Attr("type") {
	case "unix":
		if source.Attr("path") == "" {
			return c.Errorf(virterr.XMLError, "Missing source path attribute for char device: <%s type='unix'> needs <source path=>", c.Name)
		}
		setDefault(source, "mode", "bind")
		if len(source.Attr("path")) > 107 { // sizeof(sun_path) less the terminating zero
			return source.Errorf(virterr.XMLError, "path of unix socket '%s' is longer than 107 bytes", source.Attr("path"))
		}
	case "file":
		if source.Attr("path") == "" {
			return c.Errorf(virterr.XMLError, "Missing source path attribute for char device: <%s type='file'> needs <source path=>", c.Name)
		}
	}
	if path := source.Attr("path"); path != "" && path[0] != '/' {
		return source.Errorf(virterr.XMLError, "path '%s' of <%s> must be absolute", path, c.Name)
	}
	if log := c.Child("log"); log != nil {
		if file := log.Attr("file"); file == "" || file[0] != '/' {
			return log.Errorf(virterr.XMLError, "<log> needs the absolute path of a file, not '%s'", file)
		}
	}
	return nil
}
