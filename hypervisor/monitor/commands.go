package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
)

// command is one QMP command. A nil result is the empty object.
type command func(s *Server, args json.RawMessage) (any, error)

var commands map[string]command

func init() {
	commands = map[string]command{
		"qmp_capabilities": plain(func(*Server) (any, error) {
			return nil, errors.New("Capabilities negotiation is already complete, command ignored")
		}),
		"query-status":          plain(queryStatus),
		"query-version":         plain(func(*Server) (any, error) { return engineVersion(), nil }),
		"query-commands":        plain(queryCommands),
		"query-name":            plain(func(s *Server) (any, error) { return map[string]string{"name": s.machine.Name()}, nil }),
		"query-uuid":            plain(func(s *Server) (any, error) { return map[string]string{"UUID": s.machine.UUID()}, nil }),
		"query-kvm":             plain(func(*Server) (any, error) { return map[string]bool{"enabled": true, "present": true}, nil }),
		"query-cpus-fast":       plain(queryCPUs),
		"stop":                  action(Machine.Pause),
		"cont":                  action(Machine.Resume),
		"system_powerdown":      action(Machine.PowerDown),
		"system_reset":          action(Machine.Reset),
		"inject-nmi":            action(Machine.NMI),
		"quit":                  action(func(m Machine) error { m.Quit("quit"); return nil }),
		"query-balloon":         plain(queryBalloon),
		"balloon":               balloon,
		"query-block":           plain(queryBlock),
		"query-blockstats":      plain(queryBlockStats),
		"block_resize":          blockResize,
		"set_link":              setLink,
		"query-rx-filter":       queryRxFilter,
		"calc-dirty-rate":       calcDirtyRate,
		"query-dirty-rate":      queryDirtyRate,
		"human-monitor-command": humanCommand,
	}
	saveCommands = map[string]func(c *client, r request) any{
		"x-virtd-save": startSave, "x-virtd-save-commit": commitSave, "x-virtd-dump": startDump,
	}
	for name, c := range virtdCommands {
		commands[name] = c
	}
}

// plain is a command without arguments.
func plain(run func(*Server) (any, error)) command {
	return func(s *Server, args json.RawMessage) (any, error) {
		if err := arguments(args, &struct{}{}); err != nil {
			return nil, err
		}
		return run(s)
	}
}

// action is a command without arguments and result.
func action(run func(Machine) error) command {
	return plain(func(s *Server) (any, error) { return nil, run(s.machine) })
}

func queryStatus(s *Server) (any, error) {
	state, _ := s.machine.RunState()
	if state == "crashed" {
		state = "guest-panicked"
	}
	return map[string]any{"running": state == "running", "singlestep": false, "status": state}, nil
}

func queryCommands(*Server) (any, error) {
	type entry struct {
		Name string `json:"name"`
	}
	var out []entry
	for name := range commands {
		out = append(out, entry{name})
	}
	for name := range saveCommands {
		out = append(out, entry{name})
	}
	for name := range fileCommands {
		out = append(out, entry{name})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

func queryCPUs(s *Server) (any, error) {
	out := []any{}
	for _, c := range s.machine.CPUs() {
		out = append(out, map[string]any{
			"cpu-index": c.Index, "thread-id": c.ThreadID, "target": "x86_64",
			"qom-path": fmt.Sprintf("/machine/unattached/device[%d]", c.Index),
		})
	}
	return out, nil
}

func queryBalloon(s *Server) (any, error) {
	actual, err := s.machine.Balloon()
	if err != nil {
		return nil, err
	}
	return map[string]uint64{"actual": actual}, nil
}

func balloon(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Value *int64 `json:"value"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if a.Value == nil || *a.Value <= 0 {
		return nil, errors.New("Parameter 'value' expects a size")
	}
	return nil, s.machine.SetBalloon(uint64(*a.Value))
}

func queryBlock(s *Server) (any, error) {
	out := []any{}
	for _, d := range s.machine.Disks() {
		out = append(out, map[string]any{
			"device": d.ID, "locked": false, "removable": false, "type": "unknown",
			"inserted": map[string]any{"drv": d.Format, "ro": d.ReadOnly, "file": "", "encrypted": false,
				"image": map[string]any{"format": d.Format, "virtual-size": d.Size, "filename": ""}},
		})
	}
	return out, nil
}

func queryBlockStats(s *Server) (any, error) {
	out := []any{}
	for _, d := range s.machine.Disks() {
		st := d.Stats
		out = append(out, map[string]any{"device": d.ID, "stats": map[string]any{
			"rd_bytes": st.ReadBytes, "rd_operations": st.ReadOps, "rd_total_time_ns": st.ReadNS,
			"wr_bytes": st.WriteBytes, "wr_operations": st.WriteOps, "wr_total_time_ns": st.WriteNS,
			"flush_operations": st.FlushOps, "flush_total_time_ns": st.FlushNS,
			"failed_rd_operations": 0, "failed_wr_operations": st.Errors,
		}})
	}
	return out, nil
}

func blockResize(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Device   string `json:"device"`
		NodeName string `json:"node-name"`
		Size     *int64 `json:"size"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if a.Device == "" {
		a.Device = a.NodeName
	}
	if a.Size == nil || *a.Size < 0 {
		return nil, errors.New("Parameter 'size' expects a >0 size")
	}
	return nil, s.machine.ResizeDisk(a.Device, uint64(*a.Size))
}

func setLink(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Name string `json:"name"`
		ID   string `json:"id"`
		Up   bool   `json:"up"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	if a.Name == "" {
		a.Name = a.ID
	}
	return nil, s.machine.SetLink(a.Name, a.Up)
}

// humanCommand runs a line of the human monitor. Its errors are part of the text, as in QEMU.
func humanCommand(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		Line string `json:"command-line"`
		CPU  *int   `json:"cpu-index"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	return human(s, strings.TrimSpace(a.Line)), nil
}

func pid() int { return os.Getpid() }
