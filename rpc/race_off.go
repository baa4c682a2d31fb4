//go:build !race

package rpc

func raceAcquire(uintptr) {}
func raceRelease(uintptr) {}
