package confine

import "unsafe"

func pointer(p *[120]byte) unsafe.Pointer { return unsafe.Pointer(p) }
