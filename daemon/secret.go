package daemon

import (
	"context"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/rpc"
	"virtd/secret"
)

// registerSecrets adds the procedures of secrets, where the daemon keeps any.
func (d *Daemon) registerSecrets(reg *rpc.Registry) {
	if d.cfg.Secrets == nil {
		return
	}
	on(reg, rpc.ProcConnectListAllSecrets, d.listAllSecrets)
	on(reg, rpc.ProcConnectNumOfSecrets, d.numOfSecrets)
	on(reg, rpc.ProcConnectListSecrets, d.listSecrets)
	on(reg, rpc.ProcSecretLookupByUUID, d.secretLookupByUUID)
	on(reg, rpc.ProcSecretLookupByUsage, d.secretLookupByUsage)
	on(reg, rpc.ProcSecretDefineXML, d.secretDefineXML)
	on(reg, rpc.ProcSecretGetXMLDesc, d.secretGetXMLDesc)
	on(reg, rpc.ProcSecretSetValue, d.secretSetValue)
	on(reg, rpc.ProcSecretGetValue, d.secretGetValue)
	on(reg, rpc.ProcSecretUndefine, d.secretUndefine)
	on(reg, rpc.ProcConnectSecretEventRegisterAny, d.secretEventRegister)
	on(reg, rpc.ProcConnectSecretEventDeregisterAny, d.secretEventDeregister)
}

func wireSecret(s secret.Definition) libvirt.Secret {
	return libvirt.Secret{UUID: libvirt.UUID(s.UUID), UsageType: int32(s.Usage), UsageID: s.UsageID}
}

func (d *Daemon) listAllSecrets(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListAllSecretsArgs) (*libvirt.ConnectListAllSecretsRet, error) {
	const ephemeral, persistent, private, public = 1, 2, 4, 8
	flags := uint32(a.Flags)
	if err := onlyFlags(flags, ephemeral|persistent|private|public, "virConnectListAllSecrets"); err != nil {
		return nil, err
	}
	wanted := func(yes, no uint32, is bool) bool {
		return flags&(yes|no) == 0 || is && flags&yes != 0 || !is && flags&no != 0
	}
	ret := &libvirt.ConnectListAllSecretsRet{}
	for _, s := range d.cfg.Secrets.List() {
		if !wanted(ephemeral, persistent, s.Ephemeral) || !wanted(private, public, s.Private) {
			continue
		}
		ret.Ret++
		if a.NeedResults != 0 {
			ret.Secrets = append(ret.Secrets, wireSecret(s))
		}
	}
	return ret, nil
}

func (d *Daemon) numOfSecrets(context.Context, *rpc.Call, *none) (*libvirt.ConnectNumOfSecretsRet, error) {
	return &libvirt.ConnectNumOfSecretsRet{Num: int32(len(d.cfg.Secrets.List()))}, nil
}

func (d *Daemon) listSecrets(_ context.Context, _ *rpc.Call, a *libvirt.ConnectListSecretsArgs) (*libvirt.ConnectListSecretsRet, error) {
	ret := &libvirt.ConnectListSecretsRet{}
	for _, s := range d.cfg.Secrets.List() {
		if len(ret.Uuids) < int(a.Maxuuids) {
			ret.Uuids = append(ret.Uuids, s.UUID.String())
		}
	}
	return ret, nil
}

func (d *Daemon) secretLookupByUUID(_ context.Context, _ *rpc.Call, a *libvirt.SecretLookupByUUIDArgs) (*libvirt.SecretLookupByUUIDRet, error) {
	s, err := d.cfg.Secrets.Lookup(uuid.UUID(a.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretLookupByUUIDRet{OptSecret: wireSecret(s)}, nil
}

func (d *Daemon) secretLookupByUsage(_ context.Context, _ *rpc.Call, a *libvirt.SecretLookupByUsageArgs) (*libvirt.SecretLookupByUsageRet, error) {
	s, err := d.cfg.Secrets.LookupByUsage(secret.UsageType(a.UsageType), a.UsageID)
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretLookupByUsageRet{OptSecret: wireSecret(s)}, nil
}

func (d *Daemon) secretDefineXML(_ context.Context, _ *rpc.Call, a *libvirt.SecretDefineXMLArgs) (*libvirt.SecretDefineXMLRet, error) {
	const validate = 1 // every document is checked
	if err := onlyFlags(a.Flags, validate, "virSecretDefineXML"); err != nil {
		return nil, err
	}
	s, err := d.cfg.Secrets.Define(a.XML)
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretDefineXMLRet{OptSecret: wireSecret(s)}, nil
}

func (d *Daemon) secretGetXMLDesc(_ context.Context, _ *rpc.Call, a *libvirt.SecretGetXMLDescArgs) (*libvirt.SecretGetXMLDescRet, error) {
	if err := noFlags(a.Flags, "virSecretGetXMLDesc"); err != nil {
		return nil, err
	}
	s, err := d.cfg.Secrets.Lookup(uuid.UUID(a.OptSecret.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretGetXMLDescRet{XML: s.XML()}, nil
}

func (d *Daemon) secretSetValue(_ context.Context, _ *rpc.Call, a *libvirt.SecretSetValueArgs) (*none, error) {
	if err := noFlags(a.Flags, "virSecretSetValue"); err != nil {
		return nil, err
	}
	return nil, d.cfg.Secrets.SetValue(uuid.UUID(a.OptSecret.UUID), a.Value)
}

func (d *Daemon) secretGetValue(_ context.Context, _ *rpc.Call, a *libvirt.SecretGetValueArgs) (*libvirt.SecretGetValueRet, error) {
	if err := noFlags(a.Flags, "virSecretGetValue"); err != nil {
		return nil, err
	}
	value, err := d.cfg.Secrets.Reveal(uuid.UUID(a.OptSecret.UUID))
	if err != nil {
		return nil, err
	}
	return &libvirt.SecretGetValueRet{Value: value}, nil
}

func (d *Daemon) secretUndefine(_ context.Context, _ *rpc.Call, a *libvirt.SecretUndefineArgs) (*none, error) {
	return nil, d.cfg.Secrets.Undefine(uuid.UUID(a.OptSecret.UUID))
}

// The numbers of secrets' events (virSecretEventID).
const (
	secretEventLifecycle    = 0
	secretEventValueChanged = 1
)

func (d *Daemon) secretEventRegister(_ context.Context, c *rpc.Call, a *libvirt.ConnectSecretEventRegisterAnyArgs) (*libvirt.ConnectSecretEventRegisterAnyRet, error) {
	sub := &subscription{conn: c.Conn}
	switch a.EventID {
	case secretEventLifecycle:
		sub.event = eventSecretLifecycle
	case secretEventValueChanged:
		sub.event = eventSecretValue
	default:
		return nil, unsupportedEvent(a.EventID)
	}
	if len(a.OptSecret) > 0 {
		id := uuid.UUID(a.OptSecret[0].UUID)
		sub.object = &id
	}
	id, err := d.events.add(sub)
	return &libvirt.ConnectSecretEventRegisterAnyRet{CallbackID: id}, err
}

func (d *Daemon) secretEventDeregister(_ context.Context, c *rpc.Call, a *libvirt.ConnectSecretEventDeregisterAnyArgs) (*none, error) {
	return nil, d.events.remove(c.Conn, a.CallbackID)
}

// deliverSecret sends an event of a secret to the clients that want it. It never blocks.
func (d *Daemon) deliverSecret(e secret.Event) {
	s := wireSecret(e.Secret)
	if e.Kind == secret.EventValueChanged {
		for _, sub := range d.events.wanting(eventSecretValue, e.Secret.UUID) {
			d.sendTo(sub, rpc.ProgramRemote, rpc.ProcSecretEventValueChanged, &libvirt.SecretEventValueChangedMsg{CallbackID: sub.id, OptSecret: s})
		}
		return
	}
	for _, sub := range d.events.wanting(eventSecretLifecycle, e.Secret.UUID) {
		d.sendTo(sub, rpc.ProgramRemote, rpc.ProcSecretEventLifecycle,
			&libvirt.SecretEventLifecycleMsg{CallbackID: sub.id, OptSecret: s, Event: int32(e.Kind)})
	}
}
