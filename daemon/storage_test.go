package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	libvirt "github.com/digitalocean/go-libvirt"

	"virtd/rpc"
)

// TestPoolEvents: a client gets the events of pools it asked for, in order, and no others.
func TestPoolEvents(t *testing.T) {
	b := newTestbed(t)
	c := b.client(t, true)
	events := make(chan string, 100)
	c.OnEvent(func(program, procedure uint32, body []byte) {
		switch procedure {
		case rpc.ProcStoragePoolEventLifecycle:
			var m libvirt.StoragePoolEventLifecycleMsg
			if err := rpc.Unmarshal(body, &m); err != nil {
				t.Error(err)
			}
			events <- fmt.Sprintf("%d %s %d", m.CallbackID, m.Pool.Name, m.Event)
		case rpc.ProcStoragePoolEventRefresh:
			var m libvirt.StoragePoolEventRefreshMsg
			if err := rpc.Unmarshal(body, &m); err != nil {
				t.Error(err)
			}
			events <- fmt.Sprintf("%d %s refresh", m.CallbackID, m.Pool.Name)
		default:
			t.Errorf("event %d", procedure)
		}
	})
	ctx := context.Background()
	for event := range int32(2) {
		args := &libvirt.ConnectStoragePoolEventRegisterAnyArgs{EventID: event}
		if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectStoragePoolEventRegisterAny, args, &libvirt.ConnectStoragePoolEventRegisterAnyRet{}); err != nil {
			t.Fatal(err)
		}
	}
	err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectStoragePoolEventRegisterAny, &libvirt.ConnectStoragePoolEventRegisterAnyArgs{EventID: 2}, &libvirt.ConnectStoragePoolEventRegisterAnyRet{})
	if err == nil || !strings.Contains(err.Error(), "unsupported event ID 2") {
		t.Error(err)
	}
	l := b.libvirt(t)
	pool, err := l.StoragePoolDefineXML("<pool type='dir'><name>p</name><target><path>"+filepath.Join(b.dir, "p")+"</path></target></pool>", 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, do := range []func() error{
		func() error { return l.StoragePoolBuild(pool, 0) },
		func() error { return l.StoragePoolCreate(pool, 0) },
		func() error { return l.StoragePoolRefresh(pool, 0) },
		func() error { return l.StoragePoolDestroy(pool) },
		func() error { return l.StoragePoolDelete(pool, 0) },
		func() error { return l.StoragePoolUndefine(pool) },
	} {
		if err := do(); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"0 p 0", "0 p 4", "0 p 2", "1 p refresh", "0 p 3", "0 p 5", "0 p 1"} {
		select {
		case got := <-events:
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("no event, want %q", want)
		}
	}
	if err := c.Call(ctx, rpc.ProgramRemote, rpc.ProcConnectStoragePoolEventDeregisterAny, &libvirt.ConnectStoragePoolEventDeregisterAnyArgs{CallbackID: 1}, nil); err != nil {
		t.Error(err)
	}
}

// TestTransferByGoLibvirt: megabytes through go-libvirt, which Terraform uses, in both directions.
func TestTransferByGoLibvirt(t *testing.T) {
	b := newTestbed(t)
	l := b.libvirt(t)
	pool, err := l.StoragePoolCreateXML("<pool type='dir'><name>p</name><target><path>"+filepath.Join(b.dir, "p")+"</path></target></pool>", libvirt.StoragePoolCreateWithBuild)
	if err != nil {
		t.Fatal(err)
	}
	vol, err := l.StorageVolCreateXML(pool, "<volume><name>v</name><capacity>20000000</capacity><allocation>0</allocation></volume>", 0)
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef!"), 1_000_000)
	if err := l.StorageVolUpload(vol, bytes.NewReader(data), 7, 0, 0); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(vol.Key)
	if err != nil || len(file) != 20_000_000 || !bytes.Equal(file[7:7+len(data)], data) {
		t.Errorf("the file has %d bytes, or other ones: %v", len(file), err)
	}
	var out bytes.Buffer
	if err := l.StorageVolDownload(vol, &out, 7, uint64(len(data)), 0); err != nil || !bytes.Equal(out.Bytes(), data) {
		t.Errorf("download: %d bytes, %v", out.Len(), err)
	}
	if err := l.StoragePoolDestroy(pool); err != nil {
		t.Errorf("a transfer that ended keeps the pool: %v", err)
	}
}
