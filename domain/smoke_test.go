package domain

import (
	"strings"
	"testing"
)

func TestSmoke(t *testing.T) {
	d, err := Parse("<domain type='kvm'><name>a</name><memory unit='MiB'>512</memory><os><type machine='q35'>hvm</type></os></domain>", Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(d.XML(0))
	if !strings.Contains(d.XML(0), "<memory unit='KiB'>524288</memory>") {
		t.Error("memory")
	}
}
