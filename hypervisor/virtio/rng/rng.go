package rng

import (
	"encoding/json"
	"fmt"
	"time"

	"virtd/hypervisor/virtio"
)

const (
	queueSize = 64
	// maxRequest is the most that one buffer is filled with; the used length tells the driver.
	maxRequest = 64 << 10
	pieceSize  = 4096
)

// Config describes the device.
type Config struct {
	Name string // alias, for messages
	// FD is read for entropy and owned by the device; negative takes getrandom(2).
	FD int
	// Bytes may be drawn in each Period; 0 is no limit.
	Bytes  uint64
	Period time.Duration
	// Logf reports a source that fails, once. nil reports nothing.
	Logf func(format string, args ...any)
}

// Device is the entropy device.
type Device struct {
	cfg     Config
	source  source
	env     *virtio.Env
	service *virtio.Service
	chain   virtio.Chain
	buf     [pieceSize]byte

	quota uint64    // what is left of this period
	reset time.Time // when the next begins
}

var _ virtio.Device = (*Device)(nil)

// New makes the device.
func New(cfg Config) (*Device, error) {
	if cfg.Bytes != 0 && cfg.Period <= 0 {
		return nil, fmt.Errorf("rng %s: a limit of %d bytes needs a period", cfg.Name, cfg.Bytes)
	}
	if cfg.Logf == nil {
		cfg.Logf = func(string, ...any) {}
	}
	d := &Device{cfg: cfg}
	if cfg.FD < 0 {
		d.source = kernel{}
		return d, nil
	}
	d.source = newFile(cfg.FD, cfg.Name, cfg.Logf)
	return d, nil
}

// Close releases the source. The device must have been reset.
func (d *Device) Close() error { return d.source.close() }

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDEntropy }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return virtio.FeatureIndirectDesc | virtio.FeatureEventIdx }

// QueueSizes implements virtio.Device: requestq.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize} }

// ReadConfig implements virtio.Device: there is no configuration.
func (d *Device) ReadConfig(_ int, p []byte) { clear(p) }

// WriteConfig implements virtio.Device.
func (d *Device) WriteConfig(int, []byte) {}

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	d.env = env
	return d.start()
}

func (d *Device) start() error {
	q := d.env.Queues[0]
	if q == nil {
		return nil
	}
	s, err := virtio.Serve(d.env, q, d.turn)
	if err != nil {
		return err
	}
	d.service = s
	d.source.onReady(s.Wake)
	return nil
}

func (d *Device) stop() {
	d.source.onReady(nil)
	d.service.Stop()
	d.service = nil
}

// Reset implements virtio.Device.
func (d *Device) Reset() {
	d.stop()
	d.env = nil
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.stop() }

// Resume implements virtio.Device.
func (d *Device) Resume() {
	if err := d.start(); err != nil {
		d.env.Fail(err)
	}
}

type state struct {
	Version int `json:"version"`
}

// Save implements virtio.Device. Entropy is not state.
func (d *Device) Save() ([]byte, error) { return json.Marshal(state{Version: 1}) }

// Restore implements virtio.Device.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("rng %s: %w", d.cfg.Name, err)
	}
	if s.Version != 1 {
		return fmt.Errorf("rng %s: state version %d is not 1", d.cfg.Name, s.Version)
	}
	return nil
}

// turn fills buffers until there are none, the limit is reached or the source is dry.
func (d *Device) turn(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !s.Stopping() {
		if wait := d.limited(); !wait.IsZero() {
			return virtio.Turn{Blocked: true, Until: wait}, nil
		}
		ok, err := q.Pop(&d.chain)
		if !ok || err != nil {
			return virtio.Turn{}, err
		}
		n, wait := d.fill()
		if n == 0 && d.chain.WriteLen > 0 {
			q.Unpop(&d.chain)
			return virtio.Turn{Blocked: true, Until: wait}, nil
		}
		q.PushChain(&d.chain, n)
	}
	return virtio.Turn{}, nil
}

// limited returns when the next bytes may be drawn, zero if now.
func (d *Device) limited() time.Time {
	if d.cfg.Bytes == 0 {
		return time.Time{}
	}
	if now := time.Now(); !now.Before(d.reset) {
		d.quota, d.reset = d.cfg.Bytes, now.Add(d.cfg.Period)
	}
	if d.quota == 0 {
		return d.reset
	}
	return time.Time{}
}

// fill writes to the chain what quota and source have for it. wait is when to try a source that had nothing.
func (d *Device) fill() (n uint32, wait time.Time) {
	want := min(d.chain.WriteLen, maxRequest)
	if d.cfg.Bytes != 0 {
		want = min(want, d.quota)
	}
	for uint64(n) < want {
		p := d.buf[:min(pieceSize, want-uint64(n))]
		got, again := d.source.read(p)
		if got == 0 {
			wait = again
			break
		}
		n += uint32(d.chain.CopyOut(uint64(n), p[:got]))
	}
	if d.cfg.Bytes != 0 {
		d.quota -= uint64(n)
	}
	return n, wait
}
