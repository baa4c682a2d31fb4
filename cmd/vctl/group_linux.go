package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// groupOf names the group of a socket, as " 'libvirt'", or is empty when it cannot be told.
func groupOf(path string) string {
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	g, err := user.LookupGroupId(strconv.FormatUint(uint64(st.Gid), 10))
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" '%s'", g.Name)
}
