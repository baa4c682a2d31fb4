package pci

// Offsets of the configuration header (PCI 3.0, 6.1; bridges: PCI-to-PCI Bridge 1.2, 3.2).
const (
	regVendor       = 0x00
	regDevice       = 0x02
	regCommand      = 0x04
	regStatus       = 0x06
	regRevision     = 0x08
	regClass        = 0x09
	regCacheLine    = 0x0c
	regHeaderType   = 0x0e
	regBAR0         = 0x10
	regPrimaryBus   = 0x18 // type 1
	regSecondaryBus = 0x19
	regSubordinate  = 0x1a
	regIOBase       = 0x1c
	regIOLimit      = 0x1d
	regSecStatus    = 0x1e
	regMemoryBase   = 0x20
	regMemoryLimit  = 0x22
	regPrefBase     = 0x24
	regPrefLimit    = 0x26
	regPrefBaseHi   = 0x28
	regPrefLimitHi  = 0x2c
	regIOBaseHi     = 0x30
	regIOLimitHi    = 0x32
	regSubVendor    = 0x2c // type 0
	regSubDevice    = 0x2e
	regROM          = 0x30 // type 0
	regCapPointer   = 0x34
	regIntLine      = 0x3c
	regIntPin       = 0x3d
	regBridgeCtl    = 0x3e // type 1

	endHeader = 0x40
)

// COMMAND bits (PCI 3.0, 6.2.2).
const (
	commandIO          = 1 << 0
	commandMemory      = 1 << 1
	commandMaster      = 1 << 2
	commandParity      = 1 << 6
	commandSERR        = 1 << 8
	commandINTxDisable = 1 << 10
)

// STATUS bits (PCI 3.0, 6.2.3).
const (
	statusINTx   = 1 << 3
	statusCaps   = 1 << 4
	statusErrors = 0xf900 // write one to clear
)

const (
	headerBridge        = 1
	headerMultiFunction = 0x80
)

// BAR bits (PCI 3.0, 6.2.5.1).
const (
	barIO           = 1 << 0
	bar64           = 2 << 1
	barPrefetchable = 1 << 3
	romEnable       = 1 << 0 // 6.2.5.2
)

// Capability identifiers (PCI Code and ID Assignment 1.11, 2).
const (
	CapPowerManagement = 0x01
	CapVendor          = 0x09
	CapSubsystem       = 0x0d
	CapExpress         = 0x10
	CapMSIX            = 0x11
)
