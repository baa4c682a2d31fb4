package monitor

import (
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// fileCommands are the commands that take descriptors. A function that returns an error has closed those it did not give
// away.
var fileCommands = map[string]func(s *Server, args json.RawMessage, files []int) (any, error){
	"x-virtd-attach":     attach,
	"x-virtd-net-stream": reconnect(Machine.ReconnectNIC),
	"x-virtd-vhost-user": reconnect(Machine.ReconnectVhostUser),
}

// attach is x-virtd-attach.
func attach(s *Server, args json.RawMessage, files []int) (any, error) {
	var a struct {
		Device json.RawMessage `json:"device"`
		Files  []string        `json:"files"`
	}
	err := arguments(args, &a)
	named := make(map[string]int, len(files))
	switch {
	case err != nil:
	case len(a.Device) == 0:
		err = errors.New("Parameter 'device' is missing")
	case len(a.Files) != len(files):
		err = fmt.Errorf("%d descriptors came for %d names", len(files), len(a.Files))
	default:
		for i, name := range a.Files {
			named[name] = files[i]
		}
		if len(named) != len(files) {
			err = errors.New("two descriptors have the same name")
		}
	}
	if err != nil {
		for _, fd := range files {
			unix.Close(fd)
		}
		return nil, err
	}
	return nil, s.machine.Attach(a.Device, named)
}

// virtdDetach is x-virtd-detach.
func virtdDetach(s *Server, args json.RawMessage) (any, error) {
	var a struct {
		ID string `json:"id"`
	}
	if err := arguments(args, &a); err != nil {
		return nil, err
	}
	return nil, s.machine.Detach(a.ID)
}

// reconnect is a command that gives a device another socket.
func reconnect(do func(m Machine, id string, fd int) error) func(s *Server, args json.RawMessage, files []int) (any, error) {
	return func(s *Server, args json.RawMessage, files []int) (any, error) {
		var a struct {
			ID string `json:"id"`
		}
		err := arguments(args, &a)
		if err == nil && len(files) != 1 {
			err = fmt.Errorf("%d descriptors came, one is needed", len(files))
		}
		if err != nil {
			for _, fd := range files {
				unix.Close(fd)
			}
			return nil, err
		}
		return nil, do(s.machine, a.ID, files[0])
	}
}
