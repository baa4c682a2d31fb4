package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"virtd/domain"
	"virtd/driver"
)

// Driver makes and remembers engines. The zero value is ready. All methods are safe for concurrent use.
type Driver struct {
	// OnStart, if set, is called before an engine is made; its error fails the start.
	OnStart func(ctx context.Context, live *domain.Definition) error
	// OnCall, if set, is called before an engine does what it is asked, with the method's name: to fail or delay it.
	OnCall func(ctx context.Context, e *Engine, method string) error
	// NoPoweroffAction makes engines that cannot reset in place of a power-off.
	NoPoweroffAction bool

	mu      sync.Mutex
	engines map[string]*Engine // running ones by key
	next    int
}

type record struct {
	Key string `json:"key"`
}

// HostModel implements domain.HostCPU.
func (d *Driver) HostModel() (domain.CPUModel, error) {
	return domain.CPUModel{Name: "EPYC", Vendor: "AMD"}, nil
}

// Start implements driver.Driver.
func (d *Driver) Start(ctx context.Context, req driver.Request) (driver.Instance, error) {
	if d.OnStart != nil {
		if err := d.OnStart(ctx, req.Live); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	d.next++
	key := fmt.Sprint("engine-", d.next)
	d.mu.Unlock()
	rec, err := json.Marshal(record{key})
	if err != nil {
		return nil, err
	}
	if err := req.Record(rec); err != nil {
		return nil, err
	}
	e := newEngine(d, key, req.Live)
	if req.Incoming != nil {
		if err := e.read(req.Incoming); err != nil {
			return nil, err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.engines == nil {
		d.engines = map[string]*Engine{}
	}
	d.engines[key] = e
	return e.connect(), nil
}

// Adopt implements driver.Driver.
func (d *Driver) Adopt(_ context.Context, rec json.RawMessage, live *domain.Definition) (driver.Instance, error) {
	var r record
	if err := json.Unmarshal(rec, &r); err != nil {
		return nil, err
	}
	d.mu.Lock()
	e := d.engines[r.Key]
	d.mu.Unlock()
	if e == nil {
		return nil, &driver.Gone{Exit: driver.Exit{Reason: driver.ExitCrashed, Detail: "no such engine"}}
	}
	if exit := e.ended(); exit != nil {
		d.remove(e)
		return nil, &driver.Gone{Exit: *exit}
	}
	i := e.connect()
	if has := e.definition().OnlineVCPUs(); !slices.Equal(has, live.OnlineVCPUs()) {
		i.deliver(driver.VCPUsPresent{VCPUs: has})
	}
	return i, nil
}

// Tidy implements driver.Driver: a fake start is never cut short.
func (d *Driver) Tidy([]uuid.UUID) error { return nil }

// Engine returns the engine that runs the named domain, or nil.
func (d *Driver) Engine(name string) *Engine {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.engines {
		if strings.EqualFold(e.Live.Name(), name) && e.ended() == nil {
			return e
		}
	}
	return nil
}

// Len returns how many engines there are.
func (d *Driver) Len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.engines)
}

func (d *Driver) remove(e *Engine) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.engines, e.key)
}
