package nodedev

import (
	"context"
	"path"
	"slices"
	"sync"
)

// Autostart starts the defined devices that are to be started when the host boots, and goes on doing so as their parents
// come, until ctx ends. Each is started once in a boot of the host.
func (m *Manager) Autostart(ctx context.Context) {
	var mu sync.Mutex
	changed := map[string]bool{} // devices that may be parents; guarded by mu
	wake := make(chan struct{}, 1)
	defer m.Subscribe(func(e Event) {
		if e.Kind != Created && e.Kind != Changed { // a driver tells with a change that it can make devices now
			return
		}
		mu.Lock()
		defer mu.Unlock()
		changed[e.Device] = true
		select {
		case wake <- struct{}{}:
		default:
		}
	})()
	m.startDue(ctx, nil)
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		mu.Lock()
		parents := changed
		changed = map[string]bool{}
		mu.Unlock()
		m.startDue(ctx, parents)
	}
}

// startDue starts what is due on these parents, nil: on all.
func (m *Manager) startDue(ctx context.Context, parents map[string]bool) {
	for _, name := range m.due(parents) {
		if err := m.Start(ctx, name); err != nil { // tried again when something happens to the parent
			m.log.Error("cannot start a mediated device that is marked for autostart", "device", name, "error", err)
		}
	}
}

// due returns the defined devices that are to be started now.
func (m *Manager) due(parents map[string]bool) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for name, r := range m.defined {
		if _, active := m.names[name]; active || !r.Autostart || r.Boot == m.boot {
			continue
		}
		parent, ok := m.mdevParent(r.Parent)
		if ok && (parents == nil || parents[parent.Name]) && m.host.exists(parent.Path, path.Join(supportedTypes, r.Type)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}
