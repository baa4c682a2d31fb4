package main

import (
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

// candidates are what an operand, or an option's value, can be.
type candidates func(*cli.Context, *session) []string

// optionValues are the options whose values a shell completes.
var optionValues = map[string]candidates{"--pool": poolNames, "-p": poolNames, "--network": networkNames, "--mode": modeNames}

// complete prints what the word at the cursor can be: an option, the value of one, or the operand that comes next. It is
// silent on failure, for a shell is no place for errors, and about files, which the shell itself completes.
func complete(operands ...candidates) cli.BashCompleteFunc {
	return func(c *cli.Context) {
		args, _ := c.App.Metadata[argumentsKey].([]string)
		last := args[max(0, len(args)-2)] // the word in front of completionFlag
		choose := optionValues[last]
		switch {
		case choose != nil:
		case strings.HasPrefix(last, "-"):
			cli.DefaultCompleteWithFlags(c.Command)(c)
			return
		case c.NArg() < len(operands):
			choose = operands[c.NArg()]
		case strings.HasSuffix(c.Command.ArgsUsage, "…]"):
			choose = operands[len(operands)-1]
		}
		if choose == nil {
			return
		}
		s, err := open(c)
		if err != nil {
			return
		}
		defer s.Close()
		for _, name := range choose(c, s) {
			fmt.Fprintln(c.App.Writer, name)
		}
	}
}

// names are those of a list that a daemon gave; none of a list that it did not.
func names[T any](list []T, err error, name func(T) string) []string {
	if err != nil {
		return nil
	}
	out := make([]string, 0, len(list))
	for _, v := range list {
		if n := name(v); n != "" {
			out = append(out, n)
		}
	}
	return out
}

// words are candidates that are always the same.
func words(list ...string) candidates {
	return func(*cli.Context, *session) []string { return list }
}

// domainNames are the domains that flags choose.
func domainNames(flags libvirt.ConnectListAllDomainsFlags) candidates {
	return func(_ *cli.Context, s *session) []string {
		list, _, err := s.ConnectListAllDomains(1, flags)
		return names(list, err, func(d libvirt.Domain) string { return d.Name })
	}
}

var (
	activeDomain   = domainNames(libvirt.ConnectListDomainsActive)
	inactiveDomain = domainNames(libvirt.ConnectListDomainsInactive)
	anyDomain      = domainNames(libvirt.ConnectListDomainsActive | libvirt.ConnectListDomainsInactive)
)

// ofDevices are names of the devices that the domain in front of the cursor has.
func ofDevices(name func(domainDevice) string) candidates {
	return func(c *cli.Context, s *session) []string {
		d, err := s.domain(c.Args().First())
		if err != nil {
			return nil
		}
		list, err := s.devices(d, false)
		return names(list, err, name)
	}
}

var (
	deviceAliases = ofDevices(func(v domainDevice) string { return v.Alias })
	diskTargets   = ofDevices(func(v domainDevice) string { return v.targetOf("disk") })
	nicMACs       = ofDevices(func(v domainDevice) string { return v.targetOf("interface") })
)

// targetOf is the target of a device of the kind, "" of others.
func (d domainDevice) targetOf(kind string) string {
	if d.Kind != kind {
		return ""
	}
	return d.Target
}

func networkNames(_ *cli.Context, s *session) []string {
	list, _, err := s.ConnectListAllNetworks(1, 0)
	return names(list, err, func(n libvirt.Network) string { return n.Name })
}

func poolNames(_ *cli.Context, s *session) []string {
	list, _, err := s.ConnectListAllStoragePools(1, 0)
	return names(list, err, func(p libvirt.StoragePool) string { return p.Name })
}

// volumeNames are the volumes of the pool that --pool names.
func volumeNames(c *cli.Context, s *session) []string {
	p, err := s.pool(c.String("pool"))
	if err != nil {
		return nil
	}
	list, _, err := s.StoragePoolListAllVolumes(p, 1, 0)
	return names(list, err, func(v libvirt.StorageVol) string { return v.Name })
}

// hostDevices are the host's devices, those with the flags' capabilities.
func hostDevices(flags libvirt.ConnectListAllNodeDeviceFlags) candidates {
	return func(_ *cli.Context, s *session) []string {
		list, _, err := s.ConnectListAllNodeDevices(1, uint32(flags))
		return names(list, err, func(d libvirt.NodeDevice) string { return d.Name })
	}
}

var (
	anyHostDevice = hostDevices(0)
	pciDevice     = hostDevices(libvirt.ConnectListNodeDevicesCapPciDev)
)
