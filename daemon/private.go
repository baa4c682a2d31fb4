package daemon

import (
	"context"

	"virtd/rpc"
	"virtd/virterr"
)

func (d *Daemon) registerPrivate(reg *rpc.Registry) {
	rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcHostCheck, d.hostCheck)
}

// hostCheck looks at the host as virtd sees it, which is what counts for guests.
func (d *Daemon) hostCheck(ctx context.Context, _ *rpc.Call, a *rpc.PrivHostCheckArgs) (*rpc.PrivHostCheckRet, error) {
	if err := noFlags(a.Flags, "virtdHostCheck"); err != nil {
		return nil, err
	}
	if d.cfg.HostCheck == nil {
		return nil, virterr.New(virterr.NoSupport, "virtdHostCheck")
	}
	ret := &rpc.PrivHostCheckRet{}
	for _, f := range d.cfg.HostCheck(ctx).Findings {
		ret.Items = append(ret.Items, rpc.PrivHostCheckItem{Name: f.Name, Verdict: string(f.Status), Detail: f.Detail, Remedy: f.Fix})
	}
	return ret, nil
}
