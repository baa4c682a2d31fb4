package hypervisor

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"virtd/hypervisor/boot"
	"virtd/hypervisor/monitor"
)

// Host is what a machine uses of the process it runs in.
type Host struct {
	// Files maps the names in Config to open descriptors. The machine owns them.
	Files map[FileName]int
	// Logf writes one line to the engine's log. It must not block for long.
	Logf func(format string, args ...any)
	// Event tells the monitor's clients. It must not block. nil tells nobody.
	Event func(monitor.Event)
}

// InheritedFiles maps the names of c to the descriptors from FirstFile on.
func InheritedFiles(c *Config) map[FileName]int {
	files := make(map[FileName]int, len(c.Files))
	for i, name := range c.Files {
		files[name] = FirstFile + i
	}
	return files
}

// take returns the descriptor of a name and gives it away, so that two devices cannot close the same one.
func (h *Host) take(name FileName, what string) (int, error) {
	fd, ok := h.Files[name]
	if !ok {
		return -1, fmt.Errorf("%s: no descriptor is named %q", what, name)
	}
	delete(h.Files, name)
	unix.CloseOnExec(fd)
	return fd, nil
}

func (h *Host) takeAll(names []FileName, what string) ([]int, error) {
	var fds []int
	for _, n := range names {
		fd, err := h.take(n, what)
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, fd)
	}
	return fds, nil
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// source opens a file to load at each reset of the machine; nil for no name.
func (h *Host) source(name FileName, what string) (*boot.Source, error) {
	if name == "" {
		return nil, nil
	}
	fd, err := h.take(name, what)
	if err != nil {
		return nil, err
	}
	s, err := boot.FileSource(os.NewFile(uintptr(fd), what))
	if err != nil {
		return nil, err
	}
	return s, nil
}
