// Package cpuid decides what a guest's CPUID instruction answers. Everything is a pure function of what KVM says it can
// offer on this host (KVM_GET_SUPPORTED_CPUID) and of the domain's <cpu>.
//
// Features and models have libvirt's names. Bits are from the Intel SDM volume 2A (CPUID) and AMD64 APM volume 3
// (appendix E); KVM's own leaves from Linux Documentation/virt/kvm/x86/cpuid.rst.
//
// A domain without <cpu> gets DefaultModel.
//
// The package leaves out MSRs: features that are bits of IA32_ARCH_CAPABILITIES or of the VMX capability MSRs are known
// by name and never available. Start reading at Guest; for models at HostModel and Usable.
package cpuid
