package monitor

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
)

// Error classes of QMP.
const (
	classGeneric   = "GenericError"
	classCommand   = "CommandNotFound"
	classNotFound  = "DeviceNotFound"
	classNotActive = "DeviceNotActive"
)

// Version is what the greeting and query-version say of the engine.
const (
	VersionMajor = 1
	VersionMinor = 0
	VersionMicro = 0
)

type version struct {
	QEMU struct {
		Major int `json:"major"`
		Minor int `json:"minor"`
		Micro int `json:"micro"`
	} `json:"qemu"`
	Package string `json:"package"`
}

func engineVersion() version {
	var v version
	v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro = VersionMajor, VersionMinor, VersionMicro
	v.Package = "virtd-vmm"
	return v
}

func greeting() any {
	return map[string]any{"QMP": map[string]any{"version": engineVersion(), "capabilities": []string{}}}
}

type request struct {
	Execute   string          `json:"execute"`
	Arguments json.RawMessage `json:"arguments"`
	ID        json.RawMessage `json:"id"`
}

type errorBody struct {
	Class string `json:"class"`
	Desc  string `json:"desc"`
}

type response struct {
	Return any             `json:"return,omitempty"`
	Error  *errorBody      `json:"error,omitempty"`
	ID     json.RawMessage `json:"id,omitempty"`
}

func failure(id json.RawMessage, class, desc string) response {
	return response{Error: &errorBody{class, desc}, ID: id}
}

// empty is the result of a command that returns nothing.
var empty = struct{}{}

// execute answers one line.
func (c *client) execute(line []byte) any {
	var r request
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return failure(nil, classGeneric, "JSON parse error: "+err.Error())
	}
	if d.More() {
		return failure(r.ID, classGeneric, "JSON parse error: more than one object in a line")
	}
	if r.Execute == "" {
		return failure(r.ID, classGeneric, "QMP input lacks member 'execute'")
	}
	if !c.negotiated.Load() {
		if r.Execute != "qmp_capabilities" {
			return failure(r.ID, classCommand, "Expecting capabilities negotiation with 'qmp_capabilities'")
		}
		c.negotiated.Store(true)
		return response{Return: empty, ID: r.ID}
	}
	run, ok := commands[r.Execute]
	if withFiles := fileCommands[r.Execute]; withFiles != nil {
		ok = true
		run = func(s *Server, args json.RawMessage) (any, error) { return withFiles(s, args, c.in.take()) }
	}
	if !ok {
		return failure(r.ID, classCommand, fmt.Sprintf("The command %s has not been found", r.Execute))
	}
	result, err := c.guard(run, r.Arguments)
	if err != nil {
		return failure(r.ID, errorClass(err), err.Error())
	}
	if result == nil {
		result = empty
	}
	return response{Return: result, ID: r.ID}
}

// guard turns a panic of a command into an error: a mistake in one command must not end the guest.
func (c *client) guard(run command, args json.RawMessage) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.server.logf("monitor command: %v\n%s", p, debug.Stack())
			err = fmt.Errorf("internal error: %v", p)
		}
	}()
	return run(c.server, args)
}

func errorClass(err error) string {
	switch {
	case errors.Is(err, ErrNotFound):
		return classNotFound
	case errors.Is(err, ErrNotActive):
		return classNotActive
	}
	return classGeneric
}

// arguments decodes the arguments of a command into v and refuses unknown ones.
func arguments(raw json.RawMessage, v any) error {
	if len(raw) == 0 {
		raw = json.RawMessage("{}")
	}
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("arguments: %w", err)
	}
	return nil
}
