package block

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// poolThreads is how many requests of one queue wait for the host at once.
const poolThreads = 8

// pool runs requests on goroutines that block in the kernel, and polls the doorbell and their results.
type pool struct {
	l    *Loop
	kick int
	todo chan *Op
	wg   sync.WaitGroup
	fds  [2]unix.PollFd
	time unix.Timespec // of a wait
	sink [8]byte       // what eventfds counted

	mu   sync.Mutex
	done list
}

func newPool(l *Loop) *pool {
	p := &pool{l: l, kick: -1, todo: make(chan *Op, max(l.cfg.Depth, 1))}
	for range min(poolThreads, max(l.cfg.Depth, 1)) {
		p.wg.Add(1)
		go p.worker()
	}
	return p
}

func (p *pool) worker() {
	defer p.wg.Done()
	var buf []byte // of a format
	defer func() {
		if buf != nil {
			unix.Munmap(buf)
		}
	}()
	for op := range p.todo {
		if op.slow {
			buf = op.file.format.perform(op, buf)
		} else {
			op.file.perform(op)
		}
		p.mu.Lock()
		first := p.done.head == nil
		p.done.push(op)
		p.mu.Unlock()
		if first {
			p.l.Wake()
		}
	}
}

func (p *pool) arm(kick int) { p.kick = kick }
func (p *pool) disarm()      { p.kick = -1 }
func (p *pool) start(op *Op) { p.todo <- op }

func (p *pool) wait(limit time.Duration) error {
	p.fds[0] = unix.PollFd{Fd: int32(p.l.wake), Events: unix.POLLIN}
	p.fds[1] = unix.PollFd{Fd: int32(p.kick), Events: unix.POLLIN} // ignored when negative
	var until *unix.Timespec                                       // nil: no limit
	if limit != forever {
		p.time = unix.NsecToTimespec(int64(limit))
		until = &p.time
	}
	if _, err := unix.Ppoll(p.fds[:], until, nil); err != nil && err != unix.EINTR {
		return fmt.Errorf("%s: wait for the doorbell: %w", p.l.cfg.Name, err)
	}
	for i := range p.fds {
		if p.fds[i].Revents != 0 {
			unix.Read(int(p.fds[i].Fd), p.sink[:])
		}
	}
	p.collect()
	return nil
}

// collect hands what is done to the loop.
func (p *pool) collect() {
	p.mu.Lock()
	for op := p.done.pop(); op != nil; op = p.done.pop() {
		p.l.finish(op)
	}
	p.mu.Unlock()
}

func (p *pool) interrupt(int) bool { return false }

func (p *pool) close() {
	close(p.todo)
	p.wg.Wait()
}
