package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// saveCommands take a client and not only its arguments: they need its descriptors, answer later, or belong to the
// connection. A nil result is answered by the command itself, when it is done.
var saveCommands map[string]func(c *client, r request) any

// saveClient is what a client has under way: it ends with the connection.
type saveClient struct {
	mu     sync.Mutex
	cancel context.CancelFunc // of the command that runs, nil for none
	done   chan struct{}
	holds  bool // a save succeeded, and the state is this client's to commit
}

// file takes the one descriptor that a command must have brought.
func (c *client) file(what string) (*os.File, error) {
	fds := c.in.take()
	if len(fds) != 1 {
		for _, fd := range fds {
			unix.Close(fd)
		}
		return nil, fmt.Errorf("%d descriptors came, %s needs one", len(fds), what)
	}
	return os.NewFile(uintptr(fds[0]), what), nil
}

// startSave is x-virtd-save.
func startSave(c *client, r request) any {
	var a Described
	return c.begin(r, "x-virtd-save", &a, func(ctx context.Context, f *os.File) error {
		err := c.server.machine.Save(ctx, f, a)
		if err == nil {
			c.save.mu.Lock()
			c.save.holds = true
			c.save.mu.Unlock()
		}
		return err
	})
}

// startDump is x-virtd-dump.
func startDump(c *client, r request) any {
	var a struct {
		Live bool `json:"live"`
	}
	return c.begin(r, "x-virtd-dump", &a, func(ctx context.Context, f *os.File) error { return c.server.machine.Dump(ctx, f, a.Live) })
}

// begin runs a long command beside the reader, which has to notice when the client leaves.
func (c *client) begin(r request, what string, args any, run func(context.Context, *os.File) error) any {
	f, err := c.file(what)
	if err == nil {
		if err = arguments(r.Arguments, args); err != nil {
			f.Close()
		}
	}
	if err != nil {
		return failure(r.ID, classGeneric, err.Error())
	}
	c.save.mu.Lock()
	defer c.save.mu.Unlock()
	if c.save.cancel != nil || c.save.holds {
		f.Close()
		return failure(r.ID, classGeneric, "this connection is busy with another save or dump")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	c.save.cancel, c.save.done = cancel, done
	go func() {
		defer close(done)
		defer cancel()
		_, err := c.guard(func(*Server, json.RawMessage) (any, error) { return nil, run(ctx, f) }, nil)
		c.save.mu.Lock()
		c.save.cancel = nil
		c.save.mu.Unlock()
		if err != nil {
			c.sendJSON(failure(r.ID, errorClass(err), err.Error()))
			return
		}
		c.sendJSON(response{Return: empty, ID: r.ID})
	}()
	return nil
}

// commitSave is x-virtd-save-commit.
func commitSave(c *client, r request) any {
	c.save.mu.Lock()
	defer c.save.mu.Unlock()
	err := errors.New("this connection has no saved state to keep")
	if c.save.holds {
		if err = c.server.machine.CommitSave(); err == nil {
			c.save.holds = false
			return response{Return: empty, ID: r.ID}
		}
	}
	return failure(r.ID, classGeneric, err.Error())
}

// leave ends what the client has under way: nobody will use it.
func (c *client) leave() {
	c.save.mu.Lock()
	cancel, done := c.save.cancel, c.save.done
	c.save.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if done != nil {
		<-done
	}
	if !c.save.holds { // nobody else has c any more
		return
	}
	if err := c.server.machine.AbandonSave(); err != nil {
		c.server.logf("the guest was saved for a client that left, and stands still: %v", err)
	}
}
