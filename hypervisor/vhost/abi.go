package vhost

// Requests of /dev/vhost-net (linux/vhost.h); the type is 0xaf.
const (
	reqGetFeatures        = 0x8008af00 // VHOST_GET_FEATURES, _IOR u64
	reqSetFeatures        = 0x4008af00 // VHOST_SET_FEATURES, _IOW u64
	reqSetOwner           = 0x0000af01 // VHOST_SET_OWNER, _IO
	reqSetMemTable        = 0x4008af03 // VHOST_SET_MEM_TABLE, _IOW struct vhost_memory
	reqSetLogBase         = 0x4008af04 // VHOST_SET_LOG_BASE, _IOW u64
	reqSetVringNum        = 0x4008af10 // VHOST_SET_VRING_NUM, _IOW struct vhost_vring_state
	reqSetVringAddr       = 0x4028af11 // VHOST_SET_VRING_ADDR, _IOW struct vhost_vring_addr
	reqSetVringBase       = 0x4008af12 // VHOST_SET_VRING_BASE, _IOW struct vhost_vring_state
	reqGetVringBase       = 0xc008af12 // VHOST_GET_VRING_BASE, _IOWR struct vhost_vring_state
	reqSetVringKick       = 0x4008af20 // VHOST_SET_VRING_KICK, _IOW struct vhost_vring_file
	reqSetVringCall       = 0x4008af21 // VHOST_SET_VRING_CALL, _IOW struct vhost_vring_file
	reqSetVringErr        = 0x4008af22 // VHOST_SET_VRING_ERR, _IOW struct vhost_vring_file
	reqSetBackendFeatures = 0x4008af25 // VHOST_SET_BACKEND_FEATURES, _IOW u64
	reqGetBackendFeatures = 0x8008af26 // VHOST_GET_BACKEND_FEATURES, _IOR u64
	reqNetSetBackend      = 0x4008af30 // VHOST_NET_SET_BACKEND, _IOW struct vhost_vring_file
)

// vringState is struct vhost_vring_state.
type vringState struct{ index, num uint32 }

// vringFile is struct vhost_vring_file. A descriptor of -1 unbinds.
type vringFile struct {
	index uint32
	fd    int32
}

// vringAddr is struct vhost_vring_addr: where the rings are in this process, and in the guest for the log.
type vringAddr struct {
	index, flags      uint32
	desc, used, avail uint64
	logGuest          uint64
}

// vringLogUsed is VHOST_VRING_F_LOG in vringAddr.flags: log writes to the used ring.
const vringLogUsed = 1 << 0

// memoryRegion is struct vhost_memory_region.
type memoryRegion struct {
	guest, size, user, flags uint64
}

// memoryHeader is struct vhost_memory without its regions, which follow.
type memoryHeader struct{ regions, padding uint32 }

// featureLogAll is VHOST_F_LOG_ALL: log writes to buffers.
const featureLogAll uint64 = 1 << 26

// maxRegions is the kernel's default limit (max_mem_regions of the module vhost).
const maxRegions = 64
