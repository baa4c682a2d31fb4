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
	"virtd/network/firewalld"
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
	host := &network.Local{Links: &bridge.Host{}, Services: children, Tables: tables(cfg), Log: log, Open: cfg.OpenFirewalls}
	if hostdevs != nil { // a nil pointer in an interface is not nil
		host.Hostdevs = hostdevs
	}
	if !cfg.Session { // firewalld asks others for root's password
		host.Zones = &firewalld.Zones{Record: filepath.Join(cfg.RunDir, "firewalld.json")}
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
	stop := keepTable(tables(cfg), nftables.TableFamilyINet, "packet filter of networks", networks.Repair, log)
	stopOthers := func() {}
	if cfg.OpenFirewalls {
		stopOthers = watchOthers(host.Zones, networks.OpenOthers, log)
	}
	return networks, func() { stop(); stopOthers(); networks.Close(); children.Close() }, nil
}

// watchOthers has the packet filters of others opened again when they changed. stop ends that and waits for it.
func watchOthers(zones *firewalld.Zones, open func(), log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := firewall.WatchOthers(ctx, open); err != nil {
			log.Warn("packet filters of others are not watched: what they take away comes back when a network starts or virtd is restarted", "error", err)
		}
	})
	if zones != nil {
		watching.Go(func() { zones.Watch(ctx, open) })
	}
	return func() { cancel(); watching.Wait() }
}

// openUserNets is what starts the processes behind interfaces of type user. virtd-usernet is where the engine is.
func openUserNets(cfg config, log *slog.Logger) *usernet.Supervisor {
	return usernet.NewSupervisor(usernet.Options{Helper: filepath.Join(filepath.Dir(engine(cfg)), "virtd-usernet"), Logs: cfg.LogDir, Log: log})
}

// tables are this virtd's in the packet filter: others may run on the host, with other directories.
func tables(cfg config) firewall.Tables {
	dir := filepath.Clean(cfg.RunDir)
	if dir == systemRunDir {
		return ""
	}
	return firewall.TablesOf(dir)
}

// watchLinks tells the driver of links that go, under which may be those of guests, and has the bridges of networks made again.
func watchLinks(ctx context.Context, drv *kvm.Driver, networks *network.Manager, log *slog.Logger) {
	missing := make(chan bool, 1)
	var repairing sync.WaitGroup
	repairing.Go(func() {
		for range missing {
			if err := networks.RepairBridges(); err != nil {
				log.Error("a network is damaged", "error", err)
			}
		}
	})
	defer func() { close(missing); repairing.Wait() }()
	err := new(bridge.Host).WatchRemoved(ctx, func(name string, index int) {
		drv.LinkRemoved(name, index)
		if name == "" || networks.BridgeOwner(name) != "" {
			select {
			case missing <- true:
			default: // one look at all of them is to come
			}
		}
	})
	if err != nil {
		log.Warn("links that vanish are not noticed: guests on macvtaps keep a cable that leads nowhere, and bridges of networks stay away", "error", err)
	}
}

// keepTable has one of virtd's tables of the packet filter repaired when somebody flushed it, as reloads of other filters do.
// what names its content. stop ends that and waits for it.
func keepTable(tables firewall.Tables, family nftables.TableFamily, what string, repair func() error, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var watching sync.WaitGroup
	watching.Go(func() {
		err := tables.Watch(ctx, family, func() {
			if err := repair(); err != nil {
				log.Error("the "+what+" was changed by somebody and cannot be made again", "error", err)
			}
		})
		if err != nil {
			log.Warn("the packet filter is not watched: what others remove comes back when virtd is restarted", "of", what, "error", err)
		}
	})
	return func() { cancel(); watching.Wait() }
}

// restore has the filters of guests made again that somebody took away.
func restore(filters *firewall.Guests, log *slog.Logger) error {
	made, err := filters.Repair()
	if made > 0 {
		log.Warn("somebody took filters of guests out of the packet filter; they are made again", "guests", made)
	}
	return err
}

// serveNetwork is this program as the services of one network, which its supervisor starts.
func serveNetwork(log *slog.Logger) int {
	log.Error("the services of a network end", "error", services.Run())
	return 1
}
