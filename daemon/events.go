package daemon

import (
	"context"
	"regexp"
	"slices"
	"sync"

	libvirt "github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"virtd/rpc"
	"virtd/storage"
	"virtd/virterr"
)

// lastDomainEvent is the highest number that clients can register for (VIR_DOMAIN_EVENT_ID_LAST - 1 of libvirt 11.3).
const lastDomainEvent = 27

// callbacksPerClient bounds the registrations of one connection.
const callbacksPerClient = 1024

func (d *Daemon) registerEvents(reg *rpc.Registry) {
	on(reg, rpc.ProcConnectDomainEventCallbackRegisterAny, d.domainEventRegister)
	on(reg, rpc.ProcConnectDomainEventCallbackDeregisterAny, d.domainEventDeregister)
	d.registerNodeDeviceEvents(reg)
	d.registerNetworkEvents(reg)
	on(reg, rpc.ProcConnectStoragePoolEventRegisterAny, d.poolEventRegister)
	on(reg, rpc.ProcConnectStoragePoolEventDeregisterAny, d.poolEventDeregister)
}

func (d *Daemon) domainEventRegister(_ context.Context, c *rpc.Call, a *libvirt.ConnectDomainEventCallbackRegisterAnyArgs) (*libvirt.ConnectDomainEventCallbackRegisterAnyRet, error) {
	if a.EventID < 0 || a.EventID > lastDomainEvent {
		return nil, unsupportedEvent(a.EventID)
	}
	id, err := d.events.add(&subscription{conn: c.Conn, event: a.EventID, object: filter(a.Dom)})
	return &libvirt.ConnectDomainEventCallbackRegisterAnyRet{CallbackID: id}, err
}

func (d *Daemon) domainEventDeregister(_ context.Context, c *rpc.Call, a *libvirt.ConnectDomainEventCallbackDeregisterAnyArgs) (*none, error) {
	return nil, d.events.remove(c.Conn, a.CallbackID)
}

func (d *Daemon) poolEventRegister(_ context.Context, c *rpc.Call, a *libvirt.ConnectStoragePoolEventRegisterAnyArgs) (*libvirt.ConnectStoragePoolEventRegisterAnyRet, error) {
	sub := &subscription{conn: c.Conn}
	switch storage.EventKind(a.EventID) {
	case storage.EventLifecycle:
		sub.event = eventPoolLifecycle
	case storage.EventRefresh:
		sub.event = eventPoolRefresh
	default:
		return nil, unsupportedEvent(a.EventID)
	}
	if len(a.Pool) > 0 {
		id := uuid.UUID(a.Pool[0].UUID)
		sub.object = &id
	}
	id, err := d.events.add(sub)
	return &libvirt.ConnectStoragePoolEventRegisterAnyRet{CallbackID: id}, err
}

func (d *Daemon) poolEventDeregister(_ context.Context, c *rpc.Call, a *libvirt.ConnectStoragePoolEventDeregisterAnyArgs) (*none, error) {
	return nil, d.events.remove(c.Conn, a.CallbackID)
}

func unsupportedEvent(id int32) error {
	return virterr.NewFrom(virterr.FromRPC, virterr.InternalError, "unsupported event ID %d", id)
}

func filter(dom libvirt.OptDomain) *uuid.UUID {
	if len(dom) == 0 {
		return nil
	}
	id := uuid.UUID(dom[0].UUID)
	return &id
}

// The event numbers of subscriptions that are not for libvirt's domain events.
const (
	eventMonitor = -1 // the QEMU program's
	eventSilent  = -2 // of things that do not exist yet

	eventDeviceLifecycle  = -3 // of the host's devices
	eventDeviceUpdate     = -4
	eventPoolLifecycle    = -5 // storage pools have numbers of their own, which overlap with those of domains
	eventPoolRefresh      = -6
	eventNetworkLifecycle = -7 // as have networks
	eventSecretLifecycle  = -8 // and secrets
	eventSecretValue      = -9
)

// subscription is one client's wish to be told of one kind of event.
type subscription struct {
	conn   *rpc.Conn
	id     int32          // within the connection
	event  int32          // libvirt's number, or one of ours
	object *uuid.UUID     // the domain, pool, network or secret; nil: all of them
	name   *regexp.Regexp // of eventMonitor; nil: all
	device string         // of the events of devices; "": of all devices
}

// subscriptions are those of all connections. While there is none, the domains' events are not listened to: then they cost
// nothing.
type subscriptions struct {
	listen func() (end func()) // to the domains' events
	flush  func()              // waits until what happened before has been told

	changing sync.Mutex // serializes changes; taken before mu, and never by who delivers events
	count    int
	end      func() // nil: nobody listens
	closed   bool

	mu     sync.Mutex
	byConn map[*rpc.Conn][]*subscription
	nextID map[*rpc.Conn]int32
}

func newSubscriptions(listen func() (end func()), flush func()) *subscriptions {
	return &subscriptions{listen: listen, flush: flush, byConn: map[*rpc.Conn][]*subscription{}, nextID: map[*rpc.Conn]int32{}}
}

// attend begins to listen, or ends it, when there are that many subscriptions more. The caller holds changing.
func (s *subscriptions) attend(more int) {
	s.count += more
	switch {
	case s.end == nil && s.count > 0 && !s.closed:
		s.end = s.listen()
	case s.end != nil && (s.count == 0 || s.closed):
		s.end()
		s.end = nil
	}
}

// close ends listening for good.
func (s *subscriptions) close() {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.closed = true
	s.attend(0)
}

// add makes a subscription, to which events from now on are sent: not those of before that others still have to be told.
func (s *subscriptions) add(sub *subscription) (int32, error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.flush()
	if err := s.put(sub); err != nil {
		return 0, err
	}
	s.attend(1)
	return sub.id, nil
}

func (s *subscriptions) put(sub *subscription) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.byConn[sub.conn]); n >= callbacksPerClient {
		return virterr.NewFrom(virterr.FromEvent, virterr.OperationFailed, "connection has %d event callbacks, the most it may have", n)
	}
	sub.id = s.nextID[sub.conn]
	s.nextID[sub.conn]++
	s.byConn[sub.conn] = append(s.byConn[sub.conn], sub)
	return nil
}

func (s *subscriptions) remove(c *rpc.Conn, id int32) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.take(c, id) {
		return virterr.NewFrom(virterr.FromRPC, virterr.InternalError, "could not find event callback %d for deletion", id)
	}
	s.attend(-1)
	return nil
}

func (s *subscriptions) take(c *rpc.Conn, id int32) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := s.byConn[c]
	i := slices.IndexFunc(list, func(sub *subscription) bool { return sub.id == id })
	if i < 0 {
		return false
	}
	s.byConn[c] = slices.Delete(list, i, i+1)
	return true
}

// drop forgets a connection.
func (s *subscriptions) drop(c *rpc.Conn) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.Lock()
	n := len(s.byConn[c])
	delete(s.byConn, c)
	delete(s.nextID, c)
	s.mu.Unlock()
	s.attend(-n)
}

// wanting returns the subscriptions for an event of a domain or pool.
func (s *subscriptions) wanting(event int32, object uuid.UUID) []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*subscription
	for _, list := range s.byConn {
		for _, sub := range list {
			if sub.event == event && (sub.object == nil || *sub.object == object) {
				out = append(out, sub)
			}
		}
	}
	return out
}

// wantingDevice returns the subscriptions for an event of one of the host's devices.
func (s *subscriptions) wantingDevice(event int32, device string) []*subscription {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*subscription
	for _, list := range s.byConn {
		for _, sub := range list {
			if sub.event == event && (sub.device == "" || sub.device == device) {
				out = append(out, sub)
			}
		}
	}
	return out
}
