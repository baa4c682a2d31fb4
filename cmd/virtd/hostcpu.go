package main

import (
	"fmt"
	"slices"
	"strings"

	"virtd/daemon"
	"virtd/domain"
	"virtd/hypervisor/cpuid"
	"virtd/hypervisor/kvm"
)

// hostCPU tells what KVM offers guests on this host. It asks each time: an update of the kernel's module changes it.
type hostCPU struct{}

var (
	_ domain.HostCPU   = hostCPU{}
	_ daemon.CPULister = hostCPU{}
)

func supportedCPUID() ([]cpuid.Entry, error) {
	sys, err := kvm.Open()
	if err != nil {
		return nil, fmt.Errorf("ask KVM what it offers guests: %w", err)
	}
	defer sys.Close()
	list, err := sys.SupportedCPUID()
	if err != nil {
		return nil, fmt.Errorf("ask KVM what it offers guests: %w", err)
	}
	entries := make([]cpuid.Entry, len(list))
	for i, e := range list {
		entries[i] = cpuid.Entry{Function: e.Function, Index: e.Index, Flags: e.Flags, EAX: e.EAX, EBX: e.EBX, ECX: e.ECX, EDX: e.EDX}
	}
	return entries, nil
}

// HostModel implements domain.HostCPU.
func (hostCPU) HostModel() (domain.CPUModel, error) {
	entries, err := supportedCPUID()
	if err != nil {
		return domain.CPUModel{}, err
	}
	host := cpuid.HostModel(entries)
	m := domain.CPUModel{Name: host.Model, Vendor: vendor(host.Vendor)}
	for _, f := range host.Required {
		m.Features = append(m.Features, domain.CPUFeature{Name: f, Policy: "require"})
	}
	for _, f := range host.Disabled {
		m.Features = append(m.Features, domain.CPUFeature{Name: f, Policy: "disable"})
	}
	slices.SortFunc(m.Features, func(a, b domain.CPUFeature) int { return strings.Compare(a.Name, b.Name) })
	return m, nil
}

// CPUModels implements daemon.CPULister.
func (hostCPU) CPUModels() ([]daemon.CPUChoice, error) {
	entries, err := supportedCPUID()
	if err != nil {
		return nil, err
	}
	var list []daemon.CPUChoice
	for _, m := range cpuid.Models() {
		ok, _, err := cpuid.Usable(entries, m.Name)
		if err != nil {
			return nil, err
		}
		list = append(list, daemon.CPUChoice{Name: m.Name, Vendor: vendor(m.Vendor), Usable: ok, Features: m.Needs()})
	}
	return list, nil
}

// vendor is libvirt's word for what CPUID leaf 0 spells out.
func vendor(id string) string {
	switch id {
	case cpuid.Intel:
		return "Intel"
	case cpuid.AMD:
		return "AMD"
	}
	return ""
}
