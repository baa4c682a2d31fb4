package services

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"virtd/network/confine"
	"virtd/network/dhcp"
	"virtd/network/dns"
)

// Run is the child: it serves until it is killed. Everything that lasts is on disk before a guest hears of it, so there is
// nothing to end in order.
func Run() error {
	in := os.NewFile(fdConfig, "configuration")
	var s start
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	in.Close()
	files := map[string]*os.File{}
	for i, name := range s.Files {
		fd := firstFile + i
		unix.CloseOnExec(fd)
		if err := unix.SetNonblock(fd, true); err != nil && !strings.HasPrefix(name, dirTFTP) { // which is only a place
			return fmt.Errorf("descriptor %s: %w", name, err)
		}
		files[name] = os.NewFile(uintptr(fd), name)
	}
	control, err := net.FileListener(os.NewFile(fdControl, "control"))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	c := &child{cfg: s.Config, log: &limitedLog{out: os.Stderr, now: time.Now}}
	if err := c.open(files); err != nil {
		return err
	}
	dirs := slices.Clone(confine.ResolverDirs)
	if c.files != nil {
		dirs = append(dirs, fmt.Sprintf("/proc/self/fd/%d", c.files.Fd()))
	}
	missing, err := confine.Apply(dirs)
	if err != nil {
		return err
	}
	for _, m := range missing {
		c.log.printf("the services of network %s run without protection: %s", s.Config.Name, m)
	}
	return c.serve(control)
}

// child is the services of one network.
type child struct {
	log *limitedLog

	mu    sync.Mutex // guards cfg and lease
	cfg   Config
	lease *dhcp.Server

	journal  *dhcp.Journal
	dhcpConn *net.UDPConn
	frames   *os.File

	lease6   *dhcp.Server
	journal6 *dhcp.Journal
	dhcp6    *net.UDPConn

	resolver *dns.Resolver
	udp      []*net.UDPConn
	tcp      []net.Listener
	ra       *net.IPConn

	tftp  *net.UDPConn
	files *os.File // the directory of files to boot from, which is only a place
}

// open turns descriptors into what the loops work with.
func (c *child) open(files map[string]*os.File) error {
	if c.cfg.DHCP != nil {
		if err := c.openDHCP(files); err != nil {
			return err
		}
	}
	if c.cfg.DHCP6 != nil {
		if err := c.openDHCP6(files); err != nil {
			return err
		}
	}
	if c.cfg.DNS != nil {
		c.resolver = dns.New(*c.cfg.DNS, c, dns.HostResolvers)
	}
	for _, name := range c.cfg.sockets() {
		f := files[name]
		if f == nil {
			return fmt.Errorf("descriptor %s is missing", name)
		}
		var err error
		switch {
		case len(name) > len(socketUDP) && name[:len(socketUDP)] == socketUDP:
			var p net.PacketConn
			if p, err = net.FilePacketConn(f); err == nil {
				c.udp = append(c.udp, p.(*net.UDPConn))
			}
		case len(name) > len(socketTCP) && name[:len(socketTCP)] == socketTCP:
			var l net.Listener
			if l, err = net.FileListener(f); err == nil {
				c.tcp = append(c.tcp, l)
			}
		case strings.HasPrefix(name, dirTFTP):
			c.files = f
		case strings.HasPrefix(name, socketTFTP):
			var p net.PacketConn
			if p, err = net.FilePacketConn(f); err == nil {
				c.tftp = p.(*net.UDPConn)
			}
		case name == socketRA:
			var p net.PacketConn
			if p, err = net.FilePacketConn(f); err == nil {
				c.ra = p.(*net.IPConn)
			}
		}
		if err != nil {
			return fmt.Errorf("descriptor %s: %w", name, err)
		}
	}
	return nil
}

func (c *child) openDHCP(files map[string]*os.File) error {
	p, err := net.FilePacketConn(files[socketDHCP])
	if err != nil {
		return fmt.Errorf("DHCP socket: %w", err)
	}
	c.dhcpConn, c.frames = p.(*net.UDPConn), files[socketFrames]
	if c.journal, err = dhcp.OpenJournal([2]*os.File{files[fileLeases+"0"], files[fileLeases+"1"]}); err != nil {
		return err
	}
	c.lease = dhcp.New(*c.cfg.DHCP, c.journal, c.journal.Leases(), time.Now)
	return nil
}

func (c *child) openDHCP6(files map[string]*os.File) error {
	p, err := net.FilePacketConn(files[socketDHCP6])
	if err != nil {
		return fmt.Errorf("DHCPv6 socket: %w", err)
	}
	c.dhcp6 = p.(*net.UDPConn)
	if c.journal6, err = dhcp.OpenJournal([2]*os.File{files[fileLeases6+"0"], files[fileLeases6+"1"]}); err != nil {
		return err
	}
	c.lease6 = dhcp.New(*c.cfg.DHCP6, c.journal6, c.journal6.Leases(), time.Now)
	return nil
}

// serve runs the loops until one of them fails, which is for the supervisor to deal with: by a new child.
func (c *child) serve(control net.Listener) error {
	failed := make(chan error, 16)
	run := func(what string, f func() error) {
		go func() { failed <- fmt.Errorf("%s: %w", what, f()) }()
	}
	if c.dhcpConn != nil {
		run("DHCP", c.serveDHCP)
	}
	if c.dhcp6 != nil {
		run("DHCPv6", c.serveDHCP6)
	}
	for _, conn := range c.udp {
		run("DNS", func() error { return c.resolver.ServeUDP(conn) })
	}
	for _, l := range c.tcp {
		run("DNS over TCP", func() error { return c.resolver.ServeTCP(l) })
	}
	if c.tftp != nil {
		run("TFTP", c.serveTFTP)
	}
	if c.ra != nil {
		run("router advertisements", c.serveRA)
	}
	run("control", func() error { return c.serveControl(control) })
	return <-failed
}

// serveControl answers virtd, one connection at a time.
func (c *child) serveControl(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		c.answer(conn)
		conn.Close()
	}
}

// maxControl bounds a request, in bytes.
const maxControl = 16 << 20

func (c *child) answer(conn net.Conn) {
	if conn.SetDeadline(time.Now().Add(10*time.Second)) != nil {
		return
	}
	var req request
	if err := json.NewDecoder(&bounded{bufio.NewReader(conn), maxControl}).Decode(&req); err != nil {
		return
	}
	resp := c.do(req)
	if err := json.NewEncoder(conn).Encode(resp); err != nil {
		c.log.printf("virtd went away: %v", err)
	}
}

type bounded struct {
	r    *bufio.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("too long")
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

func (c *child) do(req request) response {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch req.Op {
	case opLeases:
		var out response
		for _, s := range []*dhcp.Server{c.lease, c.lease6} {
			if s != nil {
				out.Leases = append(out.Leases, s.Leases()...)
			}
		}
		return out
	case opConfigure:
		if req.Config == nil || !req.Config.sameSockets(c.cfg) {
			return response{Error: "this change needs another process"}
		}
		c.cfg = *req.Config
		if c.lease != nil {
			c.lease.SetConfig(*c.cfg.DHCP)
		}
		if c.lease6 != nil {
			c.lease6.SetConfig(*c.cfg.DHCP6)
		}
		if c.resolver != nil {
			c.resolver.SetConfig(*c.cfg.DNS)
		}
		return response{}
	}
	return response{Error: "unknown request " + req.Op}
}
