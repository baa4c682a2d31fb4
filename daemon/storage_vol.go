package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/storage"
	"virtd/virterr"
)

func (d *Daemon) registerStorageVolumes(reg *rpc.Registry) {
	if d.cfg.Storage == nil {
		return
	}
	on(reg, rpc.ProcStoragePoolNumOfVolumes, d.storagePoolNumOfVolumes)
	on(reg, rpc.ProcStoragePoolListVolumes, d.storagePoolListVolumes)
	on(reg, rpc.ProcStoragePoolListAllVolumes, d.storagePoolListAllVolumes)
	on(reg, rpc.ProcStorageVolLookupByName, d.storageVolLookupByName)
	on(reg, rpc.ProcStorageVolLookupByKey, d.storageVolLookupByKey)
	on(reg, rpc.ProcStorageVolLookupByPath, d.storageVolLookupByPath)
	on(reg, rpc.ProcStorageVolCreateXML, d.storageVolCreateXML)
	on(reg, rpc.ProcStorageVolCreateXMLFrom, d.storageVolCreateXMLFrom)
	on(reg, rpc.ProcStorageVolDelete, d.storageVolDelete)
	on(reg, rpc.ProcStorageVolWipe, d.storageVolWipe)
	on(reg, rpc.ProcStorageVolWipePattern, d.storageVolWipePattern)
	on(reg, rpc.ProcStorageVolResize, d.storageVolResize)
	on(reg, rpc.ProcStorageVolGetInfo, d.storageVolGetInfo)
	on(reg, rpc.ProcStorageVolGetInfoFlags, d.storageVolGetInfoFlags)
	on(reg, rpc.ProcStorageVolGetXMLDesc, d.storageVolGetXMLDesc)
	on(reg, rpc.ProcStorageVolGetPath, d.storageVolGetPath)
	on(reg, rpc.ProcStorageVolUpload, d.storageVolUpload)
	on(reg, rpc.ProcStorageVolDownload, d.storageVolDownload)
}

// volume finds the volume that a call is about.
func (d *Daemon) volume(ref libvirt.StorageVol) (storage.Volume, error) {
	return d.cfg.Storage.Volume(ref.Pool, ref.Name)
}

func wireVolume(v storage.Volume) libvirt.StorageVol {
	return libvirt.StorageVol{Pool: v.Pool, Name: v.Name, Key: v.Key}
}

// volumes lists those of the pool that a call is about.
func (d *Daemon) volumes(ref libvirt.StoragePool) ([]storage.Volume, error) {
	p, err := d.pool(ref)
	if err != nil {
		return nil, err
	}
	return p.Volumes()
}

func (d *Daemon) storagePoolNumOfVolumes(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolNumOfVolumesArgs) (*libvirt.StoragePoolNumOfVolumesRet, error) {
	list, err := d.volumes(a.Pool)
	return &libvirt.StoragePoolNumOfVolumesRet{Num: int32(len(list))}, err
}

func (d *Daemon) storagePoolListVolumes(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolListVolumesArgs) (*libvirt.StoragePoolListVolumesRet, error) {
	list, err := d.volumes(a.Pool)
	ret := &libvirt.StoragePoolListVolumesRet{}
	for _, v := range list {
		if len(ret.Names) < int(a.Maxnames) {
			ret.Names = append(ret.Names, v.Name)
		}
	}
	return ret, err
}

func (d *Daemon) storagePoolListAllVolumes(_ context.Context, _ *rpc.Call, a *libvirt.StoragePoolListAllVolumesArgs) (*libvirt.StoragePoolListAllVolumesRet, error) {
	if err := noFlags(a.Flags, "virStoragePoolListAllVolumes"); err != nil {
		return nil, err
	}
	list, err := d.volumes(a.Pool)
	ret := &libvirt.StoragePoolListAllVolumesRet{Ret: uint32(len(list))}
	if a.NeedResults != 0 {
		for _, v := range list {
			ret.Vols = append(ret.Vols, wireVolume(v))
		}
	}
	return ret, err
}

func (d *Daemon) storageVolLookupByName(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolLookupByNameArgs) (*libvirt.StorageVolLookupByNameRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	v, err := p.Volume(a.Name)
	return &libvirt.StorageVolLookupByNameRet{Vol: wireVolume(v)}, err
}

func (d *Daemon) storageVolLookupByKey(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolLookupByKeyArgs) (*libvirt.StorageVolLookupByKeyRet, error) {
	v, err := d.cfg.Storage.VolumeByKey(a.Key)
	return &libvirt.StorageVolLookupByKeyRet{Vol: wireVolume(v)}, err
}

func (d *Daemon) storageVolLookupByPath(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolLookupByPathArgs) (*libvirt.StorageVolLookupByPathRet, error) {
	v, err := d.cfg.Storage.VolumeByPath(a.Path)
	return &libvirt.StorageVolLookupByPathRet{Vol: wireVolume(v)}, err
}

func (d *Daemon) storageVolCreateXML(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolCreateXMLArgs) (*libvirt.StorageVolCreateXMLRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	v, err := p.CreateVolume(ctx, a.XML, storage.CreateFlags(a.Flags))
	return &libvirt.StorageVolCreateXMLRet{Vol: wireVolume(v)}, err
}

func (d *Daemon) storageVolCreateXMLFrom(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolCreateXMLFromArgs) (*libvirt.StorageVolCreateXMLFromRet, error) {
	p, err := d.pool(a.Pool)
	if err != nil {
		return nil, err
	}
	from, err := d.volume(a.Clonevol)
	if err != nil {
		return nil, err
	}
	v, err := p.CloneVolume(ctx, a.XML, from, storage.CreateFlags(a.Flags))
	return &libvirt.StorageVolCreateXMLFromRet{Vol: wireVolume(v)}, err
}

func (d *Daemon) storageVolDelete(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolDeleteArgs) (*none, error) {
	if err := noFlags(uint32(a.Flags), "virStorageVolDelete"); err != nil {
		return nil, err
	}
	v, err := d.volume(a.Vol)
	if err != nil {
		return nil, err
	}
	return nil, v.Delete(ctx)
}

func (d *Daemon) storageVolWipe(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolWipeArgs) (*none, error) {
	return d.wipe(ctx, a.Vol, a.Flags, "virStorageVolWipe")
}

func (d *Daemon) storageVolWipePattern(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolWipePatternArgs) (*none, error) {
	const zeros = 0 // VIR_STORAGE_VOL_WIPE_ALG_ZERO
	if a.Algorithm != zeros {
		return nil, virterr.NewFrom(virterr.FromStorage, virterr.ArgumentUnsupported, "wiping algorithm %d is not supported; there is zero (0)", a.Algorithm)
	}
	return d.wipe(ctx, a.Vol, a.Flags, "virStorageVolWipePattern")
}

func (d *Daemon) wipe(ctx context.Context, ref libvirt.StorageVol, flags uint32, function string) (*none, error) {
	if err := noFlags(flags, function); err != nil {
		return nil, err
	}
	v, err := d.volume(ref)
	if err != nil {
		return nil, err
	}
	return nil, v.Wipe(ctx)
}

func (d *Daemon) storageVolResize(ctx context.Context, _ *rpc.Call, a *libvirt.StorageVolResizeArgs) (*none, error) {
	v, err := d.volume(a.Vol)
	if err != nil {
		return nil, err
	}
	return nil, v.Resize(ctx, a.Capacity, storage.ResizeFlags(a.Flags))
}

func wireType(i storage.VolumeInfo) int8 {
	if i.Block {
		return int8(libvirt.StorageVolBlock)
	}
	return int8(libvirt.StorageVolFile)
}

func (d *Daemon) storageVolGetInfo(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolGetInfoArgs) (*libvirt.StorageVolGetInfoRet, error) {
	v, err := d.volume(a.Vol)
	if err != nil {
		return nil, err
	}
	i, err := v.Info()
	return &libvirt.StorageVolGetInfoRet{Type: wireType(i), Capacity: i.Capacity, Allocation: i.Allocation}, err
}

func (d *Daemon) storageVolGetInfoFlags(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolGetInfoFlagsArgs) (*libvirt.StorageVolGetInfoFlagsRet, error) {
	const physical = 1 // VIR_STORAGE_VOL_GET_PHYSICAL: the allocation is where the file ends
	if err := onlyFlags(a.Flags, physical, "virStorageVolGetInfoFlags"); err != nil {
		return nil, err
	}
	v, err := d.volume(a.Vol)
	if err != nil {
		return nil, err
	}
	i, err := v.Info()
	ret := &libvirt.StorageVolGetInfoFlagsRet{Type: wireType(i), Capacity: i.Capacity, Allocation: i.Allocation}
	if a.Flags&physical != 0 {
		ret.Allocation = i.Physical
	}
	return ret, err
}

func (d *Daemon) storageVolGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolGetXMLDescArgs) (*libvirt.StorageVolGetXMLDescRet, error) {
	if err := noFlags(a.Flags, "virStorageVolGetXMLDesc"); err != nil {
		return nil, err
	}
	v, err := d.volume(a.Vol)
	if err != nil {
		return nil, err
	}
	xml, err := v.XML()
	return &libvirt.StorageVolGetXMLDescRet{XML: xml}, err
}

func (d *Daemon) storageVolGetPath(_ context.Context, _ *rpc.Call, a *libvirt.StorageVolGetPathArgs) (*libvirt.StorageVolGetPathRet, error) {
	v, err := d.volume(a.Vol)
	return &libvirt.StorageVolGetPathRet{Name: v.Path}, err
}

func (d *Daemon) storageVolUpload(_ context.Context, c *rpc.Call, a *libvirt.StorageVolUploadArgs) (*none, error) {
	const sparse = uint32(libvirt.StorageVolUploadSparseStream)
	if err := onlyFlags(uint32(a.Flags), sparse, "virStorageVolUpload"); err != nil {
		return nil, err
	}
	open := func(v storage.Volume) (*storage.Transfer, error) { return v.Upload(a.Offset, a.Length) }
	if uint32(a.Flags)&sparse != 0 {
		return nil, d.transfer(c.StartSparseStream, a.Vol, rpc.StreamUpload, open, func(t *storage.Transfer, s *rpc.Stream) error { return t.ReceiveSparse(s) })
	}
	return nil, d.transfer(c.StartStream, a.Vol, rpc.StreamUpload, open, func(t *storage.Transfer, s *rpc.Stream) error { return t.Receive(s) })
}

func (d *Daemon) storageVolDownload(_ context.Context, c *rpc.Call, a *libvirt.StorageVolDownloadArgs) (*none, error) {
	const sparse = uint32(libvirt.StorageVolDownloadSparseStream)
	if err := onlyFlags(uint32(a.Flags), sparse, "virStorageVolDownload"); err != nil {
		return nil, err
	}
	open := func(v storage.Volume) (*storage.Transfer, error) { return v.Download(a.Offset, a.Length) }
	if uint32(a.Flags)&sparse != 0 {
		return nil, d.transfer(c.StartSparseStream, a.Vol, rpc.StreamDownload, open, func(t *storage.Transfer, s *rpc.Stream) error { return t.SendSparse(s) })
	}
	return nil, d.transfer(c.StartStream, a.Vol, rpc.StreamDownload, open, func(t *storage.Transfer, s *rpc.Stream) error { return t.Send(s) })
}

// transfer opens twice: now, so that the call fails when that cannot work, and again when the stream runs, because a stream
// that cannot be started would leave the volume in use for ever.
func (d *Daemon) transfer(start func(rpc.StreamMode, func(*rpc.Stream) error), ref libvirt.StorageVol, mode rpc.StreamMode, open func(storage.Volume) (*storage.Transfer, error), run func(*storage.Transfer, *rpc.Stream) error) error {
	v, err := d.volume(ref)
	if err != nil {
		return err
	}
	probe, err := open(v)
	if err != nil {
		return err
	}
	probe.Close()
	start(mode, func(s *rpc.Stream) error {
		t, err := open(v)
		if err != nil {
			return err
		}
		return run(t, s)
	})
	return nil
}
