package qmp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Descriptors reach the engine with the line that names them, however long it is, and stay open here.
func TestDescriptorsOfALongLine(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range pair {
		f := os.NewFile(uintptr(fd), "socket")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
		t.Cleanup(func() { c.Close() })
	}
	content := make(chan string, 2)
	go serveFiles(conns[1], content)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c, err := New(ctx, conns[0], func(Event) {})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	var files []*os.File
	for _, text := range []string{"one", "two"} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		fmt.Fprint(w, text)
		w.Close()
		files = append(files, r)
	}
	if err := c.ExecuteFiles(ctx, "take", map[string]string{"padding": strings.Repeat("x", 500_000)}, files, nil); err != nil {
		t.Fatal(err)
	}
	if a, b := <-content, <-content; a != "one" || b != "two" {
		t.Errorf("the engine read %q and %q", a, b)
	}
	if _, err := files[0].Stat(); err != nil {
		t.Errorf("a descriptor was closed here: %v", err)
	}
	if err := c.ExecuteFiles(ctx, "plain", nil, nil, nil); err != nil {
		t.Errorf("without files: %v", err)
	}
}

func TestDescriptorsNeedAUnixSocket(t *testing.T) {
	c := client(t, engine(t, func(map[string]json.RawMessage) string { return "" }), func(Event) {})
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := c.ExecuteFiles(context.Background(), "take", nil, []*os.File{f}, nil); err == nil || !strings.Contains(err.Error(), "unix socket") {
		t.Errorf("over a pipe: %v", err)
	}
}

// serveFiles is an engine that answers everything, and tells what descriptors that came hold.
func serveFiles(c *net.UnixConn, content chan<- string) {
	fmt.Fprint(c, greeting)
	var text bytes.Buffer
	p, oob := make([]byte, 64<<10), make([]byte, 1024)
	for {
		n, oobn, _, _, err := c.ReadMsgUnix(p, oob)
		if err != nil || n == 0 {
			return
		}
		text.Write(p[:n])
		if messages, _ := unix.ParseSocketControlMessage(oob[:oobn]); len(messages) == 1 {
			fds, _ := unix.ParseUnixRights(&messages[0])
			for _, fd := range fds {
				f := os.NewFile(uintptr(fd), "passed")
				line, _ := bufio.NewReader(f).ReadString('\n')
				f.Close()
				content <- line
			}
		}
		for bytes.IndexByte(text.Bytes(), '\n') >= 0 {
			line, _ := text.ReadBytes('\n')
			var cmd map[string]json.RawMessage
			if json.Unmarshal(line, &cmd) != nil {
				return
			}
			fmt.Fprintf(c, `{"return":{},"id":%s}`+"\n", cmd["id"])
		}
	}
}
