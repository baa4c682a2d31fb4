package kvm

// The request numbers of linux/kvm.h. The size of the argument structure is in bits 16 to 29.
const (
	reqGetAPIVersion    = 0xae00
	reqCreateVM         = 0xae01
	reqGetMSRIndexList  = 0xc004ae02
	reqCheckExtension   = 0xae03
	reqGetVCPUMmapSize  = 0xae04
	reqGetSupportedCPU  = 0xc008ae05
	reqGetMSRFeatures   = 0xc004ae0a
	reqCreateVCPU       = 0xae41
	reqGetDirtyLog      = 0x4010ae42
	reqSetMemoryRegion  = 0x4020ae46
	reqSetTSSAddr       = 0xae47
	reqSetIdentityMap   = 0x4008ae48
	reqCreateIRQChip    = 0xae60
	reqIRQLine          = 0x4008ae61
	reqGetIRQChip       = 0xc208ae62
	reqSetIRQChip       = 0x8208ae63
	reqSetGSIRouting    = 0x4008ae6a
	reqIRQFD            = 0x4020ae76
	reqCreatePIT2       = 0x4040ae77
	reqIOEventFD        = 0x4040ae79
	reqSetClock         = 0x4030ae7b
	reqGetClock         = 0x8030ae7c
	reqGetPIT2          = 0x8070ae9f
	reqSetPIT2          = 0x4070aea0
	reqEnableCap        = 0x4068aea3
	reqSignalMSI        = 0x4020aea5
	reqRun              = 0xae80
	reqGetRegs          = 0x8090ae81
	reqSetRegs          = 0x4090ae82
	reqGetSRegs         = 0x8138ae83
	reqSetSRegs         = 0x4138ae84
	reqGetMSRs          = 0xc008ae88
	reqSetMSRs          = 0x4008ae89
	reqGetFPU           = 0x81a0ae8c
	reqSetFPU           = 0x41a0ae8d
	reqGetLAPIC         = 0x8400ae8e
	reqSetLAPIC         = 0x4400ae8f
	reqSetCPUID2        = 0x4008ae90
	reqGetCPUID2        = 0xc008ae91
	reqGetMPState       = 0x8004ae98
	reqSetMPState       = 0x4004ae99
	reqNMI              = 0xae9a
	reqGetVCPUEvents    = 0x8040ae9f
	reqSetVCPUEvents    = 0x4040aea0
	reqGetDebugRegs     = 0x8080aea1
	reqSetDebugRegs     = 0x4080aea2
	reqSetTSCKHz        = 0xaea2
	reqGetTSCKHz        = 0xaea3
	reqGetXSave         = 0x9000aea4
	reqSetXSave         = 0x5000aea5
	reqGetXSave2        = 0x9000aecf
	reqGetXCRs          = 0x8188aea6
	reqSetXCRs          = 0x4188aea7
	reqKVMClockCtrl     = 0xaead
	reqSetDeviceAttr    = 0x4018aee1
	reqGetDeviceAttr    = 0x4018aee2
	apiVersion          = 12 // the only version there has been since Linux 2.6.22
	defaultIdentityBase = 0xfffbc000
)

// Capability is an argument of KVM_CHECK_EXTENSION.
type Capability uintptr

// Capabilities that the engine asks for.
const (
	CapIRQChip          Capability = 0
	CapNRVCPUs          Capability = 9
	CapNRMemslots       Capability = 10
	CapIRQRouting       Capability = 25
	CapIRQFD            Capability = 32
	CapPIT2             Capability = 33
	CapIOEventFD        Capability = 36
	CapAdjustClock      Capability = 39 // the value is the set of clock flags
	CapTSCControl       Capability = 60
	CapMaxVCPUs         Capability = 66
	CapTSCDeadlineTimer Capability = 72
	CapKVMClockCtrl     Capability = 76
	CapReadonlyMem      Capability = 81
	CapIRQFDResample    Capability = 82
	CapIOEventFDAnyLen  Capability = 122
	CapMaxVCPUID        Capability = 128
	CapX2APICAPI        Capability = 129
	CapImmediateExit    Capability = 136
	CapExceptionPayload Capability = 164
	CapXSave2           Capability = 208 // the value is the bytes of the xsave area
	CapTripleFaultEvent Capability = 218
)
