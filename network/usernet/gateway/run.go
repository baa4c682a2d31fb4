package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/containers/gvisor-tap-vsock/pkg/types"
	"github.com/containers/gvisor-tap-vsock/pkg/virtualnetwork"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"virtd/network/confine"
	"virtd/network/usernet"
)

// Run serves one guest until its engine closes the socket. The descriptors are those that usernet.Supervisor passes.
func Run() error {
	logrus.SetOutput(io.Discard) // the library logs what guests do, as often as they do it
	status := os.NewFile(usernet.FDStatus, "status")
	unix.CloseOnExec(usernet.FDStatus)
	socket, n, err := open()
	var missing []string
	if err == nil {
		missing, err = confine.Apply(confine.ResolverDirs)
	}
	report := usernet.Report{Missing: missing}
	if err != nil {
		report.Error = explain(err)
	}
	if werr := json.NewEncoder(status).Encode(report); err == nil && werr != nil {
		err = fmt.Errorf("virtd does not listen: %w", werr) // and so has no record of this process
	}
	status.Close()
	if err != nil {
		return err
	}
	err = n.AcceptQemu(context.Background(), socket)
	if socket.ended() {
		return nil // the engine has
	}
	return err
}

// open reads the configuration and makes the network, with the ports that it listens on.
func open() (*guard, *virtualnetwork.VirtualNetwork, error) {
	in := os.NewFile(usernet.FDConfig, "configuration")
	defer in.Close()
	var c usernet.Config
	if err := json.NewDecoder(in).Decode(&c); err != nil {
		return nil, nil, fmt.Errorf("read the configuration: %w", err)
	}
	cfg, err := configuration(&c)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(usernet.FDSocket, "engine")
	conn, err := net.FileConn(f)
	f.Close()
	if err != nil {
		return nil, nil, fmt.Errorf("the engine's socket: %w", err)
	}
	n, err := virtualnetwork.New(cfg)
	if err != nil {
		return nil, nil, err
	}
	return newGuard(conn), n, nil
}

// defaultMTU is Ethernet's: larger ones would save work, and a guest that is moved to another network would keep them.
const defaultMTU = 1500

// configuration is what the library needs for a network.
func configuration(c *usernet.Config) (*types.Configuration, error) {
	p := c.Plan()
	forwards, err := c.Forwards()
	if err != nil {
		return nil, err
	}
	mtu := c.MTU
	if mtu == 0 {
		mtu = defaultMTU
	}
	return &types.Configuration{
		MTU: mtu, Subnet: p.Guest.Masked().String(), GatewayIP: p.Router.String(), GatewayMacAddress: "52:55:0a:00:02:02",
		DHCPStaticLeases: map[string]string{p.Guest.Addr().String(): c.MAC}, Forwards: forwards,
		NAT: map[string]string{p.Host.String(): "127.0.0.1"}, GatewayVirtualIPs: []string{p.Host.String()},
	}, nil
}

// explain adds what a user can do about the commonest failures.
func explain(err error) string {
	switch {
	case errors.Is(err, unix.EADDRINUSE):
		return err.Error() + " (something on the host has the port; choose another in <portForward>)"
	case errors.Is(err, unix.EACCES):
		return err.Error() + " (ports below net.ipv4.ip_unprivileged_port_start are for privileged programs; choose a higher one in <portForward>)"
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return err.Error() + " (the host does not have that address)"
	}
	return strings.TrimSpace(err.Error())
}
