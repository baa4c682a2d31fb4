package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/urfave/cli/v2"
)

func eventCommands() []*cli.Command {
	return []*cli.Command{{
		Name: "event", Category: "Information", Usage: "print events as they happen", ArgsUsage: "[DOMAIN]",
		Description: "Prints until interrupted, or until the number or time that the options give.",
		Flags: []cli.Flag{
			&cli.IntFlag{Name: "count", Aliases: []string{"n"}, Usage: "end after `N` events"},
			&cli.DurationFlag{Name: "timeout", Usage: "end after this time; it is an error if no event came"},
		},
		Action: withSession(watchEvents), BashComplete: complete(anyDomain),
	}}
}

// watched are the kinds of event that print has words for.
var watched = []libvirt.DomainEventID{libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDReboot, libvirt.DomainEventIDRtcChange,
	libvirt.DomainEventIDIoErrorReason, libvirt.DomainEventIDBalloonChange, libvirt.DomainEventIDDeviceAdded,
	libvirt.DomainEventIDDeviceRemoved, libvirt.DomainEventIDMetadataChange}

// happening is one event, ready to print.
type happening struct {
	Time   time.Time `json:"time"`
	Domain string    `json:"domain"`
	Event  string    `json:"event"`
	Detail string    `json:"detail,omitempty"`
}

func watchEvents(c *cli.Context, s *session) error {
	var only *libvirt.Domain
	if c.NArg() > 0 {
		d, err := s.domain(c.Args().First())
		if err != nil {
			return err
		}
		only = &d
	}
	ctx, cancel := context.WithCancel(c.Context)
	defer cancel()
	if t := c.Duration("timeout"); t > 0 {
		ctx, cancel = context.WithTimeout(ctx, t)
		defer cancel()
	}
	merged := make(chan happening)
	var readers sync.WaitGroup
	defer readers.Wait()
	defer cancel()
	for _, id := range watched {
		events, err := s.SubscribeEvents(ctx, id, nil)
		if err != nil {
			return fmt.Errorf("register for events: %w", err)
		}
		readers.Go(func() {
			for e := range events {
				if h, dom, ok := describeEvent(e); ok && (only == nil || dom.UUID == only.UUID) {
					select {
					case merged <- h:
					case <-ctx.Done():
					}
				}
			}
		})
	}
	return printEvents(ctx, c, s, merged)
}

func printEvents(ctx context.Context, c *cli.Context, s *session, events <-chan happening) error {
	for n := 0; ; {
		select {
		case h := <-events:
			err := emit(c, h, func(w io.Writer) error {
				_, err := fmt.Fprintf(w, "event '%s' for domain '%s'%s\n", h.Event, h.Domain, prefixed(": ", h.Detail))
				return err
			})
			if err != nil {
				return err
			}
			if n++; n == c.Int("count") {
				return nil
			}
		case <-s.Disconnected():
			return errors.New("the daemon closed the connection")
		case <-ctx.Done():
			if n == 0 && errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return errors.New("event loop timed out")
			}
			return nil
		}
	}
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

// Words of virsh for virDomainEventType and its details.
var (
	lifecycleNames   = []string{"Defined", "Undefined", "Started", "Suspended", "Resumed", "Stopped", "Shutdown", "PMSuspended", "Crashed"}
	lifecycleDetails = [][]string{
		{"Added", "Updated", "Renamed", "Snapshot"},
		{"Removed", "Renamed"},
		{"Booted", "Migrated", "Restored", "Snapshot", "Event wakeup"},
		{"Paused", "Migrated", "I/O Error", "Watchdog", "Restored", "Snapshot", "API error", "Post-copy", "Post-copy Error"},
		{"Unpaused", "Migrated", "Snapshot", "Post-copy", "Post-copy Error"},
		{"Shutdown", "Destroyed", "Crashed", "Migrated", "Saved", "Failed", "Snapshot"},
		{"Finished", "Finished after guest request", "Finished after host request"},
		{"Memory", "Disk"},
		{"Panicked", "Crashloaded"},
	}
)

// describeEvent puts one of go-libvirt's messages into words.
func describeEvent(e any) (happening, libvirt.Domain, bool) {
	at := func(dom libvirt.Domain, event, detail string) (happening, libvirt.Domain, bool) {
		return happening{Time: time.Now(), Domain: dom.Name, Event: event, Detail: detail}, dom, true
	}
	switch m := e.(type) {
	case *libvirt.DomainEventCallbackLifecycleMsg:
		return at(m.Msg.Dom, "lifecycle", word(lifecycleNames, m.Msg.Event)+prefixed(" ", lifecycleDetail(m.Msg.Event, m.Msg.Detail)))
	case *libvirt.DomainEventCallbackRebootMsg:
		return at(m.Msg.Dom, "reboot", "")
	case *libvirt.DomainEventCallbackRtcChangeMsg:
		return at(m.Msg.Dom, "rtc-change", fmt.Sprint(m.Msg.Offset))
	case *libvirt.DomainEventCallbackIOErrorReasonMsg:
		return at(m.Msg.Dom, "io-error-reason", fmt.Sprintf("%s (%s) due to %s", m.Msg.SrcPath, m.Msg.DevAlias, m.Msg.Reason))
	case *libvirt.DomainEventCallbackBalloonChangeMsg:
		return at(m.Msg.Dom, "balloon-change", fmt.Sprintf("%dKiB", m.Msg.Actual))
	case *libvirt.DomainEventCallbackDeviceAddedMsg:
		return at(m.Dom, "device-added", m.DevAlias)
	case *libvirt.DomainEventCallbackDeviceRemovedMsg:
		return at(m.Msg.Dom, "device-removed", m.Msg.DevAlias)
	case *libvirt.DomainEventCallbackMetadataChangeMsg:
		return at(m.Dom, "metadata-change", "")
	}
	return happening{}, libvirt.Domain{}, false
}

func word(words []string, n int32) string {
	if n >= 0 && int(n) < len(words) {
		return words[n]
	}
	return "unknown"
}

func lifecycleDetail(event, detail int32) string {
	if event < 0 || int(event) >= len(lifecycleDetails) {
		return ""
	}
	return word(lifecycleDetails[event], detail)
}
