package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxLine     = 256 << 10       // bytes of one command
	maxQueue    = 1024            // messages that wait for a client to read
	sendTimeout = 5 * time.Second // for one message, after which the client is dropped
	lastMoment  = time.Second     // for what waits when the server ends
)

// client is one connection.
type client struct {
	server     *Server
	conn       *os.File
	in         *fileReader
	out        chan []byte
	negotiated atomic.Bool
	finishing  sync.Once
	draining   chan struct{} // closed by finish
	gone       chan struct{} // closed when the writer has ended
}

func newClient(s *Server, conn *os.File) *client {
	return &client{server: s, conn: conn, in: &fileReader{conn: conn}, out: make(chan []byte, maxQueue), draining: make(chan struct{}), gone: make(chan struct{})}
}

// send queues one message. A full queue drops the client.
func (c *client) send(line []byte) {
	select {
	case c.out <- line:
	default:
		c.conn.Close()
	}
}

// finish lets the writer send what waits, and end.
func (c *client) finish() { c.finishing.Do(func() { close(c.draining) }) }

func (c *client) writer() {
	defer close(c.gone)
	defer c.conn.Close()
	for {
		select {
		case line := <-c.out:
			if !c.write(line, sendTimeout) {
				return
			}
		case <-c.draining:
			for {
				select {
				case line := <-c.out:
					if !c.write(line, lastMoment) {
						return
					}
				default:
					return
				}
			}
		}
	}
}

func (c *client) write(line []byte, limit time.Duration) bool {
	if err := c.conn.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return false
	}
	_, err := c.conn.Write(append(line[:len(line):len(line)], '\r', '\n')) // other clients send the same line
	return err == nil
}

// reader answers commands one after the other until the client leaves.
func (c *client) reader() {
	defer c.finish()
	defer c.in.drop()
	c.sendJSON(greeting())
	r := bufio.NewReaderSize(c.in, 4096)
	for {
		line, err := readLine(r)
		if errors.Is(err, errLineTooLong) {
			c.sendJSON(failure(nil, classGeneric, fmt.Sprintf("a command has at most %d bytes", maxLine)))
			return
		}
		if err != nil {
			return
		}
		if len(line) == 0 {
			continue
		}
		if reply := c.execute(line); reply != nil {
			c.sendJSON(reply)
		}
	}
}

var errLineTooLong = errors.New("line too long")

// readLine returns a line without its end.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, errLineTooLong
		}
		line = append(line, part...)
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
			line = line[:len(line)-1]
		}
		return line, nil
	}
}

func (c *client) sendJSON(v any) {
	line, err := json.Marshal(v)
	if err != nil {
		c.server.logf("monitor reply: %v", err)
		line = []byte(`{"error":{"class":"GenericError","desc":"the reply cannot be encoded"}}`)
	}
	c.send(line)
}
