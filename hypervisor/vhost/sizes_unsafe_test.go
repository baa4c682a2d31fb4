package vhost

import "unsafe"

const (
	sizeVringState   = unsafe.Sizeof(vringState{})
	sizeVringFile    = unsafe.Sizeof(vringFile{})
	sizeVringAddr    = unsafe.Sizeof(vringAddr{})
	sizeMemoryHeader = unsafe.Sizeof(memoryHeader{})
	sizeMemoryRegion = unsafe.Sizeof(memoryRegion{})
)
