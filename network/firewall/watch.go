package firewall

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// settleTime is how long after a change virtd's table is looked at: who flushes everything may be at it still.
const settleTime = 200 * time.Millisecond

// Watch calls changed soon after something went out of virtd's table of a family (inet: of networks, bridge: of guests), until ctx
// ends. That may have been virtd itself: changed has to see what is there. Watch returns early when the kernel gives no notice of
// changes. The socket is its own: the library's monitor cannot be asked for one table.
func (t Tables) Watch(ctx context.Context, family nftables.TableFamily, changed func()) error {
	events, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return failed("watch the packet filter", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	removed, ended := make(chan bool, 1), make(chan error, 1)
	var listening sync.WaitGroup
	listening.Go(func() { ended <- t.listen(events, family, removed) })
	defer func() { cancel(); events.Close(); listening.Wait() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return failed("watch the packet filter", err)
		case <-removed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
			changed()
		}
	}
}

// listen signals removals until the socket is closed. It is never late: who is told looks at the table, so one signal stands for
// all that are waiting.
func (t Tables) listen(events *netlink.Conn, family nftables.TableFamily, removed chan<- bool) error {
	for {
		list, err := events.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // that is more changes than the socket holds: any may be among them
			return err
		}
		if err == nil && !t.removes(list, family) {
			continue
		}
		select {
		case removed <- true:
		default:
		}
	}
}

// removes reports whether one of the messages tells of something that went out of the table.
func (t Tables) removes(list []netlink.Message, family nftables.TableFamily) bool {
	for _, m := range list {
		switch m.Header.Type {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
			unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE, unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSET,
			unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELSETELEM:
			if tableOf(m, family) == t.Name() {
				return true
			}
		}
	}
	return false
}

// tableOf returns the table that a message is about, "" where it is of another family. All kinds have its name first
// (linux/netfilter/nf_tables.h).
func tableOf(m netlink.Message, family nftables.TableFamily) string {
	if len(m.Data) < nfgenmsgSize || m.Data[0] != byte(family) {
		return ""
	}
	attrs, err := netlink.NewAttributeDecoder(m.Data[nfgenmsgSize:])
	if err != nil {
		return ""
	}
	for attrs.Next() {
		if attrs.Type() == unix.NFTA_TABLE_NAME {
			return attrs.String()
		}
	}
	return ""
}

// present reports whether virtd's table of a family is there.
func (t Tables) present(c *nftables.Conn, family nftables.TableFamily) (bool, error) {
	tables, err := c.ListTablesOfFamily(family)
	if err != nil {
		return false, failed("list the tables of the packet filter", err)
	}
	for _, have := range tables {
		if have.Name == t.Name() {
			return true, nil
		}
	}
	return false, nil
}
