package dns

import (
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

// hostFile says whom the host asks (resolv.conf(5)).
const hostFile = "/etc/resolv.conf"

// rereadAfter is how old what was read of hostFile may be.
const rereadAfter = 5 * time.Second

var hostCache struct {
	sync.Mutex
	read  time.Time
	addrs []netip.Addr
}

// HostResolvers returns the resolvers of the host.
func HostResolvers() []netip.Addr {
	hostCache.Lock()
	defer hostCache.Unlock()
	if time.Since(hostCache.read) < rereadAfter {
		return hostCache.addrs
	}
	if text, err := os.ReadFile(hostFile); err == nil { // else those of before
		hostCache.addrs = parseResolvConf(string(text))
	}
	hostCache.read = time.Now()
	return hostCache.addrs
}

// parseResolvConf returns the resolvers that a file names, three at most, as the C library does.
func parseResolvConf(text string) []netip.Addr {
	var out []netip.Addr
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(out) == 3 {
			continue
		}
		if a, err := netip.ParseAddr(f[1]); err == nil {
			out = append(out, a)
		}
	}
	return out
}
