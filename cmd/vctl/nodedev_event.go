package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"

	"virtd/rpc"
	"virtd/rpc/client"
)

func nodedevEventCommand() *cli.Command {
	return &cli.Command{
		Name: "event", Usage: "print what happens to the host's devices", ArgsUsage: "[DEVICE]",
		Description: "Prints until interrupted, or until the number or time that the options give. A DEVICE need not exist yet.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "end after `N` events"},
			&cli.DurationFlag{Name: "timeout", Usage: "end after this time; it is an error if no event came"},
		},
		Action: watchDevices, BashComplete: complete(anyHostDevice),
	}
}

// deviceHappening is one event of a device, ready to print.
type deviceHappening struct {
	Time   time.Time `json:"time"`
	Device string    `json:"device"`
	Event  string    `json:"event"`
	Detail string    `json:"detail,omitempty"`
}

// deviceLifecycle are virsh's words for virNodeDeviceEventLifecycleType.
var deviceLifecycle = []string{"Created", "Deleted", "Defined", "Undefined"}

// deviceBacklog is how many events may wait for a slow terminal before the oldest are lost.
const deviceBacklog = 4096

// watchDevices uses a connection of its own: go-libvirt does not have these events.
func watchDevices(c *cli.Context) error {
	ctx := c.Context
	if t := c.Duration("timeout"); t > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	rc, err := openClient(c, true)
	if err != nil {
		return err
	}
	defer rc.Close()
	events := make(chan deviceHappening, deviceBacklog)
	rc.OnEvent(func(program, procedure uint32, body []byte) {
		if h, ok := deviceEvent(program, procedure, body); ok {
			select {
			case events <- h:
			default: // the reader must not wait
			}
		}
	})
	var only libvirt.OptNodeDevice
	if c.NArg() > 0 {
		only = libvirt.OptNodeDevice{{Name: c.Args().First()}}
	}
	for _, id := range []libvirt.NodeDeviceEventID{libvirt.NodeDeviceEventIDLifecycle, libvirt.NodeDeviceEventIDUpdate} {
		args := &libvirt.ConnectNodeDeviceEventRegisterAnyArgs{EventID: int32(id), Dev: only}
		if err := rc.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectNodeDeviceEventRegisterAny, args, &libvirt.ConnectNodeDeviceEventRegisterAnyRet{}); err != nil {
			return fmt.Errorf("register for events of devices: %w", err)
		}
	}
	return printDeviceEvents(ctx, c, rc, events)
}

func printDeviceEvents(ctx context.Context, c *cli.Context, rc *client.Client, events <-chan deviceHappening) error {
	for n := 0; ; {
		select {
		case h := <-events:
			err := emit(c, h, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "event '%s' for node device %s%s\n", h.Event, h.Device, prefixed(": ", h.Detail))
				return err
			})
			if err != nil {
				return err
			}
			if n++; n == c.Int("count") {
				return nil
			}
		case <-rc.Done():
			return errors.New("the daemon closed the connection")
		case <-ctx.Done():
			if n == 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errors.New("event loop timed out")
			}
			return nil
		}
	}
}

// deviceEvent puts a message into words.
func deviceEvent(program, procedure uint32, body []byte) (deviceHappening, bool) {
	if program != rpc.ProgramRemote {
		return deviceHappening{}, false
	}
	switch procedure {
	case rpc.ProcNodeDeviceEventLifecycle:
		var m libvirt.NodeDeviceEventLifecycleMsg
		err := rpc.Unmarshal(body, &m)
		return deviceHappening{Time: time.Now(), Device: m.Dev.Name, Event: "lifecycle", Detail: word(deviceLifecycle, m.Event)}, err == nil
	case rpc.ProcNodeDeviceEventUpdate:
		var m libvirt.NodeDeviceEventUpdateMsg
		err := rpc.Unmarshal(body, &m)
		return deviceHappening{Time: time.Now(), Device: m.Dev.Name, Event: "update"}, err == nil
	}
	return deviceHappening{}, false
}
