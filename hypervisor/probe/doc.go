// Package probe answers one question: can a Linux kernel run on this host's KVM?
//
// Some KVMs run guest code at privilege level 0 in an instruction emulator. Purpose-built guests run there; Linux stops
// at the first instruction that the emulator does not know. The probe guest executes three of them. Start reading at Run.
package probe
