package monitor

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeMachine records what a monitor asks of it.
type fakeMachine struct {
	mu      sync.Mutex
	state   string
	balloon uint64
	calls   []string
	files   map[string]int // of the last Attach

	dirtyRate DirtyRate
}

func (f *fakeMachine) call(name string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.calls = append(f.calls, name)
	return nil
}
func (f *fakeMachine) Name() string { return "demo" }
func (f *fakeMachine) UUID() string { return "6d9a1cc6-8c1f-4bb0-9d59-2f3d4c0ff5a1" }
func (f *fakeMachine) RunState() (string, string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state, ""
}
func (f *fakeMachine) set(s string) { f.mu.Lock(); f.state = s; f.mu.Unlock() }
func (f *fakeMachine) Pause() error { f.set("paused"); return f.call("pause") }
func (f *fakeMachine) Resume() error {
	f.set("running")
	return f.call("resume")
}
func (f *fakeMachine) PowerDown() error { return f.call("powerdown") }
func (f *fakeMachine) Reset() error     { return f.call("reset") }
func (f *fakeMachine) NMI() error       { panic("a mistake") }
func (f *fakeMachine) Quit(r string)    { f.call("quit " + r) }
func (f *fakeMachine) SetPoweroffAction(reset bool) {
	f.call(fmt.Sprint("reset at power-off ", reset))
}
func (f *fakeMachine) CPUs() []CPU { return []CPU{{Index: 0, ThreadID: 42}} }
func (f *fakeMachine) Balloon() (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.balloon == 0 {
		return 0, ErrNotActive
	}
	return f.balloon, nil
}
func (f *fakeMachine) SetBalloon(n uint64) error {
	f.mu.Lock()
	f.balloon = n
	f.mu.Unlock()
	return nil
}
func (f *fakeMachine) BalloonStats() (BalloonStats, error) {
	return BalloonStats{Actual: 1, Stats: map[string]uint64{"free": 2}}, nil
}
func (f *fakeMachine) SetBalloonStatsPeriod(int) error { return f.call("period") }
func (f *fakeMachine) Disks() []Disk {
	return []Disk{{ID: "virtio-disk0", Format: "raw", Size: 1 << 20, Stats: DiskStats{ReadBytes: 512, ReadOps: 1}}}
}
func (f *fakeMachine) ResizeDisk(id string, n uint64) error {
	if id != "virtio-disk0" {
		return fmt.Errorf("disk %q: %w", id, ErrNotFound)
	}
	return f.call(fmt.Sprint("resize ", n))
}
func (f *fakeMachine) SetThrottle(id string, throttle json.RawMessage) error {
	return f.call("throttle " + id + " " + string(throttle))
}
func (f *fakeMachine) SendKey(keys []uint16, hold time.Duration) error {
	return f.call(fmt.Sprint("keys ", keys, hold))
}
func (f *fakeMachine) NICs() []NIC                { return []NIC{{ID: "net0", Driver: "qemu", Refused: "no"}} }
func (f *fakeMachine) SetLink(string, bool) error { return f.call("link") }
func (f *fakeMachine) RxFilters(id string) ([]RxFilter, error) {
	if id != "" && id != "net0" {
		return nil, fmt.Errorf("invalid net client name: %s: %w", id, ErrNotFound)
	}
	return []RxFilter{{Name: "net0", Receives: Receives{MAC: [6]byte{2, 0, 0, 0, 0, 1}, Multicast: [][6]byte{{1, 0, 0x5e, 0, 0, 1}}, UnicastOverflow: true}}}, nil
}
func (f *fakeMachine) ReconnectNIC(id string, fd int) error {
	unix.Close(fd)
	return f.call("reconnect " + id)
}
func (f *fakeMachine) VhostUsers() []VhostUser { return []VhostUser{{ID: "net1", Connected: true}} }
func (f *fakeMachine) ReconnectVhostUser(id string, fd int) error {
	unix.Close(fd)
	return f.call("vhost-user " + id)
}
func (f *fakeMachine) Chardevs() []Chardev {
	return []Chardev{{ID: "serial0", Type: "pty", Connected: true}}
}
func (f *fakeMachine) StartDirtyRate(r DirtyRateRequest) error {
	return f.call(fmt.Sprint("dirty rate ", r))
}
func (f *fakeMachine) DirtyRate() DirtyRate {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dirtyRate
}
func (f *fakeMachine) PCI() []PCIFunction { return nil }
func (f *fakeMachine) Attach(device json.RawMessage, files map[string]int) error {
	f.mu.Lock()
	f.files = files
	f.mu.Unlock()
	return f.call("attach " + string(device))
}
func (f *fakeMachine) Detach(id string) error {
	if id != "virtio-disk0" {
		return fmt.Errorf("Device '%s' not found%w", id, ErrNotFound)
	}
	return f.call("detach " + id)
}
func (f *fakeMachine) PlugCPU(cpu int) error { return f.call("plug " + cpuWord(cpu)) }
func (f *fakeMachine) UnplugCPU(cpu int) error {
	if cpu != 1 {
		return fmt.Errorf("unplug vCPU %d: %w", cpu, ErrNotFound)
	}
	return f.call("unplug " + cpuWord(cpu))
}
func (f *fakeMachine) Devices() []string { return []string{"virtio-disk0", "net0"} }

func serve(t *testing.T) (*Server, *fakeMachine, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mon")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	l.Close()
	m := &fakeMachine{state: "running"}
	s, err := New(fd, m, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s, m, path
}

type peer struct {
	t *testing.T
	c net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, path string, negotiate bool) *peer {
	t.Helper()
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	p := &peer{t, c, bufio.NewReader(c)}
	if g := p.line(); !strings.Contains(g, `"QMP"`) {
		t.Fatalf("greeting %s", g)
	}
	if negotiate {
		if got := p.ask(`{"execute":"qmp_capabilities"}`); got != `{"return":{}}` {
			t.Fatalf("negotiation: %s", got)
		}
	}
	return p
}

func (p *peer) line() string {
	p.t.Helper()
	s, err := p.r.ReadString('\n')
	if err != nil {
		p.t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

func (p *peer) ask(s string) string {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.c, s); err != nil {
		p.t.Fatal(err)
	}
	return p.line()
}

func TestCommands(t *testing.T) {
	_, m, path := serve(t)
	p := dial(t, path, true)
	for _, c := range []struct{ ask, want string }{
		{`{"execute":"query-status","id":3}`, `{"return":{"running":true,"singlestep":false,"status":"running"},"id":3}`},
		{`{"execute":"query-balloon"}`, `{"error":{"class":"DeviceNotActive","desc":"device not active"}}`},
		{`{"execute":"balloon","arguments":{"value":524288000}}`, `{"return":{}}`},
		{`{"execute":"query-balloon","id":"x"}`, `{"return":{"actual":524288000},"id":"x"}`},
		{`{"execute":"human-monitor-command","arguments":{"command-line":"info balloon"}}`, `{"return":"balloon: actual=500\r\n"}`},
		{`{"execute":"human-monitor-command","arguments":{"command-line":"balloon 512"}}`, `{"return":""}`},
		{`{"execute":"human-monitor-command","arguments":{"command-line":"info balloon"}}`, `{"return":"balloon: actual=512\r\n"}`},
		{`{"execute":"human-monitor-command","arguments":{"command-line":"frob"}}`, `{"return":"unknown command: 'frob'\r\n"}`},
		{`{"execute":"human-monitor-command","arguments":{"command-line":"info status"}}`, `{"return":"VM status: running\r\n"}`},
		{`{"execute":"stop"}`, `{"return":{}}`},
		{`{"execute":"x-virtd-status"}`, `{"return":{"reason":"","state":"paused"}}`},
		{`{"execute":"block_resize","arguments":{"device":"nope","size":1}}`, `{"error":{"class":"DeviceNotFound","desc":"disk \"nope\": device not found"}}`},
		{`{"execute":"block_resize","arguments":{"device":"virtio-disk0","size":1048576}}`, `{"return":{}}`},
		{`{"execute":"query-rx-filter","arguments":{"name":"net9"}}`, `{"error":{"class":"DeviceNotFound","desc":"invalid net client name: net9: device not found"}}`},
		{`{"execute":"query-rx-filter"}`, `{"return":[{"name":"net0","promiscuous":false,"multicast":"normal","unicast":"normal","vlan":"all",` +
			`"broadcast-allowed":true,"multicast-overflow":false,"unicast-overflow":true,"main-mac":"02:00:00:00:00:01","vlan-table":[],` +
			`"unicast-table":[],"multicast-table":["01:00:5e:00:00:01"]}]}`},
		{`{"execute":"x-virtd-vhost-users"}`, `{"return":[{"id":"net1","connected":true}]}`},
		{`{"execute":"x-virtd-vhost-user","arguments":{"id":"net1"}}`, `{"error":{"class":"GenericError","desc":"0 descriptors came, one is needed"}}`},
		{`{"execute":"x-virtd-net-stream","arguments":{"id":"net0"}}`, `{"error":{"class":"GenericError","desc":"0 descriptors came, one is needed"}}`},
		{`{"execute":"x-virtd-send-key","arguments":{"keys":[29,46],"hold-ms":50}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-set-throttle","arguments":{"id":"virtio-disk0"}}`, `{"error":{"class":"GenericError","desc":"Parameter 'throttle' is missing"}}`},
		{`{"execute":"x-virtd-set-throttle","arguments":{"id":"virtio-disk0","throttle":{"opBytes":5}}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-set-throttle","arguments":{"id":"virtio-disk0","throttle":null}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-chardev","arguments":{"id":"serial0"}}`, `{"return":{"connected":true,"type":"pty"}}`},
		{`{"execute":"x-virtd-net-stats"}`, `{"return":{}}`},
		{`{"execute":"x-virtd-nics"}`, `{"return":[{"id":"net0","driver":"qemu","reason":"no"}]}`},
		{`{"execute":"frob"}`, `{"error":{"class":"CommandNotFound","desc":"The command frob has not been found"}}`},
		{`{"execute":"inject-nmi"}`, `{"error":{"class":"GenericError","desc":"internal error: a mistake"}}`},
		{`{"execute":"x-virtd-set-action","arguments":{"shutdown":"reset"}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-set-action","arguments":{"shutdown":"frob"}}`, `{"error":{"class":"GenericError","desc":"Parameter 'shutdown' expects reset or poweroff"}}`},
		{`{"execute":"x-virtd-quit","arguments":{"reason":"destroyed"}}`, `{"return":{}}`},
	} {
		if got := p.ask(c.ask); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.ask, got, c.want)
		}
	}
	if got := fmt.Sprint(m.calls); got != "[pause resize 1048576 keys [29 46] 50ms throttle virtio-disk0 {\"opBytes\":5} throttle virtio-disk0 null reset at power-off true quit destroyed]" {
		t.Errorf("calls %s", got)
	}
}

func TestMalformed(t *testing.T) {
	_, _, path := serve(t)
	p := dial(t, path, true)
	for _, ask := range []string{
		`{`, `[]`, `null`, `{"execute":5}`, `{}`, `{"execute":"stop"} {"execute":"stop"}`, `{"execute":"stop","frob":1}`,
		`{"execute":"stop","arguments":{"x":1}}`, `{"execute":"balloon"}`, `{"execute":"balloon","arguments":{"value":-1}}`,
		`{"execute":"balloon","arguments":{"value":1e400}}`, strings.Repeat("[", 100_000),
	} {
		got := p.ask(ask)
		var r struct{ Error *errorBody }
		if err := json.Unmarshal([]byte(got), &r); err != nil || r.Error == nil {
			t.Errorf("%.60s answered %.200s", ask, got)
		}
	}
	if got := p.ask(`{"execute":"query-name"}`); got != `{"return":{"name":"demo"}}` {
		t.Errorf("afterwards: %s", got)
	}
}

func TestLineTooLong(t *testing.T) {
	_, _, path := serve(t)
	p := dial(t, path, true)
	go func() {
		for i := 0; i < 100; i++ {
			if _, err := p.c.Write([]byte(strings.Repeat("x", 64<<10))); err != nil {
				return
			}
		}
	}()
	if got := p.line(); !strings.Contains(got, "at most") {
		t.Errorf("got %.200s", got)
	}
}

func TestBeforeNegotiation(t *testing.T) {
	s, _, path := serve(t)
	p := dial(t, path, false)
	if got := p.ask(`{"execute":"stop"}`); !strings.Contains(got, classCommand) {
		t.Errorf("stop before negotiation: %s", got)
	}
	s.Emit(Event{Name: EventStop})
	if got := p.ask(`{"execute":"qmp_capabilities"}`); got != `{"return":{}}` {
		t.Errorf("an event came before negotiation: %s", got)
	}
}

// TestDeadClient: one client that never reads does not keep the others from answers and events.
func TestDeadClient(t *testing.T) {
	s, _, path := serve(t)
	dead, live := dial(t, path, true), dial(t, path, true)
	_ = dead
	const n = 20 * maxQueue
	go func() {
		for range n {
			s.Emit(Event{Name: "X", Data: map[string]string{"pad": strings.Repeat("x", 200)}})
			for len(s.queueOf(live)) > maxQueue/2 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for i := range n {
		if got := live.line(); !strings.Contains(got, `"event":"X"`) {
			t.Fatalf("message %d: %s", i, got)
		}
	}
	dead.c.SetReadDeadline(time.Now().Add(20 * time.Second))
	buf := make([]byte, 1<<20)
	for {
		if _, err := dead.c.Read(buf); err != nil {
			if errors.Is(err, unix.ECONNRESET) || err.Error() == "EOF" {
				return
			}
			t.Fatalf("the dead client was not dropped: %v", err)
		}
	}
}

// queueOf returns the fullest queue that is not over its limit: the live client's, in a test with one dead client.
func (s *Server) queueOf(*peer) []struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for c := range s.clients {
		if l := len(c.out); l < cap(c.out) {
			n = max(n, l)
		}
	}
	return make([]struct{}, n)
}

func TestEventAtClose(t *testing.T) {
	s, _, path := serve(t)
	p := dial(t, path, true)
	s.Emit(Event{Name: EventShutdown, Data: map[string]any{"guest": true}})
	s.Close()
	if got := p.line(); !strings.Contains(got, `"event":"SHUTDOWN"`) {
		t.Errorf("got %s", got)
	}
	if _, err := p.r.ReadString('\n'); err == nil {
		t.Error("connection stays open")
	}
}

func FuzzExecute(f *testing.F) {
	for _, s := range []string{
		`{"execute":"stop","id":1}`, `{"execute":"balloon","arguments":{"value":1}}`, `{"execute":"x-virtd-hello","arguments":{"version":1}}`,
		`{"execute":"human-monitor-command","arguments":{"command-line":"info balloon"}}`, `{`, `{"execute":"set_link","arguments":{"name":"a","up":true}}`,
		`{"execute":"x-virtd-attach","arguments":{"device":{"rng":{}},"files":[]}}`, `{"execute":"x-virtd-detach","arguments":{"id":"net0"}}`,
		`{"execute":"x-virtd-plug-cpu","arguments":{"cpu":-1}}`, `{"execute":"x-virtd-cpus"}`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		s := &Server{machine: &fakeMachine{state: "running"}, logf: func(string, ...any) {}}
		c := newClient(s, nil)
		c.negotiated.Store(true)
		if _, err := json.Marshal(c.execute(line)); err != nil {
			t.Fatal(err)
		}
	})
}

// A guest that changes its balloon as fast as it can costs a client one event a second, and the last value arrives.
func TestBalloonEventsAreFew(t *testing.T) {
	s, _, path := serve(t)
	p := dial(t, path, true)
	const changes = 5000 // far more than a client's queue takes
	for i := range changes {
		s.Emit(Event{Name: EventBalloon, Data: map[string]int{"actual": i + 1}})
	}
	var got []string
	for len(got) == 0 || !strings.Contains(got[len(got)-1], fmt.Sprintf(`"actual":%d`, changes)) {
		got = append(got, p.line())
	}
	if len(got) > 20 {
		t.Errorf("%d events", len(got))
	}
}
