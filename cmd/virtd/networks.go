package main

import (
	"log/slog"
	"os"
	"path/filepath"

	"virtd/network"
	"virtd/network/bridge"
	"virtd/network/services"
)

// openNetworks finds the virtual networks and starts those that are marked for it. This comes before domains are adopted or
// started, which have ports on them. A host on which none can be started still has their definitions.
func openNetworks(cfg config, log *slog.Logger) (*network.Manager, func(), error) {
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
	return networks, func() { networks.Close(); children.Close() }, nil
}

// serveNetwork is this program as the services of one network, which its supervisor starts.
func serveNetwork(log *slog.Logger) int {
	log.Error("the services of a network end", "error", services.Run())
	return 1
}
