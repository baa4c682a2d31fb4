package main

import (
	"fmt"
	"net"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// A caller is a client of either daemon that makes one call at a time and costs as little as a client can, so that what is
// measured is the daemon. It is used by one goroutine.
type caller struct {
	conn   net.Conn
	frames *rpc.FrameReader
	buf    []byte
	serial uint32
}

// dial connects and opens the driver.
func dial(socket string) (*caller, error) {
	conn, err := net.Dial("unix", socket)
	if err != nil {
		return nil, err
	}
	c := &caller{conn: conn, frames: rpc.NewFrameReader(conn, 0)}
	if err := conn.SetDeadline(time.Now().Add(10 * time.Minute)); err != nil {
		c.close()
		return nil, err
	}
	if err := c.call(rpc.ProcAuthList, nil, nil); err != nil {
		c.close()
		return nil, err
	}
	if err := c.call(rpc.ProcConnectOpen, &libvirt.ConnectOpenArgs{Name: libvirt.OptString{"qemu:///system"}}, nil); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *caller) close() {
	c.conn.Close()
	c.frames.Close()
}

// call makes a call of the remote program. args and ret are pointers to the procedure's types, or nil where they do not
// matter.
func (c *caller) call(procedure uint32, args, ret any) error {
	if args == nil {
		args = rpc.Raw(nil)
	}
	body, err := c.send(procedure, args)
	if err != nil || ret == nil {
		return err
	}
	return rpc.Unmarshal(body, ret)
}

// send makes a call and returns the encoded result, which is valid until the next call.
func (c *caller) send(procedure uint32, args any) ([]byte, error) {
	c.serial++
	h := rpc.Header{Program: rpc.ProgramRemote, Version: 1, Procedure: procedure, Serial: c.serial}
	var err error
	if c.buf, err = rpc.Marshal(rpc.AppendMessage(c.buf[:0], h), args); err != nil {
		return nil, err
	}
	if err := rpc.FinishMessage(c.buf); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(c.buf); err != nil {
		return nil, err
	}
	got, body, _, err := c.frames.Next()
	switch {
	case err != nil:
		return nil, err
	case got.Type != rpc.TypeReply || got.Serial != c.serial || got.Procedure != procedure:
		return nil, fmt.Errorf("call %d of procedure %d was answered by %+v", c.serial, procedure, got)
	case got.Status != rpc.StatusOK:
		return nil, rpc.DecodeError(body)
	}
	return body, nil
}
