package rpc

// DomainDiskError is libvirt's remote_domain_disk_error. It stands here because go-libvirt's has a field that no other
// package can set.
type DomainDiskError struct {
	Disk  string
	Error int32 // virDomainDiskErrorCode: 1 unspecified, 2 no space
}

// DomainGetDiskErrorsRet is libvirt's remote_domain_get_disk_errors_ret.
type DomainGetDiskErrorsRet struct {
	Errors  []DomainDiskError
	Nerrors int32
}
