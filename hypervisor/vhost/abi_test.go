package vhost

import "testing"

// TestRequestSizes compares the size that each request number carries (_IOC_SIZE) with its argument's.
func TestRequestSizes(t *testing.T) {
	for name, c := range map[string]struct {
		req  uint
		size uintptr
	}{
		"GET_FEATURES":         {reqGetFeatures, 8},
		"SET_FEATURES":         {reqSetFeatures, 8},
		"SET_OWNER":            {reqSetOwner, 0},
		"SET_MEM_TABLE":        {reqSetMemTable, sizeMemoryHeader},
		"SET_LOG_BASE":         {reqSetLogBase, 8},
		"SET_VRING_NUM":        {reqSetVringNum, sizeVringState},
		"SET_VRING_ADDR":       {reqSetVringAddr, sizeVringAddr},
		"SET_VRING_BASE":       {reqSetVringBase, sizeVringState},
		"GET_VRING_BASE":       {reqGetVringBase, sizeVringState},
		"SET_VRING_KICK":       {reqSetVringKick, sizeVringFile},
		"SET_VRING_CALL":       {reqSetVringCall, sizeVringFile},
		"SET_VRING_ERR":        {reqSetVringErr, sizeVringFile},
		"SET_BACKEND_FEATURES": {reqSetBackendFeatures, 8},
		"GET_BACKEND_FEATURES": {reqGetBackendFeatures, 8},
		"NET_SET_BACKEND":      {reqNetSetBackend, sizeVringFile},
	} {
		if got := uintptr(c.req >> 16 & 0x3fff); got != c.size {
			t.Errorf("%s: request says %d bytes, argument has %d", name, got, c.size)
		}
		if c.req>>8&0xff != 0xaf {
			t.Errorf("%s: request %#x is not of type 0xaf", name, c.req)
		}
	}
	if sizeMemoryRegion != 32 {
		t.Errorf("struct vhost_memory_region has %d bytes, 32 in the kernel", sizeMemoryRegion)
	}
}
