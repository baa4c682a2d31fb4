package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/google/nftables"

	"virtd/driver/kvm"
	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/firewall"
	"virtd/network/services"
	"virtd/network/usernet"
	"virtd/nodedev"
)

// openNetworks finds the virtual networks and starts those that are marked for it. This comes before domains are adopted or
// started, which have ports on them. A host on which none can be started still has their definitions.
func openNetworks(cfg config, hostdevs *nodedev.Hostdevs, log *slog.Logger) (*network.Manager, func(), error) {
	state, run := filepath.Join(cfg.StateDir, "networks"), filepath.Join(cfg.RunDir, "networks")
	program, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	children, err := services.NewSupervisor(services.Options{
		Program: program, Run: filepath.Join(run, "services"), Leases: filepath.Join(state, "leases"), Logs: cfg.LogDir, Log: log,
	})
	if err != nil {
		return nil, nil, err
	}
	host := &network.Local{Links: &bridge.Host{}, Services: children, Log: log}
	if hostdevs != nil { // a nil pointer in an interface is not nil
		host.Hostdevs = hostdevs
	}
	networks, err := network.Open(network.Config{State: state, Run: run, Host: host, Log: log})
	if err != nil {
		children.Close()
		return nil, nil, err
	}
	if !cfg.Session {
		if err := networks.EnsureDefault(); err != nil {
			log.Error("cannot define the default network", "error", err)
		}
	}
	networks.Autostart()
	stop := keepTable(nftables.TableFamilyINet, "packet filter of networks", networks.Repair, log)
	return networks, func() { stop(); networks.Close(); children.Close() }, nil
}

// openUserNets is what starts the processes behind interfaces of type user. virtd-usernet is where the engine is.
func openUserNets(cfg config, log *slog.Logger) *usernet.Supervisor {
	return usernet.NewSupervisor(usernet.Options{Helper: filepath.Join(filepath.Dir(engine(cfg)), "virtd-usernet"), Logs: cfg.LogDir, Log: log})
}

// watchLinks tells the driver of links that go, under which may be those of guests.
func watchLinks(ctx context.Context, drv *kvm.Driver, log *slog.Logger) {
	if err := new(bridge.Host).WatchRemoved(ctx, drv.LinkRemoved); err != nil {
		log.Warn("links that vanish are not noticed: guests on macvtaps keep a cable that leads nowhere", "error", err)
	}
}

// keepTable makes one of virtd's tables of the packet filter again when somebody flushed it, as reloads of other filters do.
// what names its content. stop ends that and waits for it.
func keepTable(family nftables.TableFamily, what string, repair func() error, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := firewall.Watch(ctx, family, func() {
			if err := repair(); err != nil {
				log.Error("the "+what+" was removed and cannot be made again", "error", err)
			}
		})
		if err != nil {
			log.Warn("the packet filter is not watched: what others remove comes back when virtd is restarted", "of", what, "error", err)
		}
	})
	return func() { cancel(); watching.Wait() }
}

// serveNetwork is this program as the services of one network, which its supervisor starts.
func serveNetwork(log *slog.Logger) int {
	log.Error("the services of a network end", "error", services.Run())
	return 1
}
