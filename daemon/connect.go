package daemon

import (
	"context"
	"net/url"
	"strings"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
	"virtd/virterr"
)

// The features that clients ask about (VIR_DRV_FEATURE_*), as far as the answer is yes.
const (
	featureFDPassing          = 8
	featureTypedParamString   = 9
	featureKeepalive          = 10
	featureMigrationParams    = 13
	featureEventCallback      = 14
	featureCloseCallback      = 15
	featureNetworkUpdateOrder = 16
)

func (d *Daemon) registerConnect(reg *rpc.Registry) {
	rpc.HandleAuth(reg)
	on(reg, rpc.ProcConnectOpen, d.connectOpen)
	on(reg, rpc.ProcConnectClose, d.connectClose)
	on(reg, rpc.ProcConnectSupportsFeature, d.supportsFeature)
	on(reg, rpc.ProcConnectGetType, d.connectGetType)
	on(reg, rpc.ProcConnectGetVersion, d.connectGetVersion)
	on(reg, rpc.ProcConnectGetLibVersion, d.connectGetLibVersion)
	on(reg, rpc.ProcConnectGetURI, d.connectGetURI)
	on(reg, rpc.ProcConnectGetHostname, d.connectGetHostname)
	on(reg, rpc.ProcConnectIsSecure, d.connectIsSecure)
	on(reg, rpc.ProcConnectSetIdentity, d.connectSetIdentity)
	on(reg, rpc.ProcConnectRegisterCloseCallback, d.nothing)
	on(reg, rpc.ProcConnectUnregisterCloseCallback, d.nothing)
}

// connectOpen looks at one flag only: libvirt's library sends its own remote driver's along (2 one user's daemon, 4 started
// on demand).
func (d *Daemon) connectOpen(_ context.Context, c *rpc.Call, a *libvirt.ConnectOpenArgs) (*none, error) {
	if err := d.checkURI(optional(a.Name)); err != nil {
		return nil, err
	}
	if c.Conn.Opened() { // calls of the handshake come one at a time
		return nil, virterr.NewFrom(virterr.FromRPC, virterr.InternalError, "connection already open")
	}
	c.Conn.SetSession(&session{})
	c.Conn.Open(a.Flags&libvirt.ConnectRo != 0)
	return nil, nil
}

// checkURI accepts the URI of this daemon, any transport removed, and none.
func (d *Daemon) checkURI(name string) error {
	if name == "" {
		return nil
	}
	u, err := url.Parse(name)
	if err != nil {
		return virterr.New(virterr.InvalidArg, "connection URI '%s': %v", name, err)
	}
	own, _ := url.Parse(d.cfg.URI)
	scheme, _, _ := strings.Cut(u.Scheme, "+")
	if scheme != own.Scheme && scheme != "kvm" {
		return virterr.NewFrom(virterr.FromNone, virterr.NoConnect, "No connection driver available for %s; this daemon serves %s", name, d.cfg.URI)
	}
	if path := strings.TrimSuffix(u.Path, "/"); path != own.Path && path != "" {
		return virterr.New(virterr.InternalError, "unexpected QEMU URI path '%s', try %s", u.Path, d.cfg.URI)
	}
	return nil
}

func (d *Daemon) connectClose(_ context.Context, c *rpc.Call, _ *none) (*none, error) {
	c.Conn.CloseWhenIdle()
	return nil, nil
}

func (d *Daemon) supportsFeature(_ context.Context, c *rpc.Call, a *libvirt.ConnectSupportsFeatureArgs) (*libvirt.ConnectSupportsFeatureRet, error) {
	ret := &libvirt.ConnectSupportsFeatureRet{}
	switch a.Feature {
	case featureKeepalive:
		c.Conn.EnableKeepalive() // by asking, the client says that it answers pings
		ret.Supported = 1
	case featureFDPassing, featureTypedParamString, featureMigrationParams, featureEventCallback, featureCloseCallback, featureNetworkUpdateOrder:
		ret.Supported = 1
	}
	return ret, nil
}

func (d *Daemon) connectGetType(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetTypeRet, error) {
	return &libvirt.ConnectGetTypeRet{Type: "QEMU"}, nil // what clients look for; design, decision 4
}

func (d *Daemon) connectGetVersion(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetVersionRet, error) {
	return &libvirt.ConnectGetVersionRet{HvVer: hvVersion}, nil
}

func (d *Daemon) connectGetLibVersion(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetLibVersionRet, error) {
	return &libvirt.ConnectGetLibVersionRet{LibVer: libVersion}, nil
}

func (d *Daemon) connectGetURI(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetUriRet, error) {
	return &libvirt.ConnectGetUriRet{Uri: d.cfg.URI}, nil
}

func (d *Daemon) connectGetHostname(context.Context, *rpc.Call, *none) (*libvirt.ConnectGetHostnameRet, error) {
	return &libvirt.ConnectGetHostnameRet{Hostname: d.node.Hostname()}, nil
}

// connectIsSecure is about eavesdroppers: a unix socket has none, nor has TLS.
func (d *Daemon) connectIsSecure(_ context.Context, c *rpc.Call, _ *none) (*libvirt.ConnectIsSecureRet, error) {
	return &libvirt.ConnectIsSecureRet{Secure: boolean(c.Conn.Secure())}, nil
}

// connectSetIdentity is what a proxy says of its client. Access is decided by who holds the socket, so it is taken as said.
func (d *Daemon) connectSetIdentity(_ context.Context, _ *rpc.Call, a *libvirt.ConnectSetIdentityArgs) (*none, error) {
	return nil, noFlags(a.Flags, "virConnectSetIdentity")
}

// nothing accepts the registration of close callbacks: the client's library notices the end of the connection itself.
func (d *Daemon) nothing(context.Context, *rpc.Call, *none) (*none, error) { return nil, nil }
