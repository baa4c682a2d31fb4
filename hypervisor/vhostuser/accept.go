package vhostuser

import (
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// Replace takes over fd, a connection to another back end, also when it fails.
func (b *Backend) Replace(fd int) error {
	if b.Connected() {
		unix.Close(fd)
		return fmt.Errorf("%s: there is a back end", b.cfg.Name)
	}
	s, err := b.greet(fd)
	if err == nil {
		err = b.adopt(s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", b.cfg.Name, err)
	}
	return nil
}

// adopt makes a back end that came later the current one, if it can do what the first could.
func (b *Backend) adopt(s *session) error {
	var err error
	switch lost := b.features &^ s.features; {
	case lost != 0:
		err = fmt.Errorf("the back end lacks features %#x that the device was made with", lost)
	case b.accounts && s.protocol&protocolInflight == 0:
		err = errors.New("the back end keeps no account of requests in flight, as the one before did")
	case s.queues < b.queues:
		err = fmt.Errorf("the back end serves %d queues, the one before served %d", s.queues, b.queues)
	}
	b.reportMu.Lock() // orders two that come at once
	if err == nil && b.Connected() {
		err = errors.New("there is a back end")
	}
	if err == nil {
		select {
		case <-b.closed:
			err = net.ErrClosed
		default:
			b.install(s)
		}
	}
	b.reportMu.Unlock()
	if err != nil {
		s.close()
		return err
	}
	b.logf("a back end has connected")
	b.report()
	return nil
}

// accept takes connections of a listening socket, one at a time.
func (b *Backend) accept() {
	for {
		select {
		case <-b.closed:
			return
		case <-b.vacant:
		}
		for !b.Connected() {
			if err := b.acceptOne(); err != nil {
				select {
				case <-b.closed:
					return
				case <-time.After(b.limits.pause):
				}
				b.logf("a back end that connected is of no use: %v", err)
			}
		}
	}
}

func (b *Backend) acceptOne() error {
	c, err := b.listener.AcceptUnix()
	if err != nil {
		return err
	}
	s := connect(c)
	s.patience(b.limits.hello)
	n, err := negotiate(s, b.cfg)
	if err != nil {
		s.close()
		return err
	}
	return b.adopt(n)
}
