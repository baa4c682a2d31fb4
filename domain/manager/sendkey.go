package manager

import (
	"context"
	"time"

	"virtd/driver"
	"virtd/virterr"
)

// SendKey presses keys, numbered as Linux does, at the guest's keyboard, in their order, and releases them after hold. It does
// not wait for the guest.
func (d *Domain) SendKey(ctx context.Context, keys []uint16, hold time.Duration) error {
	return d.withEngine(ctx, "send-key", func(ctx context.Context, inst driver.Instance) error {
		_, live, err := d.engine()
		if err != nil {
			return err
		}
		if !live.HasKeyboard() {
			return virterr.New(virterr.OperationUnsupported, "domain '%s' has no keyboard that keys can be sent to; add "+
				"<input type='keyboard' bus='virtio'/> to its <devices> and start it again", d.Name())
		}
		return inst.SendKey(ctx, keys, hold)
	})
}
