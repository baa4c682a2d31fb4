// Package interrupt is how devices raise interrupts without knowing the interrupt controller.
//
// The machine implements Controller over KVM's in-kernel interrupt controllers; tests implement it in memory. Message
// interrupts are eventfds that KVM turns into MSIs itself (irqfd), so that a queue thread, vhost or VFIO signals without
// an ioctl. Start reading at Controller.
package interrupt
