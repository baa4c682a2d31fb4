package kvm_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
)

// TestMain is also a tiny engine: it takes a Config as virtd-vmm does, answers the monitor, echoes on its serial port and
// runs no guest.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && strings.HasPrefix(os.Args[1], "--"+hypervisor.ConfigFDFlag+"=") {
		os.Exit(runEngine(os.Args[1]))
	}
	code := m.Run()
	if builtDir != "" {
		os.RemoveAll(builtDir)
	}
	os.Exit(code)
}

// tinyEngine is the engine's state.
type tinyEngine struct {
	cfg   hypervisor.Config
	files map[hypervisor.FileName]*os.File

	mu      sync.Mutex
	state   string
	action  string
	actual  uint64
	devices []string
	cpus    []int
	clings  bool            // the guest lets no device go
	served  map[string]bool // devices of vhost-user, and whether somebody serves them
	clients map[net.Conn]bool
}

func runEngine(flag string) int {
	var fd uintptr
	fmt.Sscanf(flag[strings.Index(flag, "=")+1:], "%d", &fd)
	text, err := io.ReadAll(os.NewFile(fd, "config"))
	e := &tinyEngine{state: "paused", action: "poweroff", clients: map[net.Conn]bool{}, files: map[hypervisor.FileName]*os.File{}}
	if err != nil || json.Unmarshal(text, &e.cfg) != nil {
		return 2
	}
	for i, name := range e.cfg.Files {
		e.files[name] = os.NewFile(uintptr(hypervisor.FirstFile+i), string(name))
	}
	e.actual = e.cfg.Memory.Size
	for _, d := range e.cfg.Disks {
		e.devices = append(e.devices, d.ID)
	}
	e.served = map[string]bool{}
	for _, d := range e.cfg.VhostUserDisks {
		e.devices = append(e.devices, d.ID)
		e.served[d.ID] = true
		go e.watchServer(d.ID, e.files[d.VhostUser.Socket])
	}
	for _, n := range e.cfg.NICs {
		e.devices = append(e.devices, n.ID)
	}
	if e.cpus = e.cfg.CPU.Present; len(e.cpus) == 0 {
		for n := range e.cfg.CPU.Online {
			e.cpus = append(e.cpus, n)
		}
	}
	switch e.cfg.Boot.Cmdline {
	case "fail":
		e.leave(hypervisor.ExitError, "the kernel is no kernel")
	case "die":
		fmt.Fprintln(os.Stderr, "panic: something is wrong")
		return 2
	}
	for _, s := range e.cfg.Serials {
		if s.Chardev.Type == "pty" {
			go e.echo(e.files[s.Chardev.File])
		}
	}
	l, err := net.FileListener(e.files[e.cfg.Monitor])
	if err != nil {
		e.leave(hypervisor.ExitError, err.Error())
	}
	for {
		c, err := l.Accept()
		if err != nil {
			e.leave(hypervisor.ExitError, err.Error())
		}
		go e.serve(c)
	}
}

// echo answers every byte on the serial port with the same byte.
func (e *tinyEngine) echo(f *os.File) {
	buf := make([]byte, 1)
	for {
		n, err := f.Read(buf)
		if err != nil { // nobody has the other side open
			time.Sleep(5 * time.Millisecond)
			continue
		}
		f.Write(buf[:n])
	}
}

// watchServer tells when the process that serves a device is gone.
func (e *tinyEngine) watchServer(id string, socket *os.File) {
	socket.Read(make([]byte, 1))
	e.mu.Lock()
	defer e.mu.Unlock()
	e.served[id] = false
	e.event("X_VIRTD_VHOST_USER", fmt.Sprintf(`{"device":"%s","connected":false}`, id))
}

func (e *tinyEngine) leave(reason hypervisor.ExitReason, detail string) {
	json.NewEncoder(e.files[e.cfg.ExitRecord]).Encode(hypervisor.ExitRecord{Reason: reason, Detail: detail, Time: time.Now()})
	os.Exit(0)
}

func (e *tinyEngine) event(name, data string) {
	for c := range e.clients {
		fmt.Fprintf(c, `{"event":"%s","data":%s,"timestamp":{"seconds":1,"microseconds":2}}`+"\n", name, data)
	}
}

func (e *tinyEngine) serve(c net.Conn) {
	fmt.Fprintln(c, `{"QMP":{"version":{},"capabilities":[]}}`)
	for lines := bufio.NewScanner(c); lines.Scan(); {
		var cmd struct {
			Execute   string
			Arguments json.RawMessage
			ID        json.RawMessage
		}
		if json.Unmarshal(lines.Bytes(), &cmd) != nil {
			return
		}
		e.mu.Lock()
		e.clients[c] = true
		result, failed := e.do(cmd.Execute, cmd.Arguments, c, cmd.ID)
		if text, refused := strings.CutPrefix(result, "refused: "); refused {
			fmt.Fprintf(c, `{"error":{"class":"GenericError","desc":"%s"},"id":%s}`+"\n", text, cmd.ID)
		} else if failed {
			fmt.Fprintf(c, `{"error":{"class":"CommandNotFound","desc":"no %s"},"id":%s}`+"\n", cmd.Execute, cmd.ID)
		} else {
			fmt.Fprintf(c, `{"return":%s,"id":%s}`+"\n", result, cmd.ID)
		}
		e.mu.Unlock()
	}
	e.mu.Lock()
	delete(e.clients, c)
	e.mu.Unlock()
}

func (e *tinyEngine) do(cmd string, args json.RawMessage, c net.Conn, id json.RawMessage) (result string, failed bool) {
	switch cmd {
	case "qmp_capabilities", "x-virtd-balloon-stats-period":
	case "x-virtd-hello":
		return fmt.Sprintf(`{"version":1,"pid":%d,"threads":{"vcpus":[%d]}}`, os.Getpid(), os.Getpid()), false
	case "x-virtd-status":
		return fmt.Sprintf(`{"state":"%s","reason":""}`, e.state), false
	case "cont":
		if e.state != "running" {
			e.state = "running"
			e.event("RESUME", "{}")
		}
	case "stop":
		if e.state != "paused" {
			e.state = "paused"
			e.event("STOP", "{}")
		}
	case "system_reset":
		e.event("RESET", `{"guest":false}`)
	case "system_powerdown":
		e.event("POWERDOWN", "{}")
		e.event("SHUTDOWN", `{"guest":true,"reason":"guest-shutdown"}`)
		if e.action == "poweroff" {
			fmt.Fprintf(c, `{"return":{},"id":%s}`+"\n", id)
			e.leave(hypervisor.ExitShutdown, "")
		}
		e.event("RESET", `{"guest":true}`)
	case "x-virtd-set-action":
		var a struct{ Shutdown string }
		json.Unmarshal(args, &a)
		e.action = a.Shutdown
	case "x-virtd-quit":
		fmt.Fprintf(c, `{"return":{},"id":%s}`+"\n", id)
		e.leave(hypervisor.ExitQuit, "")
	case "balloon":
		var a struct{ Value uint64 }
		json.Unmarshal(args, &a)
		e.actual = a.Value
		e.event("BALLOON_CHANGE", fmt.Sprintf(`{"actual":%d}`, e.actual))
	case "x-virtd-balloon-stats":
		return fmt.Sprintf(`{"actual":%d,"stats":{"free":1048576},"last-update":1700000000}`, e.actual), false
	case "x-virtd-vhost-users":
		var list []string
		for id, connected := range e.served {
			list = append(list, fmt.Sprintf(`{"id":"%s","connected":%v}`, id, connected))
		}
		return "[" + strings.Join(list, ",") + "]", false
	case "x-virtd-vhost-user":
		var a struct{ ID string }
		json.Unmarshal(args, &a)
		e.served[a.ID] = true
		e.event("X_VIRTD_VHOST_USER", fmt.Sprintf(`{"device":"%s","connected":true}`, a.ID))
	case "x-virtd-nics":
		return `[{"id":"net0","driver":"qemu","reason":"no memory\nleft"},{"id":"net9","driver":"qemu"},{"id":"net0","driver":"magic"}]`, false
	case "x-virtd-devices":
		text, _ := json.Marshal(e.devices)
		return string(text), false
	case "x-virtd-cpus":
		var list []string
		for _, n := range e.cpus {
			list = append(list, fmt.Sprintf(`{"cpu":%d,"thread":%d}`, n, os.Getpid()))
		}
		return "[" + strings.Join(list, ",") + "]", false
	case "x-virtd-plug-cpu":
		var a struct{ CPU int }
		json.Unmarshal(args, &a)
		if e.clings {
			return "refused: the guest is busy", false
		}
		e.cpus = append(e.cpus, a.CPU)
		slices.Sort(e.cpus)
	case "x-virtd-unplug-cpu":
		var a struct{ CPU int }
		json.Unmarshal(args, &a)
		if e.clings {
			e.event("DEVICE_UNPLUG_GUEST_ERROR", fmt.Sprintf(`{"device":"vcpu%d"}`, a.CPU))
			break
		}
		e.cpus = slices.DeleteFunc(e.cpus, func(n int) bool { return n == a.CPU })
		e.event("DEVICE_DELETED", fmt.Sprintf(`{"device":"vcpu%d"}`, a.CPU))
	case "x-virtd-attach":
		var a struct{ Device hypervisor.Attachment }
		json.Unmarshal(args, &a)
		id := ""
		switch d := a.Device; {
		case d.Disk != nil:
			id = d.Disk.ID
		case d.NIC != nil:
			id = d.NIC.ID
		case d.RNG != nil:
			id = d.RNG.ID
		}
		switch {
		case strings.Contains(id, "refused"):
			return "refused: Duplicate device ID '" + id + "'", false
		case strings.Contains(id, "lost"): // it came, and the answer does not
			e.devices = append(e.devices, id)
			for c := range e.clients {
				c.Close()
			}
		default:
			e.devices = append(e.devices, id)
		}
	case "x-virtd-detach":
		var a struct{ ID string }
		json.Unmarshal(args, &a)
		if !e.clings {
			e.devices = slices.DeleteFunc(e.devices, func(d string) bool { return d == a.ID })
			e.event("DEVICE_DELETED", fmt.Sprintf(`{"device":"%s"}`, a.ID))
		}
	case "x-virtd-block-stats":
		return `{"virtio-disk0":{"rd-bytes":512,"rd-ops":1}}`, false
	case "human-monitor-command":
		var a struct {
			Line string `json:"command-line"`
		}
		json.Unmarshal(args, &a)
		if data, ok := strings.CutPrefix(a.Line, "backend "); ok {
			e.event("X_VIRTD_NIC_BACKEND", data)
		}
		if id, ok := strings.CutPrefix(a.Line, "forget "); ok { // without a word
			e.devices = slices.DeleteFunc(e.devices, func(d string) bool { return d == id })
		}
		if n, ok := strings.CutPrefix(a.Line, "eject "); ok { // without a word
			e.cpus = slices.DeleteFunc(e.cpus, func(cpu int) bool { return fmt.Sprint(cpu) == n })
		}
		if id, ok := strings.CutPrefix(a.Line, "late "); ok { // a device whose attachment nobody waited for
			e.devices = append(e.devices, id)
		}
		switch a.Line {
		case "cling":
			e.clings = true
		case "whoami":
			var core unix.Rlimit
			unix.Getrlimit(unix.RLIMIT_CORE, &core)
			return fmt.Sprintf(`"uid %d pid %d core %d"`, os.Getuid(), os.Getpid(), core.Cur), false
		case "panic":
			e.event("GUEST_PANICKED", `{"action":"poweroff"}`)
			e.leave(hypervisor.ExitPanic, "guest panic")
		case "die":
			os.Exit(9)
		case "drop": // loses every client, as an engine may that finds one slow
			for c := range e.clients {
				c.Close()
			}
		}
		return `"ok"`, false
	default:
		return "", true
	}
	return "{}", false
}
