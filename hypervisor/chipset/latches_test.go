package chipset

import "testing"

func TestLatchesSaveRestore(t *testing.T) {
	resets := 0
	board := func() Latches {
		reset := func() { resets++ }
		return Latches{NewCF9(reset), NewPort92(reset), &PostCode{}, &Speaker{}, &APM{}}
	}
	a := board()
	a.CF9.Write(0, []byte{2})
	a.Port92.Write(0, []byte{0})
	a.Post.Write(0, []byte{0x41})
	a.Speaker.Write(0, []byte{3})
	a.APM.Write(0, []byte{5, 6})
	state, err := a.Save()
	if err != nil {
		t.Fatal(err)
	}
	b := board()
	if err := b.Restore(state); err != nil {
		t.Fatal(err)
	}
	if again, err := b.Save(); err != nil || string(again) != string(state) {
		t.Errorf("%s came back as %s, %v", state, again, err)
	}
	if resets != 0 {
		t.Errorf("%d resets", resets)
	}
	for _, bad := range []string{"", "{}", `{"Version":2}`, `{"Version":1,"APM":["x"]}`} {
		if board().Restore([]byte(bad)) == nil {
			t.Errorf("%q was restored", bad)
		}
	}
}
