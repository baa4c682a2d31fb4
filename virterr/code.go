package virterr

// Code is a libvirt error number (virErrorNumber in libvirt's virterror.h). Clients branch on it.
type Code int32

// The codes that virtd answers with. Names and numbers are libvirt's.
const (
	InternalError        Code = 1
	NoMemory             Code = 2
	NoSupport            Code = 3
	NoConnect            Code = 5
	InvalidConn          Code = 6
	InvalidDomain        Code = 7
	InvalidArg           Code = 8
	OperationFailed      Code = 9
	NoKernel             Code = 14
	NoName               Code = 21
	NoOS                 Code = 22
	NoDevice             Code = 23
	DriverFull           Code = 25
	CallFailed           Code = 26
	XMLError             Code = 27
	DomExist             Code = 28
	OperationDenied      Code = 29
	ParseFailed          Code = 32
	RPC                  Code = 39
	SystemError          Code = 38
	InvalidNetwork       Code = 36
	NetworkExist         Code = 37
	NoDomain             Code = 42
	NoNetwork            Code = 43
	InvalidMAC           Code = 44
	AuthFailed           Code = 45
	InvalidStoragePool   Code = 46
	InvalidStorageVol    Code = 47
	NoStoragePool        Code = 49
	NoStorageVol         Code = 50
	InvalidNodeDevice    Code = 52
	NoNodeDevice         Code = 53
	NoSecurityModel      Code = 54
	OperationInvalid     Code = 55
	NoInterface          Code = 57
	MultipleInterfaces   Code = 59
	NoNWFilter           Code = 62
	InvalidSecret        Code = 65
	NoSecret             Code = 66
	ConfigUnsupported    Code = 67
	OperationTimeout     Code = 68
	NoDomainSnapshot     Code = 72
	ArgumentUnsupported  Code = 74
	OperationAborted     Code = 78
	AuthCancelled        Code = 79
	NoDomainMetadata     Code = 80
	OperationUnsupported Code = 84
	AgentUnresponsive    Code = 86
	ResourceBusy         Code = 87
	AccessDenied         Code = 88
	StorageVolExist      Code = 90
	CPUIncompatible      Code = 91
	XMLInvalidSchema     Code = 92
	AuthUnavailable      Code = 94
	NoServer             Code = 95
	NoClient             Code = 96
	DeviceMissing        Code = 99
	NoNWFilterBinding    Code = 101
	NoDomainCheckpoint   Code = 103
	NetworkPortExist     Code = 106
	NoNetworkPort        Code = 107
)

// From is the libvirt subsystem an error comes from (virErrorDomain in libvirt's virterror.h).
type From int32

// The subsystems that virtd reports. Names and numbers are libvirt's.
const (
	FromNone      From = 0
	FromXML       From = 5
	FromDom       From = 6
	FromRPC       From = 7
	FromConf      From = 9
	FromQEMU      From = 10
	FromNet       From = 11
	FromNetwork   From = 19
	FromStorage   From = 18
	FromDomain    From = 20
	FromNodeDev   From = 22
	FromSecurity  From = 24
	FromInterface From = 26
	FromSecret    From = 30
	FromNWFilter  From = 33
	FromStreams   From = 38
	FromEvent     From = 40
	FromCPU       From = 31
	FromSysinfo   From = 37
	FromAuth      From = 46
)
