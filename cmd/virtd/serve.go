package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"virtd/daemon"
	"virtd/domain"
	"virtd/domain/manager"
	"virtd/domain/store"
	"virtd/driver/kvm"
	"virtd/hypervisor"
	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/hostif"
	"virtd/network/hostnet"
	"virtd/network/usernet"
	"virtd/nodedev"
	"virtd/pmqos"
	"virtd/release"
	"virtd/rpc"
	"virtd/secret"
	"virtd/storage"
)

// serve runs the daemon until a signal ends it. Guests are left running.
func serve(cfg config, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	signal.Ignore(unix.SIGHUP, unix.SIGPIPE)
	lock, err := takeLock(cfg)
	if err != nil {
		return err
	}
	defer lock.Close()
	hostdevs := openHostdevs(ctx, cfg, log)
	networks, closeNetworks, err := openNetworks(cfg, hostdevs, log)
	if err != nil {
		return err
	}
	defer closeNetworks()
	// Domains name volumes of the pools: there must be pools when a domain starts.
	pools, err := storage.Open(storage.Config{
		State: filepath.Join(cfg.StateDir, "storage"), Run: filepath.Join(cfg.RunDir, "storage"), Log: log,
	})
	if err != nil {
		return err
	}
	defer pools.Close()
	filters := &firewall.Guests{Tables: tables(cfg)}
	defer keepTable(filters.Tables, nftables.TableFamilyBridge, "packet filter of guests", func() error { return restore(filters, log) }, log)()
	userNets := openUserNets(cfg, log)
	defer userNets.Close()
	var latency *pmqos.Latency
	if cfg.LowLatency {
		latency = pmqos.New(log)
		defer latency.Close()
	}
	mgr, cpu, watch, err := openManager(ctx, cfg, hostParts{networks, pools, filters, hostdevs, userNets, latency}, log)
	if err != nil {
		return err
	}
	defer mgr.Close()
	watching, unwatch := context.WithCancel(ctx)
	var watchers sync.WaitGroup
	watchers.Go(func() { watch(watching) })
	defer func() { unwatch(); watchers.Wait() }()
	networks.Retain(mgr.PortsInUse())
	devices, closeDevices := openDevices(cfg, log)
	defer closeDevices()
	secrets, err := secret.Open(secret.Config{State: filepath.Join(cfg.StateDir, "secrets"), Log: log})
	if err != nil {
		return err
	}
	bridges, err := hostnet.Open(hostnet.Config{
		Links: &bridge.Host{}, Run: filepath.Join(cfg.RunDir, "bridges"), Owner: networks.BridgeOwner, Log: log,
	})
	if err != nil {
		return err
	}
	defer bridges.Close()
	d := daemon.New(daemon.Config{
		Bridges: bridges, Links: new(bridge.Host).List,
		Secrets: secrets, Interfaces: hostif.List,
		Manager: mgr, Storage: pools, Networks: networks, Devices: devices, Hostdevs: hostdevs,
		CPU: cpu, Emulator: engine(cfg), URI: uri(cfg), HostCheck: checkHost, Log: log,
		Neighbours: new(bridge.Host).Neighbours,
	})
	defer d.Close()
	startPools(pools, cfg, log)
	registry := rpc.NewRegistry()
	d.Register(registry)
	server := rpc.NewServer(registry, rpc.Options{
		MaxClients: cfg.MaxClients, MaxPerUser: cfg.MaxPerUser, ParallelCalls: cfg.ParallelCalls,
		KeepaliveInterval: time.Duration(cfg.KeepaliveInterval) * time.Second, KeepaliveCount: cfg.KeepaliveCount,
		MaxAnonymous: cfg.MaxAnonymous, Logger: log,
	})
	return listenAndServe(ctx, stop, cfg, log, server, mgr)
}

// listenAndServe accepts clients until ctx ends, then lets the calls under way finish.
func listenAndServe(ctx context.Context, stop func(), cfg config, log *slog.Logger, server *rpc.Server, mgr *manager.Manager) error {
	endpoints, err := openEndpoints(cfg, log)
	if err != nil {
		return err
	}
	failed := make(chan error, len(endpoints))
	var background sync.WaitGroup
	for _, e := range endpoints {
		background.Go(func() {
			if err := e.run(ctx, server); err != nil {
				failed <- err
			}
		})
	}
	background.Go(func() { mgr.Autostart(ctx) })
	notify(log, sd.SdNotifyReady)
	log.Info("ready", "version", release.Version, "uri", uri(cfg))
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	stop() // a second signal ends at once; autostart stops
	notify(log, sd.SdNotifyStopping)
	log.Info("stopping; guests go on running")
	drain, cancel := context.WithTimeout(context.Background(), cfg.DrainTime)
	defer cancel()
	if derr := server.Shutdown(drain); derr != nil {
		log.Warn("calls did not finish in time", "clients", server.Clients())
	}
	background.Wait()
	return err
}

func notify(log *slog.Logger, state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		log.Warn("cannot tell systemd", "state", state, "error", err)
	}
}

// hostParts are what domains use of the host.
type hostParts struct {
	networks *network.Manager
	pools    *storage.Manager
	filters  *firewall.Guests
	hostdevs *nodedev.Hostdevs // nil: domains have none
	userNets *usernet.Supervisor
	latency  *pmqos.Latency // nil: CPUs sleep however long it takes to wake them
}

// openManager finds the stored domains and the engines that run. watch follows what becomes of the host's links, until its
// context ends.
func openManager(ctx context.Context, cfg config, use hostParts, log *slog.Logger) (*manager.Manager, domain.HostCPU, func(context.Context), error) {
	driverConfig := kvm.Config{
		Engine: engine(cfg), RunDir: filepath.Join(cfg.RunDir, "engines"), LogDir: cfg.LogDir,
		Links: &bridge.Host{}, Filters: use.filters, UserNets: use.userNets,
		HostCPU: hostCPU{}, Log: log, UIDBase: cfg.UIDBase, UIDCount: cfg.UIDCount, ConsoleLogMax: cfg.ConsoleLogMax,
		Confine: hypervisor.Confine{Seccomp: true, Landlock: true},
	}
	if use.hostdevs != nil { // a nil pointer in an interface is not nil
		driverConfig.Hostdevs = use.hostdevs
	}
	drv, err := kvm.New(driverConfig)
	if err != nil {
		return nil, nil, nil, err
	}
	options := store.Options{
		State: filepath.Join(cfg.StateDir, "domains"), Run: filepath.Join(cfg.RunDir, "domains"), Emulator: engine(cfg), Log: log,
		Busy: collectLater, Rest: collect,
	}
	if use.latency != nil {
		options.Waits = use.latency.Waits
	}
	st, err := store.Open(options)
	if err != nil {
		return nil, nil, nil, err
	}
	mgr, err := manager.New(manager.Config{
		Driver: drv, Store: st, Networks: use.networks, Volumes: use.pools, Emulator: engine(cfg), Log: log, AutostartMark: filepath.Join(cfg.StateDir, "autostarted"),
		SaveDir: filepath.Join(cfg.StateDir, "save"),
	})
	if err != nil {
		return nil, nil, nil, err
	}
	if err := mgr.Open(ctx); err != nil {
		mgr.Close()
		return nil, nil, nil, fmt.Errorf("find the domains that run: %w", err)
	}
	return mgr, hostCPU{}, func(ctx context.Context) { watchLinks(ctx, drv, use.networks, log) }, nil
}

// startPools starts the storage pools that are marked for it. This comes before domains are started, whose disks may be in
// them, and after those that run are known, whose disks are not to be taken. What is wrong with a pool is no reason for
// domains not to be served.
func startPools(pools *storage.Manager, cfg config, log *slog.Logger) {
	if err := pools.EnsureDefault(cfg.ImagesDir); err != nil {
		log.Error("cannot make the default storage pool", "directory", cfg.ImagesDir, "error", err)
	}
	pools.Autostart()
}

// takeLock keeps a second virtd away from the same directories. The lock goes with the process.
func takeLock(cfg config) (*os.File, error) {
	if err := os.MkdirAll(cfg.RunDir, 0o711); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	path := filepath.Join(cfg.RunDir, "virtd.lock")
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another virtd runs with %s; stop it, or choose another --run-dir", cfg.RunDir)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// engine is the path of virtd-vmm: as configured, beside virtd, or where packages put it.
func engine(cfg config) string {
	if cfg.Emulator != "" {
		return cfg.Emulator
	}
	if self, err := os.Executable(); err == nil {
		if beside := filepath.Join(filepath.Dir(self), "virtd-vmm"); exists(beside) {
			return beside
		}
	}
	return domain.DefaultEmulator
}

func uri(cfg config) string {
	if cfg.Session {
		return "qemu:///session"
	}
	return "qemu:///system"
}
