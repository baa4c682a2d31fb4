package storage

import (
	"github.com/google/uuid"

	"virtd/domain/xmltree"
	"virtd/durable"
	"virtd/durable/definitions"
	"virtd/virterr"
)

// openRecords returns the definitions of pools on disk. Who uses them serializes changes.
func openRecords(state, run string) (*definitions.Store[*definition], error) {
	return definitions.Open(definitions.Kind[*definition]{Name: "pool", From: virterr.FromStorage, Parse: parsePool,
		XML:      func(d *definition) string { return d.xml(poolSizes{}, d.perms) },
		Identity: func(d *definition) (uuid.UUID, string) { return d.uuid, d.name }, MaxSize: xmltree.MaxSize}, state, run)
}

// syncDir is package durable's with the errors of this one.
func syncDir(dir string) error {
	if err := durable.SyncDir(dir); err != nil {
		return failure(virterr.SystemError, "%w", err)
	}
	return nil
}
