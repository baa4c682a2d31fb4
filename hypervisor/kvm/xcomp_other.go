//go:build !amd64

package kvm

import "errors"

// PermitGuestTiles fails: there is no AMX.
func PermitGuestTiles() error { return errors.New("AMX is x86-64's") }
