package net

import (
	"golang.org/x/sys/unix"

	"virtd/hypervisor/vhostuser"
	"virtd/hypervisor/virtio"
)

// userFeatures are those that a vhost-user back end executes; what else a device offers is the engine's own work.
const userFeatures = featureCsum | featureGuestCsum | featureMTU | featureGuestTSO4 | featureGuestTSO6 | featureGuestECN |
	featureHostTSO4 | featureHostTSO6 | featureHostECN | featureMrgRxbuf | featureMQ | featureGuestUSO4 | featureGuestUSO6 |
	featureHostUSO | virtio.FeatureIndirectDesc | virtio.FeatureEventIdx

// openUser finds out what the back end can do.
func (d *Device) openUser() error {
	u := d.cfg.User
	b, err := vhostuser.New(u.Conn, u.Listen, vhostuser.Config{
		Name: d.cfg.ID, Queues: u.Pairs, Ordered: true, MTU: d.cfg.MTU, Log: d.cfg.Log, Changed: d.userChanged,
	})
	if err != nil {
		return err
	}
	d.user = b
	// Offloads cannot be changed while the rings run: the protocol has no word for it.
	d.features = consistent(d.features &^ (userFeatures &^ b.Features()) &^ featureGuestOffloads)
	return nil
}

// BackendConnected reports whether a vhost-user device has a back end.
func (d *Device) BackendConnected() bool { return d.user != nil && d.user.Connected() }

// UserBackend is who serves a vhost-user device; nil for any other.
func (d *Device) UserBackend() *vhostuser.Backend { return d.user }

func closeUser(u *User) {
	unix.Close(u.Conn)
	if u.Listen >= 0 {
		unix.Close(u.Listen)
	}
}

// userChanged plugs the cable in or out as the back end comes and goes.
func (d *Device) userChanged(connected bool) {
	d.tapLost.Store(!connected)
	d.mu.Lock()
	if d.env != nil {
		d.env.ConfigChanged()
	}
	d.mu.Unlock()
	if d.cfg.User.Changed != nil {
		d.cfg.User.Changed(connected)
	}
}

// userTap stands for a tap that takes all offloads: what a back end takes is known otherwise.
type userTap struct{}

func (userTap) setOffloads(int, uint) error { return nil }
func (userTap) steer(int, bool) error       { return nil }
func (userTap) setProgram(int, int) error   { return unix.EINVAL }
func (userTap) setHeader(int, int) error    { return nil }

// userBackend is the backend in another process.
type userBackend struct{ dev *Device }

// startUser hands all pairs that the driver has to the back end. A cable that is out leaves the rings standing still.
func (d *Device) startUser() (backend, error) {
	if d.linkDown.Load() {
		return noBackend{}, nil
	}
	var queues []*virtio.Queue
	for i := range d.taps {
		rx, tx := d.pairQueues(i)
		queues = append(queues, rx, tx)
	}
	u := userBackend{d}
	err := d.user.Start(vhostuser.Setup{Memory: d.env.Memory, Features: d.env.Features, Queues: queues, Enabled: u.enabled(), Lost: d.env.Fail})
	if err != nil {
		return nil, err
	}
	return u, nil
}

// enabled is how many queues the driver uses.
func (u userBackend) enabled() int { return 2 * int(u.dev.pairs.Load()) }

func (u userBackend) stop()    { u.dev.user.Stop() }
func (u userBackend) poke(int) { u.dev.user.SetEnabled(u.enabled()) }

// noBackend moves nothing.
type noBackend struct{}

func (noBackend) stop()    {}
func (noBackend) poke(int) {}
