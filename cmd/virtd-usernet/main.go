package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"

	"virtd/network/usernet"
	"virtd/network/usernet/gateway"
	"virtd/release"
)

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("virtd-usernet " + release.Version)
		return
	}
	if _, err := unix.FcntlInt(usernet.FDStatus, unix.F_GETFD, 0); err != nil {
		fmt.Fprintln(os.Stderr, "virtd-usernet: virtd starts this program for interfaces of type user; there is nothing to do with it by hand")
		os.Exit(2)
	}
	debug.SetGCPercent(50) // one of them for each guest
	debug.SetTraceback("single")
	if err := gateway.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "virtd-usernet:", err)
		os.Exit(1)
	}
}
