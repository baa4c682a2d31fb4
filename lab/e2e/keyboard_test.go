package e2e

import (
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"virtd/lab/labtest"
)

// keyboardScript is a guest that loads the stock driver of virtio inputs, and prints each event of the keyboard, as it reads it,
// in a line of base64.
const keyboardScript = `
insmod /virtio_input.ko || exit 1
until grep -l 'virtd virtio keyboard' /sys/class/input/event*/device/name >/tmp/found 2>/dev/null; do sleep 0.1; done
read found </tmp/found; event=${found#/sys/class/input/}; event=${event%%/*}
echo "keyboard is $event"
exec 3</dev/input/$event
while dd bs=24 count=1 <&3 2>/dev/null >/tmp/event; do echo "event $(base64 </tmp/event)"; done
`

// A stock Linux guest sees the keys that virsh sends, in any of libvirt's sets of codes, pressed in order and released after their
// time, also when it was saved in between.
func TestLabKeyboard(t *testing.T) {
	labtest.Need(t, labtest.KVM, labtest.Virsh)
	h := startHost(t)
	k := labtest.Kernel("6.1")
	found, err := filepath.Glob(filepath.Join(labtest.GuestFolder, "6.1/modules/*/kernel/drivers/virtio/virtio_input.ko"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the driver of virtio inputs among the kernel's modules: %v, %v", found, err)
	}
	module, err := os.ReadFile(found[0])
	if err != nil {
		t.Fatal(err)
	}
	name := h.define(guest{name: "keys", kernel: k, devices: "<input type='keyboard' bus='virtio'/>",
		initrd: labtest.AppendFiles(t, k.Initrd, map[string]string{"cmd": keyboardScript, "virtio_input.ko": string(module)})})
	h.vctl("start", name)
	h.refuses("no driver that reads the keyboard", "virsh", "send-key", name, "KEY_A")
	h.expect(name, "keyboard is event", 90*time.Second)
	const want = "+29 +56 +36 -36 -56 -29 +30 -30 +28 -28"
	h.virsh("send-key", name, "KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_J")
	h.virsh("send-key", name, "--codeset", "usb", "4") // A
	h.virsh("send-key", name, "--codeset", "atset1", "0x1c", "--holdtime", "400")
	h.until(60*time.Second, "the keys arrive: "+want, func() bool { got, _ := keys(t, h.output(name)); return got == want })
	// by the guest's clock, which sees the press as late as its CPU lets it
	if _, held := keys(t, h.output(name)); held < 200*time.Millisecond {
		t.Errorf("the last key was held for %v", held)
	}
	if testing.Short() {
		h.vctl("destroy", name)
		return
	}
	h.virsh("send-key", name, "KEY_B", "--holdtime", "60000")
	h.until(60*time.Second, "a key is down", func() bool { got, _ := keys(t, h.output(name)); return strings.HasSuffix(got, "+48") })
	h.virsh("managedsave", name)
	h.virsh("start", name)
	h.until(60*time.Second, "the key is up", func() bool { got, _ := keys(t, h.output(name)); return got == "-48" }) // a new console
	h.vctl("destroy", name)
}

// keys decodes what a guest of keyboardScript printed: struct input_event, of which the first 16 bytes are the time. Reports and
// repetitions are left out. held is how long the last key was down.
func keys(t *testing.T, console string) (got string, held time.Duration) {
	t.Helper()
	var out []string
	var last time.Duration
	for _, line := range strings.Split(console, "\n") {
		text, ok := strings.CutPrefix(strings.TrimSpace(line), "event ")
		b, err := base64.StdEncoding.DecodeString(text)
		if !ok || err != nil || len(b) != 24 { // a line that is being written
			continue
		}
		at := time.Duration(binary.LittleEndian.Uint64(b))*time.Second + time.Duration(binary.LittleEndian.Uint64(b[8:]))*time.Microsecond
		kind, code, value := binary.LittleEndian.Uint16(b[16:]), binary.LittleEndian.Uint16(b[18:]), binary.LittleEndian.Uint32(b[20:])
		if kind != 1 || value > 1 {
			continue
		}
		held, last = at-last, at
		out = append(out, fmt.Sprintf("%c%d", "-+"[value], code))
	}
	return strings.Join(out, " "), held
}
