package kvm

import (
	"errors"
	"os"

	"virtd/hypervisor/vhost"
	"virtd/hypervisor/virtio"
	"virtd/virterr"
)

// openVhostNet opens vhost-net for the queue pairs of an interface, and makes sure that it serves the virtqueues that the
// interface offers.
func (d *Driver) openVhostNet(r Resource) ([]*os.File, error) {
	files, err := d.cfg.Links.OpenVhostNet(r.Path, len(r.Files))
	if err != nil || !r.Packed || len(files) == 0 {
		return files, err
	}
	features, err := vhost.KernelFeatures(int(files[0].Fd()))
	if err == nil {
		err = servesPacked(features, r)
	}
	if err != nil {
		for _, f := range files {
			err = errors.Join(err, f.Close())
		}
		return nil, err
	}
	return files, nil
}

// servesPacked refuses packed virtqueues on a vhost-net without them.
func servesPacked(features uint64, r Resource) error {
	if features&virtio.FeatureRingPacked != 0 {
		return nil
	}
	return virterr.New(virterr.ConfigUnsupported,
		"packed virtqueues were requested for an interface on vhost-net, which has none: interface %s, %s; use <driver name='qemu' packed='on'/>", r.Alias, r.Path)
}
