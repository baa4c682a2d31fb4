package vhostuser

import "time"

// SetPatience says how long front ends made from now on wait for back ends, until the returned function is called.
func SetPatience(hello, start, stop time.Duration) (undo func()) {
	before := usual
	usual = patience{hello, start, stop, time.Millisecond}
	return func() { usual = before }
}
