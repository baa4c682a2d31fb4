package daemon_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"virtd/nodedev"
	"virtd/nodedev/nodedevtest"
)

// hostdevs takes the testbed's devices from their drivers and gives them back, with a kernel in memory.
func (b *testbed) hostdevs(t testing.TB, log *slog.Logger) *nodedev.Hostdevs {
	t.Helper()
	nodedevtest.Build(t, b.sys, "@ devices/pci0000:00/0000:00:02.1/0000:02:00.0\nreset 0")
	h, err := nodedev.OpenHostdevs(nodedev.HostdevsConfig{
		Sys: b.sys, Proc: filepath.Join(b.dir, "proc"), Dev: filepath.Join(b.dir, "dev"), State: filepath.Join(b.dir, "hostdevs"), Log: log, Write: b.kernel.Write,
		Modprobe: func(_ context.Context, module string) error {
			return os.MkdirAll(filepath.Join(b.sys, "bus/pci/drivers", module), 0o755)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
