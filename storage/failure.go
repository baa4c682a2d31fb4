package storage

import "virtd/virterr"

// failure is an error of this package.
func failure(code virterr.Code, format string, args ...any) error {
	return virterr.NewFrom(virterr.FromStorage, code, format, args...)
}
