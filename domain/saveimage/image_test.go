package saveimage

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const document = "<domain><name>demo</name></domain>"

// made is a complete image with a state.
func made(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	n, err := Create(path, Header{document, true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(n.State(), "state of the machine"); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("an image that is not complete: %v", err)
	}
	if err := n.Commit(true); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantImage(t *testing.T, path string, want Header) {
	t.Helper()
	img, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	state, err := io.ReadAll(img.State())
	if err != nil || img.Header != want || string(state) != "state of the machine" {
		t.Errorf("%+v, state %q, %v; want %+v", img.Header, state, err, want)
	}
}

func TestRoundTrip(t *testing.T) {
	path := made(t)
	wantImage(t, path, Header{document, true})
	for _, h := range []Header{{strings.Repeat("x", leastSlot), false}, {document, false}, {"", true}, {document + " ", true}} {
		if err := Rewrite(path, h); err != nil {
			t.Fatal(err)
		}
		wantImage(t, path, h)
	}
	if err := Rewrite(path, Header{XML: strings.Repeat("x", leastSlot+1)}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("a document that does not fit: %v", err)
	}
	wantImage(t, path, Header{document + " ", true})
}

func TestAbort(t *testing.T) {
	dir := t.TempDir()
	n, err := Create(filepath.Join(dir, "image"), Header{XML: document})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Abort(); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	whole, err := os.ReadFile(made(t))
	if err != nil {
		t.Fatal(err)
	}
	stateAt := firstSlot + 2*leastSlot
	change := func(at int, with ...byte) []byte {
		b := bytes.Clone(whole)
		copy(b[at:], with)
		return b
	}
	for name, c := range map[string]struct {
		image []byte
		want  error
	}{
		"empty":           {nil, ErrMagic},
		"libvirt's":       {[]byte("LibvirtQemudSave" + strings.Repeat("\x00", 100)), ErrMagic},
		"partial":         {change(0, []byte(partial)...), ErrIncomplete},
		"void":            {change(stateAt, make([]byte, 16)...), ErrIncomplete},
		"no state":        {whole[:stateAt], ErrIncomplete},
		"newer":           {change(16, 2), ErrMagic},
		"head":            {change(20, 7), ErrDamaged},
		"document":        {change(firstSlot, '!'), ErrDamaged},
		"cut in document": {whole[:firstSlot+5], ErrDamaged},
	} {
		path := filepath.Join(t.TempDir(), "bad")
		if err := os.WriteFile(path, c.image, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(path); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if err := Rewrite(path, Header{XML: document}); !errors.Is(err, c.want) {
			t.Errorf("rewrite %s: %v, want %v", name, err, c.want)
		}
	}
	if _, err := Open(t.TempDir()); err == nil {
		t.Error("a directory was opened")
	}
}

func FuzzDecode(f *testing.F) {
	h := head{complete: true, slotSize: slotAlign, length: 3, crc: 1}
	f.Add(append(h.encode(), make([]byte, 100)...))
	f.Add([]byte(partial))
	f.Add([]byte("LibvirtQemudSave"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decode(bytes.NewReader(b))
		if err != nil {
			return
		}
		if h.length > maxSlot || h.stateAt() > firstSlot+2*maxSlot || h.stateAt() < firstSlot {
			t.Errorf("%+v was accepted", h)
		}
		_, _ = h.text(bytes.NewReader(b))
	})
}
