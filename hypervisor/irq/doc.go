// Package irq implements interrupt.Controller and interrupt.Doorbells on KVM's in-kernel interrupt controllers.
//
// A message interrupt is an eventfd bound to a global system interrupt of its own (irqfd) and a route from there to the
// message. Masking takes the binding away, so that signals stay in the eventfd and are delivered when it comes back: no
// interrupt is lost and none needs the engine. Lines are shared pins of the IOAPIC and the PICs.
//
// Start reading at Controller.
package irq
