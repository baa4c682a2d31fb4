// Package kvm is the Linux KVM API for x86-64, typed: the only place of the engine that issues KVM ioctls.
//
// System is /dev/kvm, VM one virtual machine, VCPU one processor with its shared run page. Structures have the layout of
// the kernel's uapi headers (linux/kvm.h, asm/kvm.h); a test checks their sizes against the size bits of the ioctl
// numbers. Methods return the kernel's errno wrapped with what was attempted; they never retry EINTR in silence, because
// an interrupted KVM_RUN is how a vCPU is stopped.
//
// The package leaves out policy: what a machine looks like, who runs a vCPU and when. Start reading at System.
package kvm
