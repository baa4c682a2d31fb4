package main

import (
	"context"
	"log/slog"
	"path/filepath"

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
