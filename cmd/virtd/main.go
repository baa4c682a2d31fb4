package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"virtd/network/services"
	"virtd/release"
)

func main() {
	debug.SetGCPercent(gcPercent)
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// Hosts keep thousands of domains and change few of them: memory counts more than collecting garbage twice as often. While a
// client defines many domains, one after the other, what they leave is collected when the heap has 8 MiB (or is three times what
// is in use), and not with each 20 of them, which would take a sixth of the time. Then, when nobody waits, what they left is
// collected, as otherwise the next client's first call would do it; after many the host gets the memory back.
const (
	gcPercent     = 50
	gcPercentBusy = 200
)

// collectLater says whether garbage is to be collected at gcPercentBusy.
func collectLater(busy bool) {
	percent := gcPercent
	if busy {
		percent = gcPercentBusy
	}
	debug.SetGCPercent(percent)
}

// collect collects garbage, and gives memory back when there is much.
func collect(much bool) {
	if much {
		debug.FreeOSMemory() // collects, too
		return
	}
	runtime.GC()
}

// run parses the command line, serves until told to stop, and returns the exit status: 0 after an orderly end, 1 after a
// failure, 2 for a command line that makes no sense.
func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == services.Role {
		return serveNetwork(slog.New(slog.NewTextHandler(stderr, nil)))
	}
	if len(args) > 0 && args[0] == saslUserRole {
		return saslUser(args[1:], os.Stdin, stdout, stderr)
	}
	cfg, action, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		usage(stdout)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "virtd: %v\n", err)
		return 2
	case action == "version":
		fmt.Fprintln(stdout, versionText())
		return 0
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		fmt.Fprintf(stderr, "virtd: log level '%s': use debug, info, warn or error\n", cfg.LogLevel)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level, ReplaceAttr: underJournal()}))
	slog.SetDefault(log)
	if err := serve(cfg, log); err != nil {
		log.Error("virtd cannot go on", "error", err)
		return 1
	}
	return 0
}

// underJournal leaves the time out where the journal adds it.
func underJournal() func([]string, slog.Attr) slog.Attr {
	if os.Getenv("JOURNAL_STREAM") == "" {
		return nil
	}
	return func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && a.Key == slog.TimeKey {
			return slog.Attr{}
		}
		return a
	}
}

// option is one command line option.
type option struct {
	name, arg, help string
	set             func(*config, string) error
}

var options = []option{
	{"state-dir", "DIR", "definitions of domains (/var/lib/virtd)", settings["state_dir"]},
	{"images-dir", "DIR", "of the pool named default (/var/lib/libvirt/images)", settings["images_dir"]},
	{"run-dir", "DIR", "records and sockets of running domains (/run/virtd)", settings["run_dir"]},
	{"log-dir", "DIR", "logs of the engines (/var/log/virtd)", settings["log_dir"]},
	{"socket-dir", "DIR", "where clients connect (/run/libvirt)", settings["unix_sock_dir"]},
	{"socket-group", "GROUP", "who may manage besides root (libvirt); empty: nobody", settings["unix_sock_group"]},
	{"socket-mode", "MODE", "permissions of the socket for managing (0666)", settings["unix_sock_rw_perms"]},
	{"socket-ro-mode", "MODE", "permissions of the socket for looking (0666)", settings["unix_sock_ro_perms"]},
	{"emulator", "FILE", "the engine (virtd-vmm beside virtd, else in /usr/libexec/virtd)", settings["emulator"]},
	{"open-foreign-firewalls", "0|1", "let networks through Docker's, firewalld's and other packet filters (0)", settings["open_foreign_firewalls"]},
	{"log-level", "LEVEL", "debug, info, warn or error (info)", settings["log_level"]},
}

// parse returns the settings, and what else to do: "version" or nothing.
func parse(args []string, stderr io.Writer) (config, string, error) {
	set := flag.NewFlagSet("virtd", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	file := set.String("config", "", "")
	session := set.Bool("session", os.Geteuid() != 0, "")
	showVersion := set.Bool("version", false, "")
	verbose := set.Bool("verbose", false, "")
	values := map[string]*string{}
	for _, o := range options {
		values[o.name] = set.String(o.name, "", "")
	}
	if err := set.Parse(args); err != nil {
		return config{}, "", err
	}
	if set.NArg() > 0 {
		return config{}, "", fmt.Errorf("unexpected argument '%s'; see virtd --help", set.Arg(0))
	}
	if *showVersion {
		return config{}, "version", nil
	}
	given := map[string]bool{}
	set.Visit(func(f *flag.Flag) { given[f.Name] = true })
	home, _ := os.UserHomeDir()
	cfg, err := defaults(*session, os.Getenv, home)
	if err != nil && !(given["run-dir"] && given["socket-dir"] && given["state-dir"] && given["log-dir"]) {
		return cfg, "", err
	}
	if err := cfg.readFile(*file); err != nil {
		return cfg, "", err
	}
	for _, o := range options {
		if given[o.name] {
			if err := o.set(&cfg, *values[o.name]); err != nil {
				return cfg, "", fmt.Errorf("--%s: %w", o.name, err)
			}
		}
	}
	if plain, _ := defaults(*session, os.Getenv, home); cfg.StateDir != plain.StateDir && cfg.ImagesDir == plain.ImagesDir {
		cfg.ImagesDir = filepath.Join(cfg.StateDir, "images") // a virtd with a place of its own leaves the host's alone
	}
	if *verbose {
		cfg.LogLevel = "debug"
	}
	return cfg, "", nil
}

func usage(w io.Writer) {
	fmt.Fprintf(w, `Usage: virtd [OPTION]...
       virtd sasl-user add|remove|list ...
Run virtual machines for libvirt's clients and vctl.

  --config FILE          settings (%s, where it exists)
  --session              serve one user: directories under XDG_RUNTIME_DIR and
                         XDG_DATA_HOME; the default for users other than root
`, defaultConfigFile)
	for _, o := range options {
		fmt.Fprintf(w, "  %-22s %s\n", "--"+o.name+" "+o.arg, o.help)
	}
	fmt.Fprint(w, `  --verbose              the same as --log-level debug
  --version              print the version and exit
  --help                 print this and exit

SIGTERM and SIGINT end virtd; running guests go on, and the next virtd finds
them. Sockets may come from systemd.
`)
}

// versionText is one line: version, source revision where known, toolchain.
func versionText() string {
	revision := ""
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				revision = " (" + s.Value[:min(12, len(s.Value))] + ")"
			}
		}
	}
	return fmt.Sprintf("virtd %s%s %s", release.Version, revision, runtime.Version())
}

// exists reports whether a path names something.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
