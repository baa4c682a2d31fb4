package keycode

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"

	"virtd/virterr"
)

//go:embed codes.txt
var codes string

// sets are the names of libvirt's sets of codes, by number (virKeycodeSet).
var sets = [...]string{"linux", "xt", "atset1", "atset2", "atset3", "os_x", "xt_kbd", "usb", "win32", "qnum"}

// table maps codes of each set to keys.
var table = sync.OnceValue(func() map[string]map[uint32]uint16 {
	t, err := parse(codes)
	if err != nil {
		panic(err) // codes.txt is part of the program; a test reads it
	}
	return t
})

// parse reads the language described at the top of codes.txt.
func parse(text string) (map[string]map[uint32]uint16, error) {
	out, set := map[string]map[uint32]uint16{}, map[uint32]uint16(nil)
	for n, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		words := strings.Fields(line)
		if len(words) > 0 && !strings.HasPrefix(line, " ") {
			set = map[uint32]uint16{}
			out[words[0]], words = set, words[1:]
		}
		for _, w := range words {
			if err := add(set, w); err != nil {
				return nil, fmt.Errorf("line %d: %w", n+1, err)
			}
		}
	}
	return out, nil
}

// add reads one C=K or C-D=K.
func add(set map[uint32]uint16, word string) error {
	run, first, ok := strings.Cut(word, "=")
	from, to, several := strings.Cut(run, "-")
	if !several {
		to = from
	}
	a, err1 := strconv.ParseUint(from, 10, 32)
	b, err2 := strconv.ParseUint(to, 10, 32)
	key, err3 := strconv.ParseUint(first, 10, 16)
	if set == nil || !ok || err1 != nil || err2 != nil || err3 != nil || b < a || key+b-a > 0xffff {
		return fmt.Errorf("no code and key: %q", word)
	}
	for c := a; c <= b; c++ {
		set[uint32(c)] = uint16(key + c - a)
	}
	return nil
}

// Translate returns the keys, by Linux' numbers, of codes of one of libvirt's sets (virKeycodeSet). An unknown set or code is
// an error with libvirt's text.
func Translate(set uint32, codes []uint32) ([]uint16, error) {
	if set >= uint32(len(sets)) {
		return nil, virterr.New(virterr.InvalidArg, "keycode set %d is not known: there are 0 (linux) to %d (qnum)", set, len(sets)-1)
	}
	keys := make([]uint16, 0, len(codes))
	for _, c := range codes {
		k, ok := table()[sets[set]][c]
		if !ok {
			return nil, virterr.New(virterr.InternalError, "cannot translate keycode %d of %s codeset to qnum keycode", c, sets[set])
		}
		keys = append(keys, k)
	}
	return keys, nil
}
