package firewall

import (
	"context"
	"errors"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settleTime is how long after a change of tables is looked whether virtd's is there: who flushes everything may be at it still.
const settleTime = 200 * time.Millisecond

// Watch calls lost whenever somebody else removed virtd's table of a family (inet: of networks, bridge: of guests), until ctx ends. It returns early when the kernel gives no
// notice of changes. The socket is its own: the library's monitor cannot be asked for removed tables only.
func Watch(ctx context.Context, family nftables.TableFamily, lost func()) error {
	c, err := dial()
	if err != nil {
		return failed("open the packet filter", err)
	}
	events, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return failed("watch the packet filter", err)
	}
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	for {
		list, err := events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more changes than the socket holds: any may be among them
		case err != nil:
			return failed("watch the packet filter", err)
		case !removesTable(list):
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
		}
		if there, err := present(c, family); err == nil && !there {
			lost()
		}
	}
}

// removesTable reports whether one of the messages tells of a table that went away.
func removesTable(list []netlink.Message) bool {
	for _, m := range list {
		if m.Header.Type == netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_DELTABLE) {
			return true
		}
	}
	return false
}

// present reports whether virtd's table of a family is there.
func present(c *nftables.Conn, family nftables.TableFamily) (bool, error) {
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return false, failed("list the tables of the packet filter", err)
	}
	for _, t := range tables {
		if t.Name == TableName {
			return true, nil
		}
	}
	return false, nil
}
