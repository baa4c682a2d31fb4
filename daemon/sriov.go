package daemon

import (
	"context"
	"strconv"

	"virtd/nodedev"
	"virtd/rpc"
	"virtd/virterr"
)

// registerSRIOV adds what makes and configures virtual functions, which libvirt has no procedures for.
func (d *Daemon) registerSRIOV(reg *rpc.Registry) {
	rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcFunctionList, d.functionList)
	rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcFunctionCount, d.functionCount)
	rpc.Handle(reg, rpc.ProgramPrivate, rpc.PrivProcFunctionSet, d.functionSet)
}

func (d *Daemon) functionList(_ context.Context, _ *rpc.Call, a *rpc.PrivFunctionListArgs) (*rpc.PrivFunctionListRet, error) {
	if err := noFlags(a.Flags, "virtdFunctionList"); err != nil {
		return nil, err
	}
	ret := &rpc.PrivFunctionListRet{}
	for _, p := range d.cfg.Hostdevs.PhysicalFunctions() {
		card := rpc.PrivCard{Address: p.Address.String(), Interface: p.Interface, Driver: p.Driver, Total: uint32(p.Total), Kept: uint32(boolean(p.Kept))}
		for _, f := range p.Functions {
			card.Functions = append(card.Functions, rpc.PrivFunction{Address: f.Address.String(), Number: uint32(f.Number), Interface: f.Interface,
				Driver: f.Driver, Domain: f.User, Settings: settings(f)})
		}
		ret.Cards = append(ret.Cards, card)
	}
	return ret, nil
}

// settings are what the card does for a function, and which of the card's interfaces stands for it in switchdev mode.
func settings(f nodedev.VirtualFunction) []rpc.PrivSetting {
	var out []rpc.PrivSetting
	c := f.Config
	add := func(name, value string) { out = append(out, rpc.PrivSetting{Name: name, Value: value}) }
	onOff := map[bool]string{true: "on", false: "off"}
	if c.MAC != "" {
		add("mac", c.MAC)
	}
	if c.VLAN != nil {
		add("vlan", strconv.Itoa(*c.VLAN))
	}
	if c.QoS != nil {
		add("qos", strconv.Itoa(*c.QoS))
	}
	if c.Trust != nil {
		add("trust", onOff[*c.Trust])
	}
	if c.SpoofChk != nil {
		add("spoofchk", onOff[*c.SpoofChk])
	}
	if c.LinkState != "" {
		add("link-state", c.LinkState)
	}
	if c.MaxRate != nil {
		add("max-rate", strconv.FormatUint(uint64(*c.MaxRate), 10))
	}
	if f.Representor != "" {
		add("representor", f.Representor)
	}
	return out
}

func (d *Daemon) functionCount(ctx context.Context, _ *rpc.Call, a *rpc.PrivFunctionCountArgs) (*none, error) {
	if err := onlyFlags(a.Flags, rpc.PrivKeepFunctions|rpc.PrivDriverlessFunctions, "virtdFunctionCount"); err != nil {
		return nil, err
	}
	at, err := d.cfg.Hostdevs.FindFunction(a.Card)
	if err != nil {
		return nil, err
	}
	return &none{}, d.cfg.Hostdevs.SetFunctionCount(ctx, at, int(a.Count), nodedev.CountOptions{
		Keep: a.Flags&rpc.PrivKeepFunctions != 0, Driverless: a.Flags&rpc.PrivDriverlessFunctions != 0,
	})
}

func (d *Daemon) functionSet(_ context.Context, _ *rpc.Call, a *rpc.PrivFunctionSetArgs) (*none, error) {
	if err := noFlags(a.Flags, "virtdFunctionSet"); err != nil {
		return nil, err
	}
	at, err := d.cfg.Hostdevs.FindFunction(a.Function)
	if err != nil {
		return nil, err
	}
	var c nodedev.FunctionConfig
	for _, s := range a.Settings {
		if err := setting(&c, s); err != nil {
			return nil, err
		}
	}
	return &none{}, d.cfg.Hostdevs.ConfigureFunction(at, c)
}

// setting reads one setting.
func setting(c *nodedev.FunctionConfig, s rpc.PrivSetting) error {
	bad := virterr.New(virterr.InvalidArg, "'%s' is not a value of %s", s.Value, s.Name)
	number := func(to **int) error {
		v, err := strconv.Atoi(s.Value)
		if err != nil {
			return bad
		}
		*to = &v
		return nil
	}
	onOff := func(to **bool) error {
		v := s.Value == "on"
		if !v && s.Value != "off" {
			return bad
		}
		*to = &v
		return nil
	}
	switch s.Name {
	case "mac":
		c.MAC = s.Value
	case "vlan":
		return number(&c.VLAN)
	case "qos":
		return number(&c.QoS)
	case "trust":
		return onOff(&c.Trust)
	case "spoofchk":
		return onOff(&c.SpoofChk)
	case "link-state":
		c.LinkState = s.Value
	case "max-rate":
		v, err := strconv.ParseUint(s.Value, 10, 32)
		if err != nil {
			return bad
		}
		rate := uint32(v)
		c.MaxRate = &rate
	default:
		return virterr.New(virterr.InvalidArg, "unknown setting '%s' of a virtual function", s.Name)
	}
	return nil
}
