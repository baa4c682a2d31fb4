package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// registerHostMemory answers for the host's settings of memory: merging of equal pages, and pools of huge pages.
func (d *Daemon) registerHostMemory(reg *rpc.Registry) {
	on(reg, rpc.ProcNodeGetMemoryParameters, d.nodeGetMemoryParameters)
	on(reg, rpc.ProcNodeSetMemoryParameters, d.nodeSetMemoryParameters)
	on(reg, rpc.ProcNodeAllocPages, d.nodeAllocPages)
}

// ksmParameters are libvirt's names, the kernel's, and whether libvirt has them as 32 bits; the settings come first.
var ksmParameters = []struct {
	name, file string
	setting    bool // can be changed; 32 bits
}{
	{"shm_pages_to_scan", "pages_to_scan", true},
	{"shm_sleep_millisecs", "sleep_millisecs", true},
	{"shm_pages_shared", "pages_shared", false},
	{"shm_pages_sharing", "pages_sharing", false},
	{"shm_pages_unshared", "pages_unshared", false},
	{"shm_pages_volatile", "pages_volatile", false},
	{"shm_full_scans", "full_scans", false},
	{"shm_merge_across_nodes", "merge_across_nodes", true},
}

func (d *Daemon) nodeGetMemoryParameters(_ context.Context, _ *rpc.Call, a *libvirt.NodeGetMemoryParametersArgs) (*libvirt.NodeGetMemoryParametersRet, error) {
	if err := onlyFlags(a.Flags, stringOkay, "virNodeGetMemoryParameters"); err != nil {
		return nil, err
	}
	var params []libvirt.TypedParam
	for _, p := range ksmParameters {
		v, ok := d.node.KSM(p.file)
		switch {
		case !ok: // this kernel has none
		case p.setting:
			params = append(params, uintParam(p.name, uint32(v)))
		default:
			params = append(params, ullongParam(p.name, v))
		}
	}
	ret := &libvirt.NodeGetMemoryParametersRet{}
	ret.Params, ret.Nparams = twoPass(params, a.Nparams, a.Flags)
	return ret, nil
}

func (d *Daemon) nodeSetMemoryParameters(_ context.Context, _ *rpc.Call, a *libvirt.NodeSetMemoryParametersArgs) (*none, error) {
	if err := noFlags(a.Flags, "virNodeSetMemoryParameters"); err != nil {
		return nil, err
	}
	files := make([]string, len(a.Params))
	for i, given := range a.Params { // all are checked before any is set
		for _, p := range ksmParameters {
			if p.name == given.Field && p.setting {
				files[i] = p.file
			}
		}
		if _, ok := given.Value.I.(uint32); files[i] == "" || !ok {
			return nil, virterr.New(virterr.InvalidArg, "parameter '%s' not supported", given.Field)
		}
	}
	for i, given := range a.Params {
		if err := d.node.SetKSM(files[i], uint64(given.Value.I.(uint32))); err != nil {
			return nil, virterr.New(virterr.OperationFailed, "failed to set %s: %w", given.Field, err)
		}
	}
	return nil, nil
}

// nodeAllocPages changes how many huge pages NUMA nodes keep, and answers for how many sizes and nodes that worked.
func (d *Daemon) nodeAllocPages(_ context.Context, _ *rpc.Call, a *libvirt.NodeAllocPagesArgs) (*libvirt.NodeAllocPagesRet, error) {
	const set = 1
	if err := onlyFlags(uint32(a.Flags), set, "virNodeAllocPages"); err != nil {
		return nil, err
	}
	if len(a.PageSizes) != len(a.PageCounts) {
		return nil, virterr.New(virterr.InvalidArg, "%d sizes of pages, but %d counts", len(a.PageSizes), len(a.PageCounts))
	}
	cells, err := d.node.Cells()
	if err != nil {
		return nil, err
	}
	ret := &libvirt.NodeAllocPagesRet{}
	for _, c := range cells {
		if a.StartCell >= 0 && (c.ID < int(a.StartCell) || uint32(c.ID)-uint32(a.StartCell) >= a.CellCount) {
			continue
		}
		for i, size := range a.PageSizes {
			before := d.node.HugePages(c.ID)[size]
			got, err := d.node.SetHugePages(c.ID, size, a.PageCounts[i], a.Flags&set == 0)
			if err != nil {
				return nil, virterr.New(virterr.OperationFailed, "%w", err)
			}
			want := a.PageCounts[i]
			if a.Flags&set == 0 {
				want += before
			}
			if got != want {
				return nil, virterr.New(virterr.OperationFailed, "Unable to allocate %d pages. Allocated only %d", want, got)
			}
			ret.Ret++
		}
	}
	if ret.Ret == 0 {
		return nil, virterr.New(virterr.InvalidArg, "start cell %d out of range (0-%d)", a.StartCell, cells[len(cells)-1].ID)
	}
	return ret, nil
}
