// Package domain is what a domain is: a definition, kept as an XML tree with a typed view.
//
// Parse reads a document, refuses what virtd does not have (naming element, line and column), fills in libvirt's
// defaults, assigns UUID, MACs and PCI addresses once, and puts everything into the order libvirt prints. What has no
// effect on the guest is kept and printed back. schema.txt is the vocabulary: every element and attribute of libvirt's
// domain XML, and whether virtd honours, keeps, does not provide or refuses it.
//
// A Definition is immutable: every change (SetMemory, metadata, a link's state) makes a new one. Live turns a definition
// into the XML of a running domain.
//
// Left out: what the host provides (driver/kvm plans that), storage of definitions (domain/store), states and jobs
// (domain/manager).
//
// Start reading at Parse, then schema.txt.
package domain
