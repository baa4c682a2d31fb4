// Package kvm is the driver that runs domains on virtd's own engine, one virtd-vmm process for each.
//
// Plan turns a definition into hypervisor.Config and a list of host resources, purely. Driver opens those resources,
// starts the engine apart from virtd (supervise), drives it through its monitor (qmp), and finds it again after a restart
// of virtd by a record of its own. Everything an engine needs is passed as a descriptor: paths are virtd's business.
//
// Left out: states and jobs (domain/manager), bridges and taps (network/bridge), what happens inside the engine
// (hypervisor). Start reading at Plan and Driver.
package kvm
