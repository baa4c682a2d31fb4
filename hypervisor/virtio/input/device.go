package input

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"virtd/hypervisor/virtio"
)

const (
	eventQueue  = 0
	statusQueue = 1
	queues      = 2
	queueSize   = 64
	eventSize   = 8
)

// Config describes a keyboard.
type Config struct {
	Name string // alias, for messages
}

// Device is a keyboard. Press may be called by any goroutine; the rest is the transport's.
type Device struct {
	cfg      Config
	env      *virtio.Env
	services [queues]*virtio.Service
	chain    virtio.Chain // of the eventq's service
	status   virtio.Chain // of the statusq's

	mu          sync.Mutex
	sel, subsel byte
	typist      typist
	driver      bool   // one reads events
	wake        func() // nil while the device stands still
}

var _ virtio.Device = (*Device)(nil)

// New makes a keyboard.
func New(cfg Config) *Device { return &Device{cfg: cfg} }

// ErrNoDriver is returned (wrapped) while no driver of the guest reads the keyboard.
var ErrNoDriver = errors.New("the guest has no driver that reads the keyboard (Linux: virtio_input)")

// Press presses keys in their order, holds them and releases them in the other order, after the strokes that wait. It does not
// wait for the guest.
func (d *Device) Press(keys []uint16, hold time.Duration) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.driver {
		return fmt.Errorf("keyboard %s: %w", d.cfg.Name, ErrNoDriver)
	}
	if err := d.typist.add(stroke{append([]uint16(nil), keys...), hold}); err != nil {
		return fmt.Errorf("keyboard %s: %w", d.cfg.Name, err)
	}
	if d.wake != nil {
		d.wake()
	}
	return nil
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDInput }

// Features implements virtio.Device.
func (d *Device) Features() uint64 { return virtio.FeatureIndirectDesc | virtio.FeatureEventIdx }

// QueueSizes implements virtio.Device: eventq and statusq.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	d.env = env
	d.mu.Lock()
	d.driver = env.Queues[eventQueue] != nil
	d.mu.Unlock()
	return d.start()
}

func (d *Device) start() error {
	for i, turn := range [queues]func(*virtio.Service, *virtio.Queue) (virtio.Turn, error){d.events, d.statuses} {
		q := d.env.Queues[i]
		if q == nil {
			continue
		}
		s, err := virtio.Serve(d.env, q, turn)
		if err != nil {
			d.stop()
			return err
		}
		d.services[i] = s
	}
	if s := d.services[eventQueue]; s != nil {
		d.mu.Lock()
		d.wake = s.Wake
		d.mu.Unlock()
		s.Wake() // for what came before
	}
	return nil
}

func (d *Device) stop() {
	d.mu.Lock()
	d.wake = nil
	d.mu.Unlock()
	for i := range d.services {
		d.services[i].Stop()
		d.services[i] = nil
	}
}

// Reset implements virtio.Device. A keyboard that is reset has no key down.
func (d *Device) Reset() {
	d.stop()
	d.env = nil
	d.mu.Lock()
	defer d.mu.Unlock()
	d.driver, d.typist, d.sel, d.subsel = false, typist{}, 0, 0
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.stop() }

// Resume implements virtio.Device.
func (d *Device) Resume() {
	if err := d.start(); err != nil {
		d.env.Fail(err)
	}
}

// errShort stops the device: a buffer has room for one event (virtio 1.2, 5.8.6.2).
var errShort = errors.New("an event buffer has less than 8 bytes")

// events gives the driver what is due, one event in each of its buffers.
func (d *Device) events(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !s.Stopping() {
		e, at := d.next()
		if e == nil {
			return virtio.Turn{Blocked: true, Until: at}, nil
		}
		ok, err := q.Pop(&d.chain)
		if !ok || err != nil {
			return virtio.Turn{}, err // the next buffer rings
		}
		if d.chain.WriteLen < eventSize {
			return virtio.Turn{}, errShort
		}
		var b [eventSize]byte
		binary.LittleEndian.PutUint16(b[0:], e.kind)
		binary.LittleEndian.PutUint16(b[2:], e.code)
		binary.LittleEndian.PutUint32(b[4:], e.value)
		d.chain.CopyOut(0, b[:])
		q.PushChain(&d.chain, eventSize)
		d.mu.Lock()
		d.typist.sent()
		d.mu.Unlock()
	}
	return virtio.Turn{}, nil
}

// next is the typist's next event by the clock.
func (d *Device) next() (*event, time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.typist.next(time.Now())
}

// statuses takes what the driver says, such as which lights are on.
func (d *Device) statuses(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !s.Stopping() {
		ok, err := q.Pop(&d.status)
		if !ok || err != nil {
			return virtio.Turn{}, err
		}
		q.PushChain(&d.status, 0)
	}
	return virtio.Turn{}, nil
}

// stateVersion counts up when the meaning of state changes.
const stateVersion = 1

type state struct {
	Version int      `json:"version"`
	Select  byte     `json:"select"`
	Subsel  byte     `json:"subsel"`
	Down    []uint16 `json:"down,omitempty"`    // keys that the guest believes to be down, or half of whose presses it has
	Waiting []stroke `json:"waiting,omitempty"` // not begun
}

// Save implements virtio.Device. Keys that are down are released after Restore: nobody holds them there.
func (d *Device) Save() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := state{Version: stateVersion, Select: d.sel, Subsel: d.subsel, Down: d.typist.down, Waiting: d.typist.waiting}
	for _, e := range d.typist.out { // releases that have not gone
		if e.kind == evKey && e.value == 0 {
			s.Down = append(s.Down, e.code)
		}
	}
	return json.Marshal(s)
}

// Restore implements virtio.Device.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("keyboard %s: %w", d.cfg.Name, err)
	}
	if s.Version != stateVersion {
		return fmt.Errorf("keyboard %s: state version %d is not %d", d.cfg.Name, s.Version, stateVersion)
	}
	var t typist
	for _, w := range s.Waiting {
		if err := t.add(w); err != nil {
			return fmt.Errorf("keyboard %s: state: %w", d.cfg.Name, err)
		}
	}
	for _, k := range s.Down {
		if k == 0 || k > MaxKey || len(t.out) > 4*MaxKeys {
			return fmt.Errorf("keyboard %s: state: key %d is down", d.cfg.Name, k)
		}
		t.report(k, 0)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.typist, d.sel, d.subsel = t, s.Select, s.Subsel
	return nil
}
