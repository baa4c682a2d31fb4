package bridge

import (
	"context"
	"encoding/binary"
	"errors"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"virtd/virterr"
)

// WatchRemoved calls removed with the name and index of each link that goes, until ctx ends; with "" and 0 when links may have
// gone of which there was no notice.
func (h *Host) WatchRemoved(ctx context.Context, removed func(name string, index int)) error {
	events, err := netlink.Dial(unix.NETLINK_ROUTE, &netlink.Config{Groups: 1 << (unix.RTNLGRP_LINK - 1)})
	if err != nil {
		return virterr.New(virterr.SystemError, "cannot watch the host's network links: %w", errno(err))
	}
	defer events.Close()
	defer context.AfterFunc(ctx, func() { events.Close() })()
	for {
		list, err := events.Receive()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS): // more changes than the socket holds
			removed("", 0)
			continue
		case err != nil:
			return virterr.New(virterr.SystemError, "cannot watch the host's network links: %w", errno(err))
		}
		for _, m := range list {
			if name, index, ok := removedLink(m); ok {
				removed(name, index)
			}
		}
	}
}

// removedLink reads RTM_DELLINK (rtnetlink(7)). A port that leaves its bridge is one too, of another family.
func removedLink(m netlink.Message) (name string, index int, ok bool) {
	if m.Header.Type != unix.RTM_DELLINK || len(m.Data) < unix.SizeofIfInfomsg || m.Data[0] != unix.AF_UNSPEC {
		return "", 0, false
	}
	index = int(int32(binary.NativeEndian.Uint32(m.Data[4:])))
	attrs, err := netlink.NewAttributeDecoder(m.Data[unix.SizeofIfInfomsg:])
	if err != nil {
		return "", 0, false
	}
	for attrs.Next() {
		if attrs.Type() == unix.IFLA_IFNAME {
			name = attrs.String()
		}
	}
	return name, index, attrs.Err() == nil && name != ""
}
