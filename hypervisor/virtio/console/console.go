package console

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"

	"virtd/hypervisor/virtio"
)

// Feature bits (virtio 1.2, 5.3.3).
const (
	FeatureSize      uint64 = 1 << 0 // VIRTIO_CONSOLE_F_SIZE
	FeatureEmergency uint64 = 1 << 2 // VIRTIO_CONSOLE_F_EMERG_WRITE
)

// Virtqueues of port 0 (5.3.2).
const (
	receiveq  = 0
	transmitq = 1
	queueSize = 64
)

// Layout of struct virtio_console_config (5.3.4).
const (
	cfgCols      = 0 // le16
	cfgRows      = 2 // le16
	cfgMaxPorts  = 4 // le32
	cfgEmergency = 8 // le32
	cfgSize      = 12
)

const (
	inputSize = 4096 // input that waits for buffers
	pieceSize = 4096 // output copied at a time
)

// Host is the other end of the console.
type Host interface {
	// Write takes output without blocking and returns how much it took. When that is less than len(p) it calls Drained
	// later.
	Write(p []byte) int
	// Ready tells that Room is no longer 0.
	Ready()
}

// Config describes the device.
type Config struct {
	Name       string // alias, for messages
	Cols, Rows uint16 // of the terminal; 0 is not told
}

// Device is the console. Room, Receive, Drained, Connected and SetSize may be called by any goroutine; the rest is the
// transport's.
type Device struct {
	cfg  Config
	host Host
	size atomic.Uint32 // cols, rows<<16

	env    atomic.Pointer[virtio.Env]
	rx, tx *virtio.Service
	rxc    virtio.Chain
	txc    virtio.Chain
	txHeld bool   // txc is being written
	txDone uint64 // bytes of it that the host took; kept when it is made available again
	piece  [pieceSize]byte
	chunk  [pieceSize]byte

	mu     sync.Mutex
	input  []byte // waits for guest buffers
	active bool   // a driver is there
	wakeRx *virtio.Service
	wakeTx *virtio.Service
}

var _ virtio.Device = (*Device)(nil)

// New makes a console on host.
func New(host Host, cfg Config) *Device {
	d := &Device{cfg: cfg, host: host, input: make([]byte, 0, inputSize)}
	d.size.Store(uint32(cfg.Cols) | uint32(cfg.Rows)<<16)
	return d
}

// ID implements virtio.Device.
func (d *Device) ID() virtio.DeviceID { return virtio.IDConsole }

// Features implements virtio.Device.
func (d *Device) Features() uint64 {
	f := virtio.FeatureIndirectDesc | virtio.FeatureEventIdx | FeatureEmergency
	if d.cfg.Cols != 0 && d.cfg.Rows != 0 {
		f |= FeatureSize
	}
	return f
}

// QueueSizes implements virtio.Device.
func (d *Device) QueueSizes() []uint16 { return []uint16{queueSize, queueSize} }

// ReadConfig implements virtio.Device.
func (d *Device) ReadConfig(offset int, p []byte) {
	var b [cfgSize]byte
	binary.LittleEndian.PutUint32(b[cfgCols:], d.size.Load())
	binary.LittleEndian.PutUint32(b[cfgMaxPorts:], 1)
	clear(p)
	if offset < len(b) {
		copy(p, b[offset:])
	}
}

// WriteConfig implements virtio.Device: an emergency write is one character, whatever state the driver is in (5.3.5).
func (d *Device) WriteConfig(offset int, p []byte) {
	if offset == cfgEmergency && len(p) > 0 {
		d.host.Write(p[:1])
	}
}

// SetSize tells the guest that the terminal changed its size.
func (d *Device) SetSize(cols, rows uint16) {
	d.size.Store(uint32(cols) | uint32(rows)<<16)
	if env := d.env.Load(); env != nil && env.Features&FeatureSize != 0 {
		env.ConfigChanged()
	}
}

// Activate implements virtio.Device.
func (d *Device) Activate(env *virtio.Env) error {
	d.env.Store(env)
	return d.start(env)
}

func (d *Device) start(env *virtio.Env) error {
	var err error
	if q := env.Queues[receiveq]; q != nil {
		if d.rx, err = virtio.Serve(env, q, d.receive); err != nil {
			return err
		}
	}
	if q := env.Queues[transmitq]; q != nil {
		if d.tx, err = virtio.Serve(env, q, d.transmit); err != nil {
			d.stop()
			return err
		}
	}
	d.mu.Lock()
	d.active, d.wakeRx, d.wakeTx = d.rx != nil, d.rx, d.tx
	d.mu.Unlock()
	if d.rx != nil {
		d.rx.Wake() // input may have come before wakeRx was set
		d.host.Ready()
	}
	return nil
}

func (d *Device) stop() {
	d.mu.Lock()
	d.wakeRx, d.wakeTx = nil, nil
	d.mu.Unlock()
	d.rx.Stop()
	d.tx.Stop()
	if d.txHeld { // whoever goes on takes it again and skips txDone
		d.env.Load().Queues[transmitq].Unpop(&d.txc)
		d.txHeld = false
	}
	d.rx, d.tx = nil, nil
}

// Reset implements virtio.Device. Input that no driver took is gone.
func (d *Device) Reset() {
	d.stop()
	d.env.Store(nil)
	d.mu.Lock()
	d.active, d.input = false, d.input[:0]
	d.mu.Unlock()
	d.txDone = 0
}

// Quiesce implements virtio.Device.
func (d *Device) Quiesce() { d.stop() }

// Resume implements virtio.Device.
func (d *Device) Resume() {
	env := d.env.Load()
	if err := d.start(env); err != nil {
		env.Fail(err)
	}
}

// transmit moves guest output to the host.
func (d *Device) transmit(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !s.Stopping() {
		if !d.txHeld {
			ok, err := q.Pop(&d.txc)
			if !ok || err != nil {
				return virtio.Turn{}, err
			}
			d.txHeld = true
		}
		n := d.txc.CopyIn(d.piece[:], d.txDone)
		if n == 0 {
			q.PushChain(&d.txc, 0)
			d.txHeld, d.txDone = false, 0
			continue
		}
		took := d.host.Write(d.piece[:n])
		if d.txDone += uint64(took); took < n {
			return virtio.Turn{Blocked: true}, nil
		}
	}
	return virtio.Turn{}, nil
}

// receive moves input to guest buffers.
func (d *Device) receive(s *virtio.Service, q *virtio.Queue) (virtio.Turn, error) {
	for !s.Stopping() {
		d.mu.Lock()
		n := copy(d.chunk[:], d.input)
		d.mu.Unlock()
		if n == 0 {
			return virtio.Turn{Blocked: true}, nil // kicks bring buffers, which are of no use yet
		}
		ok, err := q.Pop(&d.rxc)
		if !ok || err != nil {
			return virtio.Turn{}, err
		}
		n = d.rxc.CopyOut(0, d.chunk[:n])
		q.PushChain(&d.rxc, uint32(n))
		d.mu.Lock()
		was := len(d.input)
		d.input = d.input[:copy(d.input, d.input[n:])]
		d.mu.Unlock()
		if was == inputSize && n > 0 {
			d.host.Ready()
		}
	}
	return virtio.Turn{}, nil
}

// Room returns how much input Receive takes now: nothing without a driver.
func (d *Device) Room() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.active {
		return 0
	}
	return inputSize - len(d.input)
}

// Receive takes input, at most Room bytes.
func (d *Device) Receive(p []byte) {
	d.mu.Lock()
	if d.active {
		d.input = append(d.input, p[:min(len(p), inputSize-len(d.input))]...)
	}
	if d.wakeRx != nil {
		d.wakeRx.Wake()
	}
	d.mu.Unlock()
}

// Drained says that the host takes output again.
func (d *Device) Drained() {
	d.mu.Lock()
	if d.wakeTx != nil {
		d.wakeTx.Wake()
	}
	d.mu.Unlock()
}

// Connected is told when somebody comes or goes at the host side. A console without multiport cannot tell the guest.
func (d *Device) Connected(bool) {}

type state struct {
	Version int    `json:"version"`
	Input   []byte `json:"input,omitempty"`
	TxDone  uint64 `json:"txDone,omitempty"` // bytes of the first available output chain that were written
}

// Save implements virtio.Device.
func (d *Device) Save() ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return json.Marshal(state{1, d.input, d.txDone})
}

// Restore implements virtio.Device.
func (d *Device) Restore(b []byte) error {
	var s state
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("console %s: %w", d.cfg.Name, err)
	}
	if s.Version != 1 || len(s.Input) > inputSize {
		return fmt.Errorf("console %s: the state is not of this device (version %d, %d bytes of input)", d.cfg.Name, s.Version, len(s.Input))
	}
	d.mu.Lock()
	d.input = append(d.input[:0], s.Input...)
	d.mu.Unlock()
	d.txDone = s.TxDone
	return nil
}
