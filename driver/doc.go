// Package driver is the seam between the manager of domains and the engine that runs them: Driver starts or adopts one
// engine process for each domain, Instance is that running engine.
//
// driver/kvm is the driver of virtd's own engine, driver/fake one without processes for tests. The package leaves out
// states, jobs and what clients see: domain/manager has them. Start reading at Driver.
package driver
