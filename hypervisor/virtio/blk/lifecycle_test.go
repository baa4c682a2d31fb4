package blk

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"virtd/hypervisor/block"
	"virtd/hypervisor/virtio"
	"virtd/hypervisor/virtio/virtiotest"
)

func TestResize(t *testing.T) {
	r := newRig(t, allFeat, block.Options{}, Config{})
	if s, _ := r.do(typeIn, diskSize/512, virtiotest.Buf{GPA: dataAt, Len: 512, Write: true}); s != statusIOErr {
		t.Fatalf("status %d", s)
	}
	if err := r.dev.Resize(2 * diskSize); err != nil {
		t.Fatal(err)
	}
	if r.tr.ConfigChanges() != 1 {
		t.Error("driver not told")
	}
	if s, _ := r.do(typeIn, diskSize/512, virtiotest.Buf{GPA: dataAt, Len: 512, Write: true}); s != statusOK {
		t.Errorf("new space: status %d", s)
	}
	if err := r.dev.Resize(513); err == nil || !strings.Contains(err.Error(), "virtio-disk0") {
		t.Errorf("resize to 513 bytes: %v", err)
	}
}

func TestMultiqueue(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		mem := virtiotest.NewMemory(t, 4<<20)
		d, path := newDisk(t, block.Options{}, Config{Name: "mq", Queues: 4, IO: io})
		defer d.Close()
		var rings []*virtiotest.Ring
		for i := range 4 {
			rings = append(rings, virtiotest.NewRing(t, mem, uint64(ringAt+i*0x4000), 256))
		}
		rings[2] = nil // the driver enables three of four
		tr := virtiotest.NewTransport(t, mem, virtio.FeatureIndirectDesc|FeatureFlush|FeatureMQ, rings...)
		if err := d.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		defer d.Reset()
		const each = 64 // requests a queue, all in flight at once
		for qi, ring := range rings {
			if ring == nil {
				continue
			}
			for i := range each {
				at := uint64(0x100000 + (qi*each+i)*0x1000)
				sector := uint64(qi*each+i) * 4
				mem.WriteAt(header(typeOut, sector), at)
				mem.WriteAt(bytes.Repeat([]byte{byte(1 + qi*each + i)}, 2048), at+0x100)
				ring.Add(virtiotest.Buf{GPA: at, Len: 16}, virtiotest.Buf{GPA: at + 0x100, Len: 2048}, virtiotest.Buf{GPA: at + 0xf00, Len: 1, Write: true})
			}
			ring.Kick()
		}
		for _, ring := range rings {
			for range each {
				if ring != nil {
					ring.WaitUsed(t)
				}
			}
		}
		got, _ := os.ReadFile(path)
		for i := range 4 * each {
			want := byte(1 + i)
			if i/each == 2 {
				want = 0
			}
			if !bytes.Equal(got[i*2048:(i+1)*2048], bytes.Repeat([]byte{want}, 2048)) {
				t.Fatalf("block %d is %d..., want %d", i, got[i*2048], want)
			}
		}
		if s := d.Stats(); s.WriteOps != 3*each {
			t.Errorf("stats %+v", s)
		}
	})
}

// TestResetInFlight resets with requests on their way, many times. Afterwards nothing writes to guest memory.
func TestResetInFlight(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		mem := virtiotest.NewMemory(t, 1<<20)
		d, _ := newDisk(t, block.Options{}, Config{Name: "reset", IO: io})
		defer d.Close()
		mem.WriteAt(header(typeIn, 0), headerAt)
		for range 300 {
			ring := virtiotest.RawRing(mem, ringAt, 64)
			fresh := virtiotest.NewTransport(t, mem, allFeat, ring)
			if err := d.Activate(fresh.Env); err != nil {
				t.Fatal(err)
			}
			for i := range 20 {
				ring.Add(virtiotest.Buf{GPA: headerAt, Len: 16}, virtiotest.Buf{GPA: dataAt + uint64(i)*0x1000, Len: 4096, Write: true}, virtiotest.Buf{GPA: statusAt, Len: 1, Write: true})
			}
			d.Reset()
			mem.StartDirtyLog()
			used := ring.UsedIdx()
			time.Sleep(time.Millisecond) // for whatever was still on its way
			if ring.UsedIdx() != used || mem.TakeDirty(0)[0] != 0 {
				t.Fatal("something was written after Reset")
			}
			mem.StopDirtyLog()
		}
	})
}

func TestSaveRestore(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := newRig(t, allFeat, block.Options{}, Config{IO: io})
		r.write(0, bytes.Repeat([]byte{1}, 512))
		r.dev.WriteConfig(cfgWriteback, []byte{0})
		r.dev.Quiesce()
		state, err := r.dev.Save()
		if err != nil {
			t.Fatal(err)
		}
		r.mem.WriteAt(bytes.Repeat([]byte{2}, 512), dataAt)
		r.offer(typeOut, 1, virtiotest.Buf{GPA: dataAt, Len: 512})

		next := openDisk(t, r.path, block.Options{}, Config{Name: "next", IO: io})
		defer next.Close()
		if err := next.Restore(state); err != nil {
			t.Fatal(err)
		}
		if next.writeback.Load() {
			t.Error("write-back mode forgotten")
		}
		tr := virtiotest.NewTransport(t, r.mem, allFeat, r.ring)
		tr.Env.Queues[0].SetBase(r.tr.Env.Queues[0].Base())
		if err := next.Activate(tr.Env); err != nil {
			t.Fatal(err)
		}
		defer next.Reset()
		r.ring.WaitUsed(t)
		if r.status() != statusOK || !bytes.Equal(r.file()[512:1024], bytes.Repeat([]byte{2}, 512)) {
			t.Errorf("request from before: status %d", r.status())
		}
		for _, bad := range []string{"", "{}", `{"version":2}`, `{"version":1,"capacity":5}`} {
			if next.Restore([]byte(bad)) == nil {
				t.Errorf("restored %q", bad)
			}
		}
	})
}

func TestQuiesceResume(t *testing.T) {
	everyMode(t, func(t *testing.T, io string) {
		r := newRig(t, allFeat, block.Options{}, Config{IO: io})
		for i := range 50 {
			r.dev.Quiesce()
			r.offer(typeIn, uint64(i), virtiotest.Buf{GPA: dataAt, Len: 512, Write: true})
			r.dev.Resume()
			r.ring.WaitUsed(t)
		}
	})
}
