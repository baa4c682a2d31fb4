package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// config is everything that can be set. The configuration file has the names in the tags of settings; flags win over it.
type config struct {
	Session      bool
	StateDir     string // definitions; survives a boot
	ImagesDir    string // of the pool named default
	RunDir       string // records of running domains, engines' sockets; does not
	LogDir       string // engines' logs
	SocketDir    string // where clients connect
	SocketGroup  string // who may manage, besides root and virtd's own user; empty: nobody else
	SocketMode   fs.FileMode
	SocketROMode fs.FileMode
	Emulator     string
	LogLevel     string

	MaxClients        int
	MaxPerUser        int
	ParallelCalls     int
	KeepaliveInterval int // seconds; -1: never
	KeepaliveCount    int

	MaxAnonymous int // connections that have yet to prove who they are

	TLS  tlsConfig
	TCP  tcpConfig
	Auth authConfig

	OpenFirewalls bool // packet filters of others let networks through
	LowLatency    bool // CPUs are kept awake at the beginning of bursts of changes

	UIDBase, UIDCount int
	ConsoleLogMax     int64
	DrainTime         time.Duration // for calls under way when the daemon is told to stop
}

// defaultConfigFile is read when it exists and no other is named.
const defaultConfigFile = "/etc/virtd/virtd.conf"

// systemRunDir is that of the system's virtd.
const systemRunDir = "/run/virtd"

// defaultGroup is the group whose members may manage, where it exists: libvirt's, so that users need not be added twice.
const defaultGroup = "libvirt"

// defaults are the settings of the system's daemon, or of one user's.
func defaults(session bool, env func(string) string, home string) (config, error) {
	c := config{
		Session: session, LogLevel: "info", MaxClients: 5000, MaxPerUser: 500, ParallelCalls: 5,
		KeepaliveInterval: 5, KeepaliveCount: 5, ConsoleLogMax: 16 << 20, DrainTime: 10 * time.Second,
		// Anyone may connect: who may manage is decided by the peer's credentials, and others are told which group is missing.
		SocketMode: 0o666, SocketROMode: 0o666, SocketGroup: defaultGroup,
		LowLatency: true,
		TLS:        defaultTLS, TCP: defaultTCP, Auth: defaultAuth, MaxAnonymous: 20,
	}
	if !session {
		c.StateDir, c.RunDir, c.LogDir, c.SocketDir = "/var/lib/virtd", systemRunDir, "/var/log/virtd", "/run/libvirt"
		c.ImagesDir = "/var/lib/libvirt/images" // libvirt's, where tools and people look
		return c, nil
	}
	runtime := env("XDG_RUNTIME_DIR")
	if runtime == "" {
		return c, errors.New("XDG_RUNTIME_DIR is not set: log in through the system's session manager, or set --run-dir and --socket-dir")
	}
	data := env("XDG_DATA_HOME")
	if data == "" {
		data = filepath.Join(home, ".local/share")
	}
	c.StateDir, c.LogDir = filepath.Join(data, "virtd"), filepath.Join(data, "virtd/log")
	c.RunDir, c.SocketDir = filepath.Join(runtime, "virtd"), filepath.Join(runtime, "libvirt")
	c.ImagesDir = filepath.Join(data, "libvirt/images")
	c.SocketMode, c.SocketROMode, c.SocketGroup = 0o600, 0o600, ""
	return c, nil
}

// settings are the names in the configuration file. Where libvirtd.conf has the same setting the name is the same.
var settings = map[string]func(*config, string) error{
	"state_dir":              text(func(c *config) *string { return &c.StateDir }),
	"images_dir":             text(func(c *config) *string { return &c.ImagesDir }),
	"run_dir":                text(func(c *config) *string { return &c.RunDir }),
	"log_dir":                text(func(c *config) *string { return &c.LogDir }),
	"unix_sock_dir":          text(func(c *config) *string { return &c.SocketDir }),
	"unix_sock_group":        text(func(c *config) *string { return &c.SocketGroup }),
	"unix_sock_rw_perms":     mode(func(c *config) *fs.FileMode { return &c.SocketMode }),
	"unix_sock_ro_perms":     mode(func(c *config) *fs.FileMode { return &c.SocketROMode }),
	"emulator":               text(func(c *config) *string { return &c.Emulator }),
	"log_level":              text(func(c *config) *string { return &c.LogLevel }),
	"max_clients":            number(1, 1<<20, func(c *config) *int { return &c.MaxClients }),
	"max_clients_per_user":   number(1, 1<<20, func(c *config) *int { return &c.MaxPerUser }),
	"max_client_requests":    number(1, 1000, func(c *config) *int { return &c.ParallelCalls }),
	"keepalive_interval":     number(-1, 3600, func(c *config) *int { return &c.KeepaliveInterval }),
	"keepalive_count":        number(1, 1000, func(c *config) *int { return &c.KeepaliveCount }),
	"engine_uid_base":        number(1, 1<<31-1, func(c *config) *int { return &c.UIDBase }),
	"engine_uid_count":       number(1, 1<<20, func(c *config) *int { return &c.UIDCount }),
	"open_foreign_firewalls": onOff(func(c *config) *bool { return &c.OpenFirewalls }),
	"low_latency":            onOff(func(c *config) *bool { return &c.LowLatency }),
	"console_log_max": func(c *config, v string) error {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil || n < 0 {
			return fmt.Errorf("'%s' is not a size in bytes", v)
		}
		c.ConsoleLogMax = n
		return nil
	},
}

func text(field func(*config) *string) func(*config, string) error {
	return func(c *config, v string) error { *field(c) = v; return nil }
}

func number(low, high int, field func(*config) *int) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := strconv.Atoi(v)
		if err != nil || n < low || n > high {
			return fmt.Errorf("'%s' is not a number from %d to %d", v, low, high)
		}
		*field(c) = n
		return nil
	}
}

func mode(field func(*config) *fs.FileMode) func(*config, string) error {
	return func(c *config, v string) error {
		n, err := strconv.ParseUint(v, 8, 12)
		if err != nil || n > 0o777 {
			return fmt.Errorf("'%s' is not an octal file mode such as 0770", v)
		}
		*field(c) = fs.FileMode(n)
		return nil
	}
}

// read applies a configuration file: lines of "name = value", the value in quotes or not, or a list in brackets that may go
// on over further lines; comments after #. A name that does not exist is an error: a typing mistake in an access setting must
// not pass.
func (c *config) read(r io.Reader, name string) error {
	sc := bufio.NewScanner(r)
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key = strings.TrimSpace(key)
		set := settings[key]
		if !ok {
			return fmt.Errorf("%s:%d: want name = value", name, n)
		}
		if set == nil {
			return fmt.Errorf("%s:%d: there is no setting '%s'", name, n, key)
		}
		value = strings.TrimSpace(value)
		if strings.HasPrefix(value, "[") {
			value, n = wholeList(value, sc, n)
		}
		v, err := unquote(value)
		if err == nil {
			err = set(c, v)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %s: %w", name, n, key, err)
		}
	}
	return sc.Err()
}

// wholeList adds the following lines to a list until it is closed, and returns it without comments, with the number of the
// last line read.
func wholeList(value string, sc *bufio.Scanner, n int) (string, int) {
	for value = uncomment(value); !strings.HasSuffix(value, "]") && sc.Scan(); n++ {
		value = strings.TrimSpace(value + " " + uncomment(sc.Text()))
	}
	return value, n
}

// uncomment removes a comment that is not within double quotes.
func uncomment(line string) string {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '\\' && quoted:
			i++ // whatever follows is part of the string
		case line[i] == '"':
			quoted = !quoted
		case line[i] == '#' && !quoted:
			return strings.TrimSpace(line[:i])
		}
	}
	return strings.TrimSpace(line)
}

// unquote takes a value in double quotes, a list as it is, or a bare value up to a comment.
func unquote(v string) (string, error) {
	if strings.HasPrefix(v, "[") {
		return v, nil
	}
	if strings.HasPrefix(v, `"`) {
		end := strings.IndexByte(v[1:], '"')
		if end < 0 {
			return "", errors.New("the closing quote is missing")
		}
		if rest := strings.TrimSpace(v[end+2:]); rest != "" && rest[0] != '#' {
			return "", fmt.Errorf("'%s' follows the value", rest)
		}
		return v[1 : end+1], nil
	}
	v, _, _ = strings.Cut(v, "#")
	return strings.TrimSpace(v), nil
}

// readFile reads the named configuration file, or the default one where that exists.
func (c *config) readFile(name string) error {
	optional := name == ""
	if optional {
		if c.Session {
			return nil
		}
		name = defaultConfigFile
	}
	f, err := os.Open(name)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	defer f.Close()
	return c.read(f, name)
}
