package monitor

import (
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// rawClient speaks to the monitor with descriptors.
type rawClient struct {
	t *testing.T
	c *net.UnixConn
}

func dialRaw(t *testing.T, path string) *rawClient {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	r := &rawClient{t, c}
	r.reply()
	r.send(`{"execute":"qmp_capabilities"}`)
	r.reply()
	return r
}

func (r *rawClient) send(line string, fds ...int) {
	r.t.Helper()
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := r.c.WriteMsgUnix([]byte(line+"\n"), oob, nil); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rawClient) reply() string {
	r.t.Helper()
	p := make([]byte, 64<<10)
	n, err := r.c.Read(p)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(p[:n])
}

// pipes returns n write ends, and a function that tells how many of them are open in this process still: after the test
// has closed its own, only the server's are.
func pipes(t *testing.T, n int) (writers []int, open func() int) {
	t.Helper()
	var readers []*os.File
	for range n {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			t.Fatal(err)
		}
		r := os.NewFile(uintptr(p[0]), "pipe")
		t.Cleanup(func() { r.Close() })
		readers, writers = append(readers, r), append(writers, p[1])
	}
	return writers, func() int {
		still := 0
		for _, r := range readers {
			fds := []unix.PollFd{{Fd: int32(r.Fd()), Events: unix.POLLIN}}
			if _, err := unix.Poll(fds, 0); err != nil {
				t.Fatal(err)
			}
			if fds[0].Revents&unix.POLLHUP == 0 {
				still++
			}
		}
		return still
	}
}

// names returns n strings of JSON.
func names(n int) string {
	var list []string
	for i := range n {
		list = append(list, fmt.Sprintf("%q", fmt.Sprint("f", i)))
	}
	return strings.Join(list, ",")
}

func TestAttachTakesDescriptors(t *testing.T) {
	_, m, path := serve(t)
	c := dialRaw(t, path)
	for _, tc := range []struct {
		name, before, args string
		files, kept        int
		want               string
	}{
		{"as many as named", "", `{"device":{"disk":{}},"files":["a","b"]}`, 2, 2, `"return"`},
		{"a line before in the same read", `{"execute":"query-name"}` + "\n", `{"device":{"disk":{}},"files":["a"]}`, 1, 1, `"return"`},
		{"a disk with 64 backing images", "", `{"device":{"disk":{}},"files":[` + names(65) + `]}`, 65, 65, `"return"`},
		{"none", "", `{"device":{"rng":{}}}`, 0, 0, `"return"`},
		{"too few", "", `{"device":{"disk":{}},"files":["a","b"]}`, 1, 0, "1 descriptors came for 2 names"},
		{"too many", "", `{"device":{"disk":{}},"files":["a"]}`, 3, 0, "3 descriptors came for 1 names"},
		{"a name twice", "", `{"device":{"disk":{}},"files":["a","a"]}`, 2, 0, "the same name"},
		{"no device", "", `{"files":["a"]}`, 1, 0, "is missing"},
		{"nonsense", "", `{"device":{},"filez":1}`, 2, 0, "unknown field"},
		{"a flood", "", `{"device":{},"files":["a"]}`, 100, 0, "65 descriptors came for 1 names"},
	} {
		m.mu.Lock()
		m.files = nil
		m.mu.Unlock()
		w, open := pipes(t, tc.files)
		c.send(tc.before+fmt.Sprintf(`{"execute":"x-virtd-attach","arguments":%s}`, tc.args), w...)
		for _, fd := range w {
			unix.Close(fd)
		}
		got := c.reply()
		for tc.before != "" && !strings.Contains(strings.Replace(got, `{"return"`, "", 1), `"return"`) {
			got += c.reply()
		}
		if !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s", tc.name, got)
		}
		if n := open(); n != tc.kept || len(m.files) != tc.kept {
			t.Errorf("%s: %d descriptors are open and %d were handed over, want %d", tc.name, n, len(m.files), tc.kept)
		}
		for _, fd := range m.files {
			unix.Close(fd)
		}
	}
}

// A client that sends descriptors nobody asked for and leaves costs nothing.
func TestStrayDescriptorsAreClosed(t *testing.T) {
	_, _, path := serve(t)
	c := dialRaw(t, path)
	w, open := pipes(t, 5)
	c.send(`{"execute":"query-status"}`, w...)
	for _, fd := range w {
		unix.Close(fd)
	}
	c.reply()
	c.c.Close()
	for deadline := time.Now().Add(10 * time.Second); open() > 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors stay open", open())
		}
	}
}

func TestDetachAndDevices(t *testing.T) {
	_, m, path := serve(t)
	c := dialRaw(t, path)
	for _, tc := range []struct{ line, want string }{
		{`{"execute":"x-virtd-devices"}`, `{"return":["virtio-disk0","net0"]}`},
		{`{"execute":"x-virtd-cpus"}`, `{"return":[{"cpu":0,"thread":42}]}`},
		{`{"execute":"x-virtd-plug-cpu","arguments":{"cpu":2}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-plug-cpu"}`, `Parameter 'cpu' is missing`},
		{`{"execute":"x-virtd-plug-cpu","arguments":{"cpu":1.5}}`, `"class":"GenericError"`},
		{`{"execute":"x-virtd-unplug-cpu","arguments":{"cpu":1}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-unplug-cpu","arguments":{"cpu":9}}`, `"class":"DeviceNotFound"`},
		{`{"execute":"x-virtd-detach","arguments":{"id":"virtio-disk0"}}`, `{"return":{}}`},
		{`{"execute":"x-virtd-detach","arguments":{"id":"nothing"}}`, `"class":"DeviceNotFound"`},
		{`{"execute":"query-commands"}`, `"x-virtd-attach"`},
	} {
		c.send(tc.line)
		if got := c.reply(); !strings.Contains(got, tc.want) {
			t.Errorf("%s: %s", tc.line, got)
		}
	}
	if got := strings.Join(m.calls, ", "); got != "plug cpu2, unplug cpu1, detach virtio-disk0" {
		t.Errorf("calls: %s", got)
	}
}
