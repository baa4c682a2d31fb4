package main

import (
	"strings"
	"testing"
)

func TestOptionsFirst(t *testing.T) {
	a := app(nil, nil, nil)
	for in, want := range map[string]string{
		"vctl":                                   "vctl",
		"vctl start demo --console":              "vctl start --console demo",
		"vctl -c URI start demo --console":       "vctl -c URI start --console demo",
		"vctl --connect=URI balloon d 5M":        "vctl --connect=URI balloon d 5M",
		"vctl balloon d 5M --timeout 3s":         "vctl balloon --timeout 3s d 5M",
		"vctl balloon d --timeout=3s 5M":         "vctl balloon --timeout=3s d 5M",
		"vctl define -":                          "vctl define -",
		"vctl start -- --odd --console":          "vctl start -- --odd --console",
		"vctl nonsense a --b":                    "vctl nonsense a --b",
		"vctl list --all":                        "vctl list --all",
		"vctl pool list --all":                   "vctl pool list --all",
		"vctl pool":                              "vctl pool",
		"vctl pool nonsense a --b":               "vctl pool nonsense a --b",
		"vctl vol resize v 5M --shrink -p x":     "vctl vol resize --shrink -p x v 5M",
		"vctl event demo -n 2":                   "vctl event -n 2 demo",
		"vctl --output json domstate d --reason": "vctl --output json domstate --reason d",
		"vctl nodedev list --cap net --tree":     "vctl nodedev list --cap net --tree",
		"vctl nodedev dumpxml d --help":          "vctl nodedev dumpxml --help d",
		"vctl nodedev":                           "vctl nodedev",
		"vctl nodedev nonsense a --b":            "vctl nodedev nonsense a --b",
	} {
		if got := strings.Join(optionsFirst(a, strings.Fields(in)), " "); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
}

func TestParseSize(t *testing.T) {
	for in, want := range map[string]uint64{
		"512MiB": 512 << 20, "512M": 512 << 20, "512m": 512 << 20, "2GiB": 2 << 30, "1.5G": 3 << 29, "1KB": 1000, "100b": 100, "3 MiB": 3 << 20,
	} {
		if got, err := parseSize(in); err != nil || got != want {
			t.Errorf("parseSize(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "512", "MiB", "-1MiB", "5 lightyears", "1e3M", "99999999999999999999T", "1.2.3G", "18446744073709551615K"} {
		if got, err := parseSize(in); err == nil {
			t.Errorf("parseSize(%q) = %d, want an error", in, got)
		}
	}
}

func TestTable(t *testing.T) {
	var b strings.Builder
	if err := table(&b, []string{"Id", "Name", "State"}, [][]string{{"1", "demo", "running"}, {"-", "größer", "shut off"}}); err != nil {
		t.Fatal(err)
	}
	want := " Id   Name     State\n--------------------------\n 1    demo     running\n -    größer   shut off\n"
	if b.String() != want {
		t.Errorf("got\n%s\nwant\n%s", b.String(), want)
	}
}
