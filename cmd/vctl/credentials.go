package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// credentials are a name and a password, each "" where nothing says it.
type credentials struct{ name, password string }

// credentials finds out who the user is when the daemon asks: from the URI (qemu+tcp://NAME@HOST), libvirt's file of
// credentials, or the terminal.
func (t target) credentials() (name, password string, err error) {
	known, err := t.storedCredentials()
	if err != nil {
		return "", "", err
	}
	if t.uri.User != nil && t.uri.User.Username() != "" {
		if n := t.uri.User.Username(); n != known.name {
			known = credentials{name: n}
		}
	}
	if known.name == "" {
		if known.name, err = promptLine("Please enter your authentication name: "); err != nil {
			return "", "", err
		}
	}
	if known.password == "" {
		if known.password, err = promptSecret("Please enter your password: "); err != nil {
			return "", "", err
		}
	}
	return known.name, known.password, nil
}

// storedCredentials looks into the file that the URI or the environment names, else into libvirt's usual two.
func (t target) storedCredentials() (credentials, error) {
	files := []string{t.uri.Query().Get("authfile")}
	if files[0] == "" {
		files[0] = os.Getenv("LIBVIRT_AUTH_FILE")
	}
	asked := files[0] != ""
	if !asked {
		files = files[:0]
		if dir, err := os.UserConfigDir(); err == nil {
			files = append(files, filepath.Join(dir, "libvirt", "auth.conf"))
		}
		files = append(files, "/etc/libvirt/auth.conf")
	}
	host := t.uri.Hostname()
	if host == "" {
		host = "localhost"
	}
	for _, name := range files {
		f, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) && !asked {
			continue
		}
		if err != nil {
			return credentials{}, fmt.Errorf("read the credentials: %w", err)
		}
		defer f.Close()
		c, err := parseCredentials(f, host)
		if err != nil {
			return c, fmt.Errorf("read the credentials in %s: %w", name, err)
		}
		return c, nil
	}
	return credentials{}, nil
}

// parseCredentials reads libvirt's auth.conf: groups [credentials-X] with authname and password, and groups
// [auth-libvirt-HOST] whose "credentials = X" says which of them HOST gets; HOST "default" is for all others.
func parseCredentials(in io.Reader, host string) (credentials, error) {
	groups := map[string]map[string]string{}
	var group map[string]string
	sc := bufio.NewScanner(io.LimitReader(in, 1<<20))
	for n := 1; sc.Scan(); n++ {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' || line[0] == ';' {
			continue
		}
		if name, ok := strings.CutPrefix(line, "["); ok {
			group = map[string]string{}
			groups[strings.TrimSuffix(name, "]")] = group
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		if !ok || group == nil {
			return credentials{}, fmt.Errorf("line %d is not \"name=value\" in a group", n)
		}
		group[strings.TrimSpace(key)] = strings.TrimSpace(value)
	}
	use := groups["auth-libvirt-"+host]["credentials"]
	if use == "" {
		use = groups["auth-libvirt-default"]["credentials"]
	}
	c := groups["credentials-"+use]
	return credentials{c["authname"], c["password"]}, sc.Err()
}

// errNobodyToAsk says that credentials are missing and that there is no terminal.
var errNobodyToAsk = errors.New("the daemon asks for a name and a password; give them in a file (authfile= in the URI, see vctl(8)), or on a terminal")

// terminal is where the user can be asked, whatever standard input and output are.
func terminal() (*os.File, error) {
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil, errNobodyToAsk
	}
	return f, nil
}

func promptLine(text string) (string, error) {
	tty, err := terminal()
	if err != nil {
		return "", err
	}
	defer tty.Close()
	fmt.Fprint(tty, text)
	line, err := bufio.NewReader(io.LimitReader(tty, 4096)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the name: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

func promptSecret(text string) (string, error) {
	tty, err := terminal()
	if err != nil {
		return "", err
	}
	defer tty.Close()
	fmt.Fprint(tty, text)
	secret, err := term.ReadPassword(int(tty.Fd()))
	fmt.Fprintln(tty)
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	return string(secret), nil
}
