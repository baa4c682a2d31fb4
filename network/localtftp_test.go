package network_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestRealTFTP: a guest is told what to boot and reads it from the confined services; links and names that lead out of the
// directory find nothing.
func TestRealTFTP(t *testing.T) {
	dir := shortDir(t)
	host := localHost(t, dir)
	m := openManager(t, host, dir)
	root := filepath.Join(dir, "boot") // the services cannot reach it by its path
	ok(t, os.MkdirAll(filepath.Join(root, "sub"), 0o755))
	kernel := bytes.Repeat([]byte("kernel"), 5000)
	for name, text := range map[string][]byte{"boot/sub/vmlinuz": kernel, "secret": []byte("secret")} {
		ok(t, os.WriteFile(filepath.Join(dir, name), text, 0o644))
	}
	ok(t, os.Symlink("../secret", filepath.Join(root, "out")))
	ok(t, os.Symlink(filepath.Join(dir, "secret"), filepath.Join(root, "away")))
	ok(t, os.Symlink("sub/vmlinuz", filepath.Join(root, "linux")))
	n, err := m.Create(`<network><name>pxe</name><bridge name='tbr7' stp='off'/><ip address='10.97.0.1' prefix='24'><tftp root='` + root + `'/>
<dhcp><range start='10.97.0.50' end='10.97.0.60'/><bootp file='linux'/></dhcp></ip></network>`)
	ok(t, err)
	t.Cleanup(func() { ok(t, n.Destroy()) })
	g := newGuest(t, "booter", "52:54:00:00:00:07")
	ok(t, host.Plug("tbr7", "booter", false))
	ack := g.lease(t, "booter")
	if ack.BootFileName != "linux" || ack.ServerIPAddr.String() != "10.97.0.1" {
		t.Errorf("boot file %q of %s", ack.BootFileName, ack.ServerIPAddr)
	}
	for name, want := range map[string]string{
		"linux": string(kernel), "/sub/vmlinuz": string(kernel), `sub\vmlinuz`: string(kernel),
		"out": "file not found", "away": "file not found", "../secret": "file not found", "/etc/passwd": "file not found", "sub": "file not found",
	} {
		g.run(t, func() error {
			got, err := readBootFile("10.97.0.1:69", name)
			if err == nil && got != want {
				err = fmt.Errorf("%q: %d bytes, %.40q", name, len(got), got)
			}
			return err
		})
	}
}

// readBootFile reads a file as a boot ROM does, and returns its content or what the server says.
func readBootFile(server, name string) (string, error) {
	at, err := net.ResolveUDPAddr("udp4", server)
	if err != nil {
		return "", err
	}
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := conn.WriteToUDP([]byte("\x00\x01"+name+"\x00octet\x00blksize\x001400\x00"), at); err != nil {
		return "", err
	}
	var out strings.Builder
	buf := make([]byte, 2000)
	for {
		if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
			return "", err
		}
		size, from, err := conn.ReadFromUDP(buf)
		switch {
		case err != nil:
			return "", err
		case size < 4:
			return "", errors.New("a short packet")
		case buf[1] == 5:
			return string(buf[4 : size-1]), nil
		}
		number := []byte{buf[2], buf[3]}
		if buf[1] == 6 {
			number = []byte{0, 0}
		} else {
			out.Write(buf[4:size])
		}
		if _, err := conn.WriteToUDP(append([]byte{0, 4}, number...), from); err != nil {
			return "", err
		}
		if buf[1] == 3 && size-4 < 1400 {
			return out.String(), nil
		}
	}
}
