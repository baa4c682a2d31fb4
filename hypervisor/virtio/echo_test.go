package virtio_test

import (
	"encoding/binary"
	"errors"
	"sync"

	"virtd/hypervisor/virtio"
)

// echo is the smallest device: it copies what it reads to what it may write, on every queue. Its configuration is 8
// writable bytes. It checks the order of the transport's calls.
type echo struct {
	queues   int
	env      *virtio.Env
	wg       sync.WaitGroup
	kicks    []*virtio.Kicks
	config   [8]byte
	served   uint64 // state to save
	mu       sync.Mutex
	refuse   error // Activate's result
	quiesced bool
	misuse   error
	resets   int
}

func (e *echo) ID() virtio.DeviceID { return virtio.IDConsole }
func (e *echo) Features() uint64 {
	return 1<<3 | 1<<40 | virtio.FeatureEventIdx | virtio.FeatureIndirectDesc
}

func (e *echo) QueueSizes() []uint16 {
	s := make([]uint16, e.queues)
	for i := range s {
		s[i] = 16
	}
	return s
}

func (e *echo) ReadConfig(offset int, p []byte) {
	clear(p)
	if offset < len(e.config) {
		copy(p, e.config[offset:])
	}
}

func (e *echo) WriteConfig(offset int, p []byte) {
	if offset < len(e.config) {
		copy(e.config[offset:], p)
	}
}

func (e *echo) Activate(env *virtio.Env) error {
	if e.env != nil {
		e.misuse = errors.New("activated twice")
	}
	if e.refuse != nil {
		return e.refuse
	}
	e.env = env
	e.start()
	return nil
}

func (e *echo) start() {
	for _, q := range e.env.Queues {
		if q == nil {
			continue
		}
		k, err := virtio.NewKicks(q)
		if err != nil {
			panic(err)
		}
		e.kicks = append(e.kicks, k)
		e.wg.Add(1)
		go e.serve(q, k)
	}
}

func (e *echo) serve(q *virtio.Queue, k *virtio.Kicks) {
	defer e.wg.Done()
	defer e.env.Guard()
	var c virtio.Chain
	p := make([]byte, 4096)
	for {
		q.DisableKicks()
		for {
			ok, err := q.Pop(&c)
			if err != nil {
				e.env.Fail(err)
				return
			}
			if !ok {
				break
			}
			n := c.CopyIn(p, 0)
			if n >= 5 && string(p[:5]) == "panic" {
				panic("as asked")
			}
			e.mu.Lock()
			e.served++
			e.mu.Unlock()
			q.PushChain(&c, uint32(c.CopyOut(0, p[:n])))
		}
		q.Notify()
		if q.EnableKicks() {
			continue
		}
		if !k.Wait() {
			return
		}
	}
}

func (e *echo) stop() {
	for _, k := range e.kicks {
		k.Close()
	}
	e.wg.Wait()
	e.kicks = nil
}

func (e *echo) Reset() {
	if e.env == nil {
		e.misuse = errors.New("reset without activation")
	}
	e.stop()
	e.env, e.quiesced = nil, false
	e.resets++
}

func (e *echo) Quiesce() {
	if e.quiesced || e.env == nil {
		e.misuse = errors.New("quiesced twice or inactive")
	}
	e.quiesced = true
	e.stop()
}

func (e *echo) Resume() {
	if !e.quiesced {
		e.misuse = errors.New("resumed while not quiesced")
	}
	e.quiesced = false
	e.start()
}

func (e *echo) Save() ([]byte, error) { return binary.LittleEndian.AppendUint64(nil, e.served), nil }

func (e *echo) Restore(state []byte) error {
	if len(state) != 8 {
		return errors.New("short state")
	}
	e.served = binary.LittleEndian.Uint64(state)
	return nil
}
