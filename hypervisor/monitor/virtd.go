package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// ProtocolVersion is the version of the x-virtd commands. A newer one only adds.
const ProtocolVersion = 1

// configVersion is hypervisor.ConfigVersion; set by the machine's package, which imports this one.
var configVersion int

// SetConfigVersion tells what x-virtd-hello says about the configurations that the engine executes. Call it at start-up.
func SetConfigVersion(v int) { configVersion = v }

// features are the abilities that x-virtd-hello lists beyond those that query-commands shows.
var features = []string{"pause", "reset", "balloon", "console-listener", "save", "dump"}

var virtdCommands = map[string]command{
	"x-virtd-hello":                hello,
	"x-virtd-status":               plain(virtdStatus),
	"x-virtd-balloon-stats":        plain(func(s *Server) (any, error) { return s.machine.BalloonStats() }),
	"x-virtd-balloon-stats-period": balloonPeriod,
	"x-virtd-block-stats":          plain(virtdBlockStats),
	"x-virtd-net-stats":            plain(virtdNetStats),
	"x-virtd-nics":                 plain(virtdNICs),
	"x-virtd-set-link":             virtdSetLink,
	"x-virtd-set-throttle":         virtdSetThrottle,
	"x-virtd-send-key":             virtdSendKey,
	"x-virtd-chardev":              virtdChardev,
	"x-virtd-quit":                 virtdQuit,
	"x-virtd-set-action":           virtdSetAction,
	"x-virtd-job":                  plain(func(s *Server) (any, error) { return s.machine.Job(), nil }),
	"x-virtd-job-cancel":           action(func(m Machine) error { m.CancelJob(); return nil }),
	"x-virtd-detach":               virtdDetach,
	"x-virtd-vhost-users":          plain(func(s *Server) (any, error) { return append([]VhostUser{}, s.machine.VhostUsers()...), nil }),
	"x-virtd-cpus":                 plain(virtdCPUs),
	"x-virtd-plug-cpu":             cpuCommand(Machine.PlugCPU),
	"x-virtd-unplug-cpu":           cpuCommand(Machine.UnplugCPU),
	"x-virtd-devices":              plain(func(s *Server) (any, error) { return append([]string{}, s.machine.Devices()...), nil }),
}

func hello(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(orEmpty(args), &a); err != nil { // a newer virtd may say more
		return nil, fmt.Errorf("arguments: %w", err)
	}
	tids := []int{}
	for _, c := range s.machine.CPUs() {
		tids = append(tids, c.ThreadID)
	}
	if state, reason := s.machine.RunState(); state == "shutdown" { // the vCPUs were waited for in vain
		return nil, fmt.Errorf("the machine has ended: %s", reason)
	}
	return map[string]any{
		"version": ProtocolVersion, "pid": pid(), "engine": "virtd-vmm", "config-version": configVersion,
		"threads": map[string]any{"vcpus": tids, "workers": []int{}}, "features": features,
	}, nil
}

// virtdCPU is what x-virtd-cpus says of a vCPU that is there.
type virtdCPU struct {
	CPU    int `json:"cpu"`    // its number
	Thread int `json:"thread"` // in the engine's namespace
}

func virtdCPUs(s *Server) (any, error) {
	out := []virtdCPU{}
	for _, c := range s.machine.CPUs() {
		out = append(out, virtdCPU{c.Index, c.ThreadID})
	}
	if state, reason := s.machine.RunState(); state == "shutdown" {
		return nil, fmt.Errorf("the machine has ended: %s", reason)
	}
	return out, nil
}

// cpuCommand is a command about one vCPU.
func cpuCommand(do func(Machine, int) error) command {
	return func(s *Server, args json.RawMessage) (any, error) {
		var a struct {
			CPU *int `json:"cpu"`
		}
		if err := arguments(args, &a); err != nil {
			return nil, err
		}
		if a.CPU == nil {
			return nil, errors.New("Parameter 'cpu' is missing")
		}
		return nil, do(s.machine, *a.CPU)
	}
}

func orEmpty(raw json.RawMessage) json.RawMessage {
	if len(raw) == 0 {
		return json.RawMessage("{}")
	}
	return raw
}

func virtdStatus(s *Server) (any, error) {
	state, reason := s.machine.RunState()
	if state == "prelaunch" {
		state = "paused"
	}
	return map[string]string{"state": state, "reason": reason}, nil
}

func balloonPeriod(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Seconds int `json:"seconds"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if a.Seconds < 0 {
		return nil, errors.New("a period has no negative number of seconds")
	}
	return nil, s.machine.SetBalloonStatsPeriod(a.Seconds)
}

func virtdBlockStats(s *Server) (any, error) {
	out := map[string]DiskStats{}
	for _, d := range s.machine.Disks() {
		out[d.ID] = d.Stats
	}
	return out, nil
}

func virtdNetStats(s *Server) (any, error) {
	out := map[string]NICStats{}
	for _, n := range s.machine.NICs() {
		if n.Stats != nil {
			out[n.ID] = *n.Stats
		}
	}
	return out, nil
}

// virtdNIC is what x-virtd-nics says of a network device.
type virtdNIC struct {
	ID     string `json:"id"`
	Driver string `json:"driver"`           // who moves its packets
	Reason string `json:"reason,omitempty"` // why that is not who was asked for
}

func virtdNICs(s *Server) (any, error) {
	out := []virtdNIC{}
	for _, n := range s.machine.NICs() {
		out = append(out, virtdNIC{n.ID, n.Driver, n.Refused})
	}
	return out, nil
}

func virtdSetLink(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		ID string `json:"id"`
		Up bool   `json:"up"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	return nil, s.machine.SetLink(a.ID, a.Up)
}

func virtdSetThrottle(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		ID       string          `json:"id"`
		Throttle json.RawMessage `json:"throttle"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if len(a.Throttle) == 0 {
		return nil, errors.New("Parameter 'throttle' is missing")
	}
	return nil, s.machine.SetThrottle(a.ID, a.Throttle)
}

func virtdSendKey(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Keys []uint16 `json:"keys"`
		Hold uint32   `json:"hold-ms"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	return nil, s.machine.SendKey(a.Keys, time.Duration(a.Hold)*time.Millisecond)
}

func virtdChardev(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		ID string `json:"id"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	for _, c := range s.machine.Chardevs() {
		if c.ID == a.ID {
			return map[string]any{"type": c.Type, "connected": c.Connected}, nil
		}
	}
	return nil, fmt.Errorf("character device %q: %w", a.ID, ErrNotFound)
}

func virtdSetAction(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Shutdown string `json:"shutdown"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if a.Shutdown != "reset" && a.Shutdown != "poweroff" {
		return nil, errors.New("Parameter 'shutdown' expects reset or poweroff")
	}
	s.machine.SetPoweroffAction(a.Shutdown == "reset")
	return nil, nil
}

func virtdQuit(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Reason string `json:"reason"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	s.machine.Quit(a.Reason)
	return nil, nil
}
