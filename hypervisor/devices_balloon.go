package hypervisor

import (
	"context"
	"fmt"
	"time"

	"virtd/hypervisor/memory"
	"virtd/hypervisor/monitor"
	"virtd/hypervisor/virtio/balloon"
)

// defaultHugePage is the host's usual size of a page of the HugeTLB kind.
const defaultHugePage = 2 << 20

func (m *Machine) makeBalloon(c *Balloon) error {
	page := uint64(0)
	if b := m.cfg.Memory.Backing; b.Kind == memory.HugeTLB {
		if page = b.HugePage; page == 0 {
			page = defaultHugePage
		}
	}
	dev, err := balloon.New(balloon.Config{
		Name: c.ID, Memory: m.mem, Target: c.Target, StatsPeriod: time.Duration(c.StatsPeriod) * time.Second,
		DeflateOnOOM: c.DeflateOnOOM, FreeReporting: c.FreeReporting, HostPage: page, Logf: m.host.Logf,
		OnActual: func(n uint64) {
			m.host.Event(monitor.Event{Name: monitor.EventBalloon, Data: map[string]uint64{"actual": n}})
		},
	})
	if err != nil {
		return err
	}
	m.devices.balloon = dev
	m.devices.statsPeriod.Store(int64(c.StatsPeriod))
	return m.add(c.Transport, c.ID, c.Address, dev, nil)
}

var errNoBalloon = fmt.Errorf("No balloon device has been activated%w", quietly(monitor.ErrNotActive))

// quiet is an error that adds nothing to the text of the one that wraps it.
type quiet struct{ error }

func quietly(err error) error { return quiet{err} }
func (quiet) Error() string   { return "" }
func (q quiet) Unwrap() error { return q.error }

// Balloon implements monitor.Machine.
func (c control) Balloon() (uint64, error) {
	if c.devices.balloon == nil {
		return 0, errNoBalloon
	}
	return c.devices.balloon.Actual(), nil
}

// SetBalloon implements monitor.Machine.
func (c control) SetBalloon(bytes uint64) error {
	if c.devices.balloon == nil {
		return errNoBalloon
	}
	c.devices.balloon.SetTarget(bytes)
	return nil
}

// statsWait bounds how long a question for statistics waits for the guest.
const statsWait = time.Second

// BalloonStats implements monitor.Machine. With a period the last ones are returned; without, the guest is asked.
func (c control) BalloonStats() (monitor.BalloonStats, error) {
	b := c.devices.balloon
	if b == nil {
		return monitor.BalloonStats{}, errNoBalloon
	}
	stats := b.LastStats()
	if state, _ := c.Status(); c.devices.statsPeriod.Load() == 0 && state == StateRunning && b.Active() {
		ctx, cancel := context.WithTimeout(context.Background(), statsWait)
		defer cancel()
		// A guest that does not answer leaves what it told before.
		if fresh, err := b.Stats(ctx); err == nil {
			stats = fresh
		}
	}
	out := monitor.BalloonStats{Actual: b.Actual(), Stats: map[string]uint64{}}
	stats.Each(func(name string, v uint64) { out.Stats[name] = v })
	if !stats.Updated.IsZero() {
		out.LastUpdate = stats.Updated.Unix()
	}
	return out, nil
}

// SetBalloonStatsPeriod implements monitor.Machine.
func (c control) SetBalloonStatsPeriod(seconds int) error {
	if c.devices.balloon == nil {
		return errNoBalloon
	}
	c.devices.statsPeriod.Store(int64(seconds))
	c.devices.balloon.SetStatsPeriod(time.Duration(seconds) * time.Second)
	return nil
}
