package sasl

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
)

// decode reads a file's content and checks that conversations can rely on it.
func decode(in io.Reader) (*file, error) {
	d := json.NewDecoder(io.LimitReader(in, maxFile))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	switch {
	case f.Version != fileVersion:
		return nil, fmt.Errorf("its version is %d; this virtd knows %d", f.Version, fileVersion)
	case f.Iterations < 4096 || f.Iterations > 65536:
		return nil, fmt.Errorf("%d iterations are not from 4096 to 65536", f.Iterations)
	case len(f.Decoy) != sha256.Size:
		return nil, fmt.Errorf("the decoy has %d bytes, not %d", len(f.Decoy), sha256.Size)
	}
	for name, k := range f.Users {
		if len(k.Salt) != saltSize || len(k.StoredKey) != sha256.Size || len(k.ServerKey) != sha256.Size {
			return nil, fmt.Errorf("the keys of user %q do not have the lengths of SCRAM-SHA-256", name)
		}
	}
	if f.Users == nil {
		f.Users = map[string]keys{}
	}
	return &f, nil
}
