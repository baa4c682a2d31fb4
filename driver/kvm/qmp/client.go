package qmp

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"
)

// MaxLine bounds one message of the engine, in bytes.
const MaxLine = 4 << 20

// ErrClosed is the error of commands on a connection that has ended.
var ErrClosed = errors.New("the engine's monitor connection is closed")

// Error is an error reply.
type Error struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

// Error implements error.
func (e *Error) Error() string { return e.Desc }

// Event is an event of the engine.
type Event struct {
	Name string
	Time time.Time
	Data json.RawMessage // an object, or nil
}

// Client is one connection. All methods are safe for concurrent use.
type Client struct {
	conn    net.Conn
	onEvent func(Event)

	writeMu sync.Mutex

	mu      sync.Mutex
	next    uint64
	pending map[string]chan reply
	err     error         // why it ended
	done    chan struct{} // closed when the reader has ended
}

type reply struct {
	line   []byte
	result json.RawMessage
	err    error
}

// message is any line of the engine.
type message struct {
	QMP       json.RawMessage `json:"QMP"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
	ID     *string         `json:"id"`
	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
}

// New speaks QMP over conn, which it takes over, up to command mode. onEvent is called by the reader for each event,
// before any reply that follows the event is delivered; it must not wait for replies.
func New(ctx context.Context, conn net.Conn, onEvent func(Event)) (*Client, error) {
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	lines := newLineReader(conn)
	if err := greet(conn, lines); err != nil {
		stop()
		conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", ctx.Err(), err)
		}
		return nil, fmt.Errorf("cannot open the engine's monitor: %w", err)
	}
	if !stop() {
		conn.Close()
		return nil, fmt.Errorf("cannot open the engine's monitor: %w", ctx.Err())
	}
	c := &Client{conn: conn, onEvent: onEvent, pending: map[string]chan reply{}, done: make(chan struct{})}
	go c.read(lines)
	return c, nil
}

// Dial is New over a connection to the socket at path.
func Dial(ctx context.Context, path string, onEvent func(Event)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the engine's monitor: %w", err)
	}
	return New(ctx, conn, onEvent)
}

// greet reads the greeting and leaves capabilities negotiation.
func greet(conn net.Conn, lines *lineReader) error {
	line, err := lines.next()
	if err != nil {
		return err
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil || m.QMP == nil {
		return errors.New("what came is no QMP greeting")
	}
	if _, err := io.WriteString(conn, `{"execute":"qmp_capabilities","id":"hello"}`+"\n"); err != nil {
		return err
	}
	for {
		line, err := lines.next()
		if err != nil {
			return err
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			return errors.New("what came is no QMP reply")
		}
		switch {
		case m.Error != nil:
			return m.Error
		case m.ID != nil && *m.ID == "hello":
			return nil
		}
	}
}

// Execute runs a command and decodes its result into result, which may be nil. args is what encodes to the arguments
// object, or nil.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	fields := map[string]any{"execute": command}
	if args != nil {
		fields["arguments"] = args
	}
	return c.execute(ctx, fields, nil, result)
}

// execute sends a command object, with descriptors, and decodes the result.
func (c *Client) execute(ctx context.Context, fields map[string]any, files []*os.File, result any) error {
	command := fields["execute"]
	r, err := c.send(ctx, fields, files)
	if err != nil {
		return err
	}
	if r.err != nil || result == nil {
		return r.err
	}
	if err := json.Unmarshal(r.result, result); err != nil {
		return fmt.Errorf("the engine's answer to %v makes no sense: %w", command, err)
	}
	return nil
}

// Raw sends a command object as a user wrote it, under an id of ours, and returns the reply as it came.
func (c *Client) Raw(ctx context.Context, object string) (string, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal([]byte(object), &fields); err != nil {
		return "", fmt.Errorf("cannot parse the command as a JSON object: %w", err)
	}
	anyFields := make(map[string]any, len(fields)+1)
	for k, v := range fields {
		anyFields[k] = v
	}
	r, err := c.send(ctx, anyFields, nil)
	if err != nil {
		return "", err
	}
	return string(r.line), nil
}

func (c *Client) send(ctx context.Context, fields map[string]any, files []*os.File) (reply, error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return reply{}, c.err
	}
	c.next++
	id := "virtd-" + strconv.FormatUint(c.next, 10)
	ch := make(chan reply, 1)
	c.pending[id] = ch
	c.mu.Unlock()
	defer c.drop(id)

	fields["id"] = id
	line, err := json.Marshal(fields)
	if err != nil {
		return reply{}, err
	}
	if err := c.write(ctx, append(line, '\n'), files); err != nil {
		return reply{}, err
	}
	select {
	case r := <-ch:
		return r, nil
	case <-ctx.Done():
		return reply{}, fmt.Errorf("the engine did not answer: %w", ctx.Err())
	case <-c.done:
		select {
		case r := <-ch: // it came just before the end
			return r, nil
		default:
			return reply{}, c.Err()
		}
	}
}

func (c *Client) drop(id string) {
	c.mu.Lock()
	delete(c.pending, id)
	c.mu.Unlock()
}

// write sends one line whole. An engine that does not read for the context's time loses the connection: half a line
// cannot be taken back.
func (c *Client) write(ctx context.Context, line []byte, files []*os.File) error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = time.Now().Add(30 * time.Second)
	}
	if err := c.conn.SetWriteDeadline(deadline); err != nil {
		return ErrClosed
	}
	if err := writeWith(c.conn, line, files); err != nil {
		c.conn.Close()
		return fmt.Errorf("%w (%w)", ErrClosed, err)
	}
	return nil
}

// read is the reader goroutine; it ends with the connection.
func (c *Client) read(lines *lineReader) {
	err := c.readAll(lines)
	c.conn.Close()
	c.mu.Lock()
	c.err = ErrClosed
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.err = fmt.Errorf("%w (%w)", ErrClosed, err)
	}
	c.mu.Unlock()
	close(c.done)
}

func (c *Client) readAll(lines *lineReader) error {
	for {
		line, err := lines.next()
		if err != nil {
			return err
		}
		if err := c.dispatch(line); err != nil {
			return err
		}
	}
}

func (c *Client) dispatch(line []byte) error {
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return fmt.Errorf("the engine sent a line that is no JSON object: %w", err)
	}
	switch {
	case m.Event != "":
		c.onEvent(Event{Name: m.Event, Time: time.Unix(m.Timestamp.Seconds, m.Timestamp.Microseconds*1000), Data: m.Data})
	case m.ID != nil:
		c.answer(*m.ID, line, m)
	case m.Error != nil:
		return fmt.Errorf("the engine did not understand us: %w", m.Error)
	}
	return nil // unknown kinds of messages are skipped, as QMP wants
}

func (c *Client) answer(id string, line []byte, m message) {
	c.mu.Lock()
	ch := c.pending[id]
	delete(c.pending, id)
	c.mu.Unlock()
	if ch == nil {
		return // its caller gave up
	}
	r := reply{line: append([]byte(nil), line...), result: m.Return}
	if m.Error != nil {
		r.err = m.Error
	}
	ch <- r
}

// Close ends the connection and returns when no event will follow. It must not be called from onEvent.
func (c *Client) Close() {
	c.conn.Close()
	<-c.done
}

// Done is closed when the connection has ended and all its events were delivered.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection ended, nil while it has not.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// lineReader reads bounded lines.
type lineReader struct{ s *bufio.Scanner }

func newLineReader(r io.Reader) *lineReader {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 0, 4096), MaxLine)
	return &lineReader{s}
}

// next returns the next line, valid until the one after it; io.EOF at the end.
func (l *lineReader) next() ([]byte, error) {
	for l.s.Scan() {
		if line := l.s.Bytes(); len(line) > 0 {
			return line, nil
		}
	}
	if err := l.s.Err(); err != nil {
		return nil, err
	}
	return nil, io.EOF
}
