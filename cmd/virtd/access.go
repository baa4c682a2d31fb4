package main

import (
	"fmt"
	"os"
	"os/user"
	"strconv"

	"virtd/rpc"
	"virtd/virterr"
)

// policies say who may do what: everyone may look, where the socket's mode lets them connect; root, virtd's own user and the
// members of the group may manage. Where passwords are asked for, they are asked for as well.
func policies(cfg config) (manage, look rpc.Policy, err error) {
	gid, ok, err := lookupGroup(cfg.SocketGroup)
	if err != nil {
		return manage, look, err
	}
	own := uint32(os.Geteuid())
	look = rpc.Policy{ReadOnly: true, SASL: authenticator(cfg, cfg.Auth.UnixRO)}
	manage = rpc.Policy{SASL: authenticator(cfg, cfg.Auth.UnixRW), Admit: func(p rpc.Peer) error {
		if !p.Known {
			return refusal("the kernel does not say who is connecting")
		}
		if p.UID == 0 || p.UID == own || ok && p.InGroup(gid) {
			return nil
		}
		who := userName(p.UID)
		switch {
		case cfg.Session:
			return refusal(fmt.Sprintf("user %s: this daemon serves %s only", who, userName(own)))
		case !ok:
			return refusal(fmt.Sprintf("user %s may not manage guests: only root may, as no group is set that may "+
				"(unix_sock_group in %s); to look, connect read-only (virsh -r)", who, defaultConfigFile))
		}
		return refusal(fmt.Sprintf("user %s may not manage guests: not in group '%s' (usermod -aG %s USER, then log in again); "+
			"to look, connect read-only (virsh -r)", who, cfg.SocketGroup, cfg.SocketGroup))
	}}
	return manage, look, nil
}

func refusal(text string) error {
	return virterr.NewFrom(virterr.FromRPC, virterr.AuthFailed, "%s", text)
}

// userName is for texts: the name where there is one, and the number.
func userName(uid uint32) string {
	n := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(n); err == nil {
		return fmt.Sprintf("'%s' (uid %s)", u.Username, n)
	}
	return "with uid " + n
}
