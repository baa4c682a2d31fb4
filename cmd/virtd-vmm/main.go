// Command virtd-vmm is the engine process of one domain: it executes one hypervisor.Config and leaves.
//
//	virtd-vmm --config-fd N     the Config is read from inherited descriptor N; virtd starts engines this way
//	virtd-vmm --config FILE     for people and benchmarks: FILE holds a Config and what to open for it (see openFile)
//	virtd-vmm --version
//
// It exits with 0 when the machine ended as its guest or its owner wanted, with 1 on an error.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"

	"virtd/hypervisor"
	"virtd/hypervisor/monitor"
	"virtd/release"
)

func main() {
	// Few large objects, many page-sized ones that live long: collect early and give memory back.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(24 << 20)
	relaxTimers()
	// The log may be a pipe to a virtd that is gone, and the terminal may close: neither ends the guest.
	signal.Ignore(unix.SIGPIPE, unix.SIGHUP)
	os.Exit(run())
}

func run() int {
	configFD := flag.Int(hypervisor.ConfigFDFlag, -1, "read the configuration from this inherited descriptor")
	configFile := flag.String("config", "", "run the configuration in this file, opening what it names")
	version := flag.Bool("version", false, "print the version and leave")
	flag.Parse()
	if *version {
		fmt.Println("virtd-vmm", release.Version, "config", hypervisor.ConfigVersion)
		return 0
	}
	c, files, err := load(*configFD, *configFile)
	if err != nil {
		logf("%v", err)
		return 1
	}
	if c == nil {
		return 0 // virtd died before it wrote the configuration
	}
	record := execute(c, files)
	if record.Reason == hypervisor.ExitError {
		return 1
	}
	return 0
}

// load reads the configuration. It returns nil without an error when there is none to execute.
func load(fd int, path string) (*hypervisor.Config, map[hypervisor.FileName]int, error) {
	switch {
	case path != "" && fd >= 0 || path == "" && fd < 0:
		return nil, nil, errors.New("give either --config-fd or --config")
	case path != "":
		return openFile(path)
	}
	f := os.NewFile(uintptr(fd), "configuration")
	if f == nil {
		return nil, nil, fmt.Errorf("descriptor %d is not open", fd)
	}
	defer f.Close()
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	if len(data) == 0 {
		return nil, nil, nil
	}
	c := &hypervisor.Config{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	return c, hypervisor.InheritedFiles(c), nil
}

// execute runs the machine to its end and writes the exit record.
func execute(c *hypervisor.Config, files map[hypervisor.FileName]int) hypervisor.ExitRecord {
	// A vCPU's thread needs a P the moment it leaves KVM_RUN; so do queues.
	queues := 0
	for i := range c.NICs {
		queues += c.NICs[i].Queues + 1
	}
	runtime.GOMAXPROCS(c.CPU.Count + len(c.Disks) + queues + 4)
	recordFD := -1
	if c.ExitRecord != "" {
		fd, ok := files[c.ExitRecord]
		if !ok {
			fd = -1
		}
		recordFD = fd
		delete(files, c.ExitRecord)
	}
	record := runMachine(c, files)
	if err := writeRecord(recordFD, record); err != nil {
		logf("%v", err)
	}
	return record
}

func failed(err error) hypervisor.ExitRecord {
	logf("%v", err)
	return hypervisor.ExitRecord{Reason: hypervisor.ExitError, Detail: err.Error(), Time: time.Now()}
}

func runMachine(c *hypervisor.Config, files map[hypervisor.FileName]int) hypervisor.ExitRecord {
	monitorFD, served := files[c.Monitor]
	delete(files, c.Monitor)
	var server *monitor.Server
	m, err := hypervisor.New(c, hypervisor.Host{Files: files, Logf: logf, Event: func(e monitor.Event) {
		if server != nil {
			server.Emit(e)
		}
	}})
	if err != nil {
		return failed(fmt.Errorf("build the machine: %w", err))
	}
	if served {
		if server, err = monitor.New(monitorFD, m.Control(), logf); err != nil {
			return failed(err)
		}
		defer server.Close()
	}
	if err := m.Start(); err != nil {
		return failed(err)
	}
	debug.FreeOSMemory()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT)
	select {
	case <-m.Done():
	case s := <-stop:
		m.Stop(hypervisor.ExitQuit, "signal: "+s.String())
	}
	<-m.Done()
	return m.Record()
}

// writeRecord replaces what the exit record's file holds, from its start.
func writeRecord(fd int, r hypervisor.ExitRecord) error {
	if fd < 0 {
		return nil
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	n, err := unix.Pwrite(fd, append(data, '\n'), 0)
	if err == unix.ESPIPE {
		n, err = unix.Write(fd, append(data, '\n'))
	}
	if err != nil || n != len(data)+1 {
		return fmt.Errorf("write the exit record: %d of %d bytes: %w", n, len(data)+1, err)
	}
	return nil
}
