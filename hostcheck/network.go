package hostcheck

import (
	"io/fs"
	"slices"
	"strings"
)

// setting reads a switch of the kernel, "" where there is none.
func setting(h Host, path string) string {
	text, err := fs.ReadFile(h.Root, path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// checkLegacyRules looks for packet filters that nftables does not show, because they were made through the old interface.
func checkLegacyRules(h Host) Finding {
	const name = "iptables-legacy"
	tables := strings.Fields(setting(h, "proc/net/ip_tables_names") + " " + setting(h, "proc/net/ip6_tables_names"))
	if len(tables) == 0 {
		return Finding{name, Pass, "no rules of the old interface", ""}
	}
	slices.Sort(tables)
	return Finding{name, Warn, "tables of iptables-legacy are loaded, whose rules virtd does not see: " + strings.Join(slices.Compact(tables), ", "),
		"look for what stops guests with iptables-legacy -S FORWARD, or move the rules to nftables with iptables-legacy-save | iptables-nft-restore"}
}

// checkForwarding says whether the host forwards packets.
func checkForwarding(h Host) Finding {
	const name = "forwarding"
	var off []string
	for what, path := range map[string]string{"net.ipv4.ip_forward": "proc/sys/net/ipv4/ip_forward", "net.ipv6.conf.all.forwarding": "proc/sys/net/ipv6/conf/all/forwarding"} {
		if setting(h, path) == "0" {
			off = append(off, what)
		}
	}
	if len(off) == 0 {
		return Finding{name, Pass, "the host forwards packets", ""}
	}
	slices.Sort(off)
	return Finding{name, Pass, strings.Join(off, " and ") + " off: a network of mode nat, route or open that needs it switches it on when it starts",
		"sysctl -w " + strings.Join(off, "=1 ") + "=1, and a file in /etc/sysctl.d to have it from the boot on"}
}

// checkReversePath looks for the strict filter of sources (RFC 3704), which drops what comes another way than answers go.
func checkReversePath(h Host) Finding {
	const name = "rp-filter"
	if setting(h, "proc/sys/net/ipv4/conf/all/rp_filter") != "1" {
		return Finding{name, Pass, "sources are not filtered strictly", ""}
	}
	return Finding{name, Warn, "net.ipv4.conf.all.rp_filter is 1: packets to routed networks that come another way than answers go are dropped",
		"sysctl -w net.ipv4.conf.all.rp_filter=2"}
}

// checkBridgeFilter looks whether frames between guests on a bridge go through the host's packet filter.
func checkBridgeFilter(h Host) Finding {
	const name = "bridge-nf"
	if setting(h, "proc/sys/net/bridge/bridge-nf-call-iptables") != "1" && setting(h, "proc/sys/net/bridge/bridge-nf-call-ip6tables") != "1" {
		return Finding{name, Pass, "frames on bridges do not go through the packet filter of IP", ""}
	}
	return Finding{name, Warn, "net.bridge.bridge-nf-call-iptables is 1: frames between guests on a bridge go through the host's packet filter, which may drop them",
		"sysctl -w net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0, unless containers on this host need it: then accept bridged frames, iptables -I FORWARD -m physdev --physdev-is-bridged -j ACCEPT"}
}

// networkModules are what networks and interfaces can need of the kernel, and for what.
var networkModules = []struct{ module, without string }{
	{"bridge", "no bridges"}, {"tun", "no taps"}, {"vhost_net", "no vhost"}, {"nf_tables", "no networks of mode nat or route, no filters"},
	{"sch_htb", "no inbound bandwidth"}, {"sch_ingress", "no outbound bandwidth"}, {"cls_u32", "no outbound bandwidth"}, {"act_police", "no outbound bandwidth"},
}

// checkNetworkModules looks for modules that the running kernel has neither built in nor beside it.
func checkNetworkModules(h Host) Finding {
	const name = "network-modules"
	release := setting(h, "proc/sys/kernel/osrelease")
	dir := "lib/modules/" + release + "/"
	builtin, derr := fs.ReadFile(h.Root, dir+"modules.builtin")
	files, err := fs.ReadFile(h.Root, dir+"modules.dep")
	if release == "" || err != nil && derr != nil {
		return Finding{name, Pass, "this kernel has no list of its modules: what is missing is said when it is needed", ""}
	}
	have := map[string]bool{}
	for line := range strings.Lines(string(builtin) + "\n" + string(files)) {
		path, _, _ := strings.Cut(strings.TrimSpace(line), ":")
		base, _, _ := strings.Cut(path[strings.LastIndex(path, "/")+1:], ".ko")
		have[strings.ReplaceAll(base, "-", "_")] = true
	}
	var missing, without []string
	for _, m := range networkModules {
		if !have[m.module] {
			missing = append(missing, m.module)
			if !slices.Contains(without, m.without) {
				without = append(without, m.without)
			}
		}
	}
	if len(missing) == 0 {
		return Finding{name, Pass, "the kernel has all that networks need", ""}
	}
	return Finding{name, Warn, "kernel " + release + " has no " + strings.Join(missing, ", ") + ": " + strings.Join(without, ", "),
		"install the package with the rest of this kernel's modules (linux-modules-extra, kernel-modules-extra), or build them"}
}
