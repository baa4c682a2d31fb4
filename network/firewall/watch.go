package firewall

import (
	"context"
	"errors"
	"slices"
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
	return watch(ctx, func(m netlink.Message) bool { return t.removes(m, family) }, changed)
}

// WatchOthers calls changed soon after the tables of others got or lost chains or rules, until ctx ends, as Watch does. That may have
// been virtd's own change.
func WatchOthers(ctx context.Context, changed func()) error { return watch(ctx, others, changed) }

// watch calls changed after messages that matter.
func watch(ctx context.Context, matters func(netlink.Message) bool, changed func()) error {
	events, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return failed("watch the packet filter", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	noticed, ended := make(chan bool, 1), make(chan error, 1)
	var listening sync.WaitGroup
	listening.Go(func() { ended <- listen(events, matters, noticed) })
	defer func() { cancel(); events.Close(); listening.Wait() }()
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-ended:
			return failed("watch the packet filter", err)
		case <-noticed:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleTime):
			changed()
		}
	}
}

// listen signals messages that matter until the socket is closed. It is never late: who is told looks at what is there, so one
// signal stands for all that are waiting.
func listen(events *netlink.Conn, matters func(netlink.Message) bool, noticed chan<- bool) error {
	for {
		list, err := events.Receive()
		if err != nil && !errors.Is(err, unix.ENOBUFS) { // that is more changes than the socket holds: any may be among them
			return err
		}
		if err == nil && !slices.ContainsFunc(list, matters) {
			continue
		}
		select {
		case noticed <- true:
		default:
		}
	}
}

// nftMessage is the type of a message of nftables.
func nftMessage(kind netlink.HeaderType) netlink.HeaderType {
	return unix.NFNL_SUBSYS_NFTABLES<<8 | kind
}

// removes reports whether a message tells of something that went out of the table.
func (t Tables) removes(m netlink.Message, family nftables.TableFamily) bool {
	switch m.Header.Type {
	case nftMessage(unix.NFT_MSG_DELTABLE), nftMessage(unix.NFT_MSG_DELCHAIN), nftMessage(unix.NFT_MSG_DELRULE),
		nftMessage(unix.NFT_MSG_DELSET), nftMessage(unix.NFT_MSG_DELSETELEM):
		return tableOf(m, family) == t.Name()
	}
	return false
}

// others reports whether a message tells of chains or rules of somebody else, in the families in which networks can be dropped.
func others(m netlink.Message) bool {
	switch m.Header.Type {
	case nftMessage(unix.NFT_MSG_DELTABLE), nftMessage(unix.NFT_MSG_NEWCHAIN), nftMessage(unix.NFT_MSG_DELCHAIN),
		nftMessage(unix.NFT_MSG_NEWRULE), nftMessage(unix.NFT_MSG_DELRULE):
		for family := range families {
			if table := tableOf(m, family); table != "" {
				return !virtds(table)
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
