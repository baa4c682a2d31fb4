package main

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

//go:embed private.sh
var privateScript string

// A daemon is a libvirt server that runs with directories and namespaces of its own.
type daemon struct {
	cmd     *exec.Cmd // the first process of its namespace
	pid     int       // the daemon
	scratch string    // its /etc/libvirt, /run and /var
	log     bytes.Buffer
	ended   chan struct{} // closed when the process is gone
}

// kindOfDaemon is how one of the two is started and spoken to.
type kindOfDaemon struct {
	name    string
	program string   // copied into the daemon's /var when it is a path on this machine
	args    []string // as seen inside
	socket  string   // below /run
	domain  string   // the type of domain that it accepts
}

// virtd is our daemon, as the program at path.
func virtdDaemon(path string) kindOfDaemon {
	return kindOfDaemon{name: "virtd", program: path, socket: "libvirt/libvirt-sock", domain: "kvm"}
}

// libvirtdDaemon is the peer. It accepts domains of type kvm only where there is /dev/kvm; what is measured does not
// depend on the type, as no domain runs.
func libvirtdDaemon() kindOfDaemon {
	return kindOfDaemon{name: "libvirtd", args: []string{"/usr/sbin/libvirtd"}, socket: "libvirt/libvirt-sock", domain: "qemu"}
}

// start runs the daemon in the tree root, on the state that scratch holds, and waits until it answers.
func (k kindOfDaemon) start(root, scratch string) (*daemon, error) {
	for _, dir := range []string{"etc", "run", "var/lib", "var/log", "var/cache", "var/tmp"} {
		if err := os.MkdirAll(filepath.Join(scratch, dir), 0o755); err != nil {
			return nil, err
		}
	}
	args := k.args
	if k.program != "" {
		inside := "/var/" + filepath.Base(k.program)
		if err := copyProgram(k.program, filepath.Join(scratch, inside)); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, err
		}
		args = append([]string{inside}, args...)
	}
	d := &daemon{scratch: scratch, ended: make(chan struct{})}
	d.cmd = exec.Command("sh", append([]string{"-c", privateScript, "private.sh", root, scratch}, args...)...)
	d.cmd.Stdout, d.cmd.Stderr = &d.log, &d.log
	// as under a service manager, and not this program's own settings
	d.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	d.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL,
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s in namespaces of its own (this needs root): %w", k.name, err)
	}
	go func() {
		_ = d.cmd.Wait()
		close(d.ended)
	}()
	if err := d.ready(filepath.Join(scratch, "run", k.socket)); err != nil {
		d.stop()
		return nil, fmt.Errorf("%s: %w: %s", k.name, err, brief(d.log.Bytes()))
	}
	return d, nil
}

// ready waits until the daemon opens connections.
func (d *daemon) ready(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		c, err := dial(socket)
		if err == nil {
			c.close()
			d.pid, err = child(d.cmd.Process.Pid)
			return err
		}
		select {
		case <-d.ended:
			return errors.New("it ended")
		case <-ctx.Done():
			return fmt.Errorf("it does not answer: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// child returns the only child of a process.
func child(pid int) (int, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return 0, err
	}
	list := strings.Fields(string(b))
	if len(list) != 1 {
		return 0, fmt.Errorf("process %d has the children %q, not one", pid, list)
	}
	return strconv.Atoi(list[0])
}

// stop ends the daemon and waits for it; its namespaces, and what else runs in them, go with it.
func (d *daemon) stop() {
	if d.pid != 0 {
		_ = syscall.Kill(d.pid, syscall.SIGTERM)
	} else {
		_ = d.cmd.Process.Kill()
	}
	select {
	case <-d.ended:
	case <-time.After(20 * time.Second):
		_ = d.cmd.Process.Kill()
		<-d.ended
	}
}

// cpu returns the processor time that all threads of the daemon have used.
func (d *daemon) cpu() (time.Duration, error) {
	return clock(d.pid)
}

// memory returns the daemon's share of the memory that it maps, and what it alone holds and wrote, in MiB.
func (d *daemon) memory() (pss, dirty float64, err error) {
	sums, err := smaps(d.pid)
	if err != nil {
		return 0, 0, err
	}
	return sums["Pss"] / (1 << 20), sums["Private_Dirty"] / (1 << 20), nil
}

// copyProgram copies an executable file. It is synced, since pages that are not yet on disk would count as the daemon's
// own.
func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// needsDisk refuses a folder in memory, where to sync costs nothing.
func needsDisk(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at the file system of %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return fmt.Errorf("%s is in memory; durable definitions need a disk: choose another folder with -o", dir)
	}
	return nil
}
