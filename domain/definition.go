package domain

import (
	"strconv"
	"sync/atomic"

	"github.com/google/uuid"
	"libvirt.org/go/libvirtxml"

	"virtd/domain/xmltree"
)

// Options says how a document is read. The zero value is what DomainDefineXML means.
type Options struct {
	// Validate refuses elements and attributes that libvirt's domain XML does not have (VIR_DOMAIN_DEFINE_VALIDATE).
	Validate bool
	// Stored marks text that Parse accepted before: nothing is refused for being unsupported, so that a definition
	// accepted by another build still loads. Starting it checks again.
	Stored bool
	// Live keeps what only a running domain has: id, aliases, paths. Without it that is removed.
	Live bool
	// Emulator is the path shown in <emulator>; "" means DefaultEmulator.
	Emulator string
}

// DefaultEmulator is the engine's path where packages install it.
const DefaultEmulator = "/usr/libexec/virtd/virtd-vmm"

// Definition is one domain as its XML says. It is immutable and safe for concurrent use; methods that change something
// return a new Definition.
type Definition struct {
	doc  *xmltree.Document
	opts Options
	view atomic.Pointer[libvirtxml.Domain] // nil until View makes it

	name   string
	uuid   uuid.UUID
	memory uint64 // KiB
	curMem uint64 // KiB
	vcpus  []VCPU // by number
}

// XMLFlags are libvirt's virDomainXMLFlags.
type XMLFlags uint32

// The flags of Definition.XML, with libvirt's numbers.
const (
	XMLSecure     XMLFlags = 1 // print passwords
	XMLInactive   XMLFlags = 2 // without what only a running domain has
	XMLUpdateCPU  XMLFlags = 4 // accepted, changes nothing: host-model is expanded at start
	XMLMigratable XMLFlags = 8 // as another host should see it; like XMLInactive
)

// Name returns the domain's name.
func (d *Definition) Name() string { return d.name }

// UUID returns the domain's UUID.
func (d *Definition) UUID() uuid.UUID { return d.uuid }

// Memory returns the maximum memory (<memory>) in KiB.
func (d *Definition) Memory() uint64 { return d.memory }

// CurrentMemory returns <currentMemory> in KiB: the balloon's target, at most Memory.
func (d *Definition) CurrentMemory() uint64 { return d.curMem }

// Title returns <title>, or "".
func (d *Definition) Title() string { return d.doc.Root.Child("title").Content() }

// Description returns <description>, or "".
func (d *Definition) Description() string { return d.doc.Root.Child("description").Content() }

// OSType returns what virDomainGetOSType answers: hvm.
func (d *Definition) OSType() string { return d.doc.Root.Child("os", "type").Trimmed() }

// Tree returns a copy of the document; changes to it change nothing else.
func (d *Definition) Tree() *xmltree.Document { return d.doc.Clone() }

// ID returns the number of the running domain, or -1 in a definition that is not live.
func (d *Definition) ID() int {
	id, err := strconv.Atoi(d.doc.Root.Attr("id"))
	if err != nil {
		return -1
	}
	return id
}

// Check refuses what this build does not have. Parse has done so already, except for definitions read with
// Options.Stored, which another build may have accepted.
func (d *Definition) Check() error {
	opts := d.opts
	opts.Stored, opts.Validate = false, false
	_, err := build(d.doc.Clone(), opts)
	return err
}
