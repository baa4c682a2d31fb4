package memory

import "testing"

// BenchmarkMarkDirty is what each write of the host pays: one load while nothing records.
func BenchmarkMarkDirty(b *testing.B) {
	m, err := New(Backing{Kind: Anonymous}, Range{0, 64 << 20})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	for _, on := range []bool{false, true} {
		name := "off"
		if on {
			m.StartDirtyLog()
			name = "on"
		}
		b.Run(name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				m.MarkDirty(uint64(i)%(60<<20), 1500)
			}
		})
	}
}
