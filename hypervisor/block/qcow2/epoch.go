package qcow2

import "sync/atomic"

// Reader counts the requests of one queue that use host offsets from Map. A cluster that is given back is used for
// something else only when every request that may know its offset has ended.
type Reader struct {
	q     *Image
	count [2]atomic.Int64
}

// NewReader makes a Reader for a queue. There is no end to it: an image has as many as it ever had queues.
func (q *Image) NewReader() *Reader {
	r := &Reader{q: q}
	q.mu.Lock()
	q.readers = append(q.readers, r)
	q.mu.Unlock()
	return r
}

// Enter comes before Map. What it returns goes to Leave when the request that used the extent has ended.
func (r *Reader) Enter() uint8 {
	for {
		e := r.q.epoch.Load()
		r.count[e&1].Add(1)
		if r.q.epoch.Load() == e {
			return uint8(e & 1)
		}
		r.count[e&1].Add(-1)
	}
}

// Leave ends what Enter began.
func (r *Reader) Leave(e uint8) { r.count[e].Add(-1) }

// drained tells whether nobody is left that entered before the epoch last changed. Under mu.
func (q *Image) drained() bool {
	old := (q.epoch.Load() + 1) & 1
	for _, r := range q.readers {
		if r.count[old].Load() != 0 {
			return false
		}
	}
	return true
}
