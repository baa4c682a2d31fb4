package steering

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"virtd/hypervisor/virtio/net/rss"
)

// Open loads the program, and makes its map, for one tap. The files are the caller's. The kernel wants CAP_BPF or CAP_SYS_ADMIN
// for it, and has maps of this kind since Linux 5.5.
func Open() (program, table *os.File, err error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "virtd_rss", Type: ebpf.Array, KeySize: 4, ValueSize: rss.MapSize, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, nil, fmt.Errorf("make a BPF map: %w", err)
	}
	defer m.Close()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "virtd_rss", Type: ebpf.SocketFilter, Instructions: instructions(m.FD()), License: "Apache-2.0",
	})
	if err != nil {
		return nil, nil, fmt.Errorf("load a BPF program: %w", err)
	}
	defer p.Close()
	if program, err = duplicate(p.FD(), "bpf-program"); err != nil {
		return nil, nil, err
	}
	if table, err = duplicate(m.FD(), "bpf-map"); err != nil {
		return nil, nil, errors.Join(err, program.Close())
	}
	return program, table, nil
}

func duplicate(fd int, name string) (*os.File, error) {
	n, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of a %s: %w", name, err)
	}
	return os.NewFile(uintptr(n), name), nil
}

// Detach takes the program from a tap, which need not have one. An error says that the tap takes no such programs at all, as a
// macvtap does not.
func Detach(tap *os.File) error {
	conn, err := tap.SyscallConn()
	if err != nil {
		return err
	}
	var refused error
	err = conn.Control(func(fd uintptr) { refused = unix.IoctlSetPointerInt(int(fd), unix.TUNSETSTEERINGEBPF, -1) })
	return errors.Join(err, refused)
}
