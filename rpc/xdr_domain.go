package rpc

import (
	"encoding/binary"
	"reflect"

	libvirt "github.com/digitalocean/go-libvirt"
)

var domainType = typeOf[libvirt.Domain]()

// domainCodec is the plan of remote_nonnull_domain written out. Most calls name a domain and lists are made of them, and a
// plan that goes by reflection costs several times as much.
var domainCodec = &codec{
	min: 4 + libvirt.UUIDBuflen + 4,
	enc: func(b []byte, v reflect.Value) ([]byte, error) {
		if !v.CanAddr() {
			dom := v.Interface().(libvirt.Domain)
			return appendDomain(b, &dom)
		}
		return appendDomain(b, v.Addr().Interface().(*libvirt.Domain))
	},
	dec: func(d *decoder, v reflect.Value) (err error) {
		dom := v.Addr().Interface().(*libvirt.Domain)
		if dom.Name, err = d.str(StringMax); err != nil {
			return fieldError("Name", err)
		}
		id, err := d.opaque(len(dom.UUID))
		if err != nil {
			return fieldError("UUID", err)
		}
		copy(dom.UUID[:], id)
		number, err := d.uint32()
		if err != nil {
			return fieldError("ID", err)
		}
		dom.ID = int32(number)
		return nil
	},
}

func appendDomain(b []byte, dom *libvirt.Domain) ([]byte, error) {
	b, err := appendString(b, dom.Name, StringMax)
	if err != nil {
		return b, fieldError("Name", err)
	}
	b = appendOpaque(b, dom.UUID[:])
	return binary.BigEndian.AppendUint32(b, uint32(dom.ID)), nil
}
