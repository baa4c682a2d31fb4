package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"

	"virtd/daemon/nodeinfo"
	"virtd/nodedev"
)

// openHostdevs finds which devices of the host were taken from their drivers. An ordinary user's daemon can take none.
func openHostdevs(ctx context.Context, cfg config, log *slog.Logger) *nodedev.Hostdevs {
	if cfg.Session {
		return nil
	}
	h, err := nodedev.OpenHostdevs(nodedev.HostdevsConfig{State: filepath.Join(cfg.StateDir, "hostdevs"), Log: log})
	if err != nil {
		log.Warn("devices of the host cannot be given to guests", "error", err)
		return nil
	}
	h.RestoreFunctions(ctx)
	return h
}

// openDevices looks at the host's devices, and starts the mediated ones that are marked for it until the returned function is
// called. Guests do not need the list, so virtd runs without it where there is no sysfs.
func openDevices(cfg config, log *slog.Logger) (*nodedev.Manager, func()) {
	host := nodedev.Local()
	host.UUID, host.Log = nodeinfo.Local().UUID().String(), log
	host.State = filepath.Join(cfg.StateDir, "mdevs")
	devices, err := nodedev.Open(host)
	if err != nil {
		log.Warn("the host's devices are not listed", "error", err)
		return nil, func() {}
	}
	ctx, stop := context.WithCancel(context.Background())
	var starting sync.WaitGroup
	starting.Go(func() { devices.Autostart(ctx) })
	return devices, func() {
		stop()
		starting.Wait()
		devices.Close()
	}
}
