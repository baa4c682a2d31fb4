package storage

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// mountFlags are the options that mount(2) takes as flags.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nodev": unix.MS_NODEV, "nosuid": unix.MS_NOSUID, "noexec": unix.MS_NOEXEC, "sync": unix.MS_SYNCHRONOUS,
	"dirsync": unix.MS_DIRSYNC, "noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"strictatime": unix.MS_STRICTATIME, "lazytime": unix.MS_LAZYTIME, "mand": unix.MS_MANDLOCK,
}

// alwaysFlags are those that every pool is mounted with, as with libvirt: its files are images, for which nobody needs
// devices, setuid bits or execution.
const alwaysFlags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC

// refusedOptions would undo alwaysFlags, make another kind of mount, or mean something to the program mount only.
var refusedOptions = map[string]string{
	"dev": "a pool is always mounted with nodev", "suid": "a pool is always mounted with nosuid", "exec": "a pool is always mounted with noexec",
	"bind": "", "rbind": "", "move": "", "remount": "", "shared": "", "slave": "", "private": "", "unbindable": "",
	"loop": "an image file gets its loop device by itself", "defaults": "leave it out", "rw": "it is what happens without 'ro'",
	"async": "it is what happens without 'sync'", "auto": "use pool-autostart", "noauto": "use pool-autostart", "nofail": "", "_netdev": "",
	"user": "", "users": "", "owner": "", "group": "",
}

// dataOption is the form of an option for the file system itself. A comma would begin another one. Most hosts need none, and it
// takes 140 KB.
var dataOption = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-zA-Z0-9_.:+-]{1,64}(=[a-zA-Z0-9_.:+/-]{1,256})?$`)
})

// checkMountOption refuses what cannot be an option of a pool's mount.
func checkMountOption(name string) error {
	if why, refused := refusedOptions[name]; refused {
		if why == "" {
			why = "it means nothing for a pool"
		}
		return fmt.Errorf("mount option '%s' is not supported: %s", name, why)
	}
	if !dataOption().MatchString(name) || strings.HasPrefix(name, "x-") || strings.HasPrefix(name, "X-") {
		return fmt.Errorf("mount option '%s' is not supported: write one NAME or NAME=VALUE that the file system knows", name)
	}
	return nil
}

// mountOptions splits options into what mount(2) takes.
func mountOptions(options []string) (flags uintptr, data string) {
	flags = alwaysFlags
	var own []string
	for _, o := range options {
		if f, ok := mountFlags[o]; ok {
			flags |= f
		} else {
			own = append(own, o)
		}
	}
	return flags, strings.Join(own, ",")
}
