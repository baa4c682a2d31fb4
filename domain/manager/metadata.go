package manager

import (
	"context"

	"virtd/domain"
	"virtd/virterr"
)

// MetadataType says which metadata is meant (virDomainMetadataType).
type MetadataType int32

// Types of metadata.
const (
	MetadataDescription MetadataType = 0
	MetadataTitle       MetadataType = 1
	MetadataElement     MetadataType = 2
)

// Metadata returns the title, the description, or the element of a namespace. NoDomainMetadata if there is none.
func (d *Domain) Metadata(kind MetadataType, uri string, flags Affect) (string, error) {
	if err := checkFlags(flags, metadataFlagKnown, "qemuDomainGetMetadata"); err != nil {
		return "", err
	}
	if flags&affectBoth == affectBoth {
		return "", virterr.New(virterr.InvalidArg, "metadata can be read from the live or from the persistent configuration, not from both")
	}
	live, _, err := d.targets(flags)
	if err != nil {
		return "", err
	}
	var def *domain.Definition
	if live {
		_, def, err = d.engine()
	} else {
		def, err = d.definition()
	}
	if err != nil {
		return "", err
	}
	var text, name string
	switch kind {
	case MetadataElement:
		return def.Metadata(uri)
	case MetadataTitle:
		text, name = def.Title(), "title"
	case MetadataDescription:
		text, name = def.Description(), "description"
	default:
		return "", virterr.New(virterr.InvalidArg, "unknown metadata type %d", kind)
	}
	if text == "" {
		return "", virterr.New(virterr.NoDomainMetadata, "Requested %s is not present", name)
	}
	return text, nil
}

// SetMetadata replaces the title, the description, or the element of a namespace; empty text removes it. key is the
// namespace prefix for a MetadataElement.
func (d *Domain) SetMetadata(ctx context.Context, kind MetadataType, text, key, uri string, flags Affect) error {
	if err := checkFlags(flags, metadataFlagKnown, "qemuDomainSetMetadata"); err != nil {
		return err
	}
	err := d.change(ctx, "set-metadata", flags, func(def *domain.Definition) (*domain.Definition, error) {
		switch kind {
		case MetadataDescription:
			return def.SetDescription(text)
		case MetadataTitle:
			return def.SetTitle(text)
		case MetadataElement:
			return def.SetMetadata(text, key, uri)
		}
		return nil, virterr.New(virterr.InvalidArg, "unknown metadata type %d", kind)
	}, nil)
	if err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.emit(Event{Kind: EventMetadata, MetadataType: kind, MetadataURI: uri})
	return nil
}
