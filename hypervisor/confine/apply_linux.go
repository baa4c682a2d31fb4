package confine

import (
	"fmt"
	"os"
	"runtime/debug"
	"time"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/landlock-lsm/go-landlock/landlock"
	llsys "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Options choose the layers. no_new_privs is always set.
type Options struct {
	Seccomp  bool
	Landlock bool
}

// Report says what is in force after Apply, for the log and for virtd.
type Report struct {
	NoNewPrivs  bool     `json:"noNewPrivs"`
	LandlockABI int      `json:"landlockABI"` // 0: none in force
	Seccomp     bool     `json:"seccomp"`
	Missing     []string `json:"missing,omitempty"` // layers that were asked for and that the host lacks, with the reason
}

// Apply confines all threads of the process, for good. Call it after every file is open and every ring is set up. An
// error means that no_new_privs could not be set; everything else that fails is in the report.
func Apply(o Options) (Report, error) {
	var r Report
	_ = time.Now().Local().String() // loads the zone file while paths still work
	debug.SetTraceback("single")    // a dying engine prints one stack, not thousands
	if err := llsys.AllThreadsPrctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return r, fmt.Errorf("set no_new_privs: %w", err)
	}
	r.NoNewPrivs = true
	if o.Landlock {
		if abi := landlockABI(); abi == 0 {
			r.Missing = append(r.Missing, "landlock: not in this kernel, or not enabled at boot (lsm=landlock,…)")
		} else if err := landlock.V7.BestEffort().Restrict(); err != nil {
			r.Missing = append(r.Missing, "landlock: "+err.Error())
		} else {
			r.LandlockABI = abi
		}
	}
	if o.Seccomp {
		filter := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: policy(os.Getpid())}
		if err := seccomp.LoadFilter(filter); err != nil {
			r.Missing = append(r.Missing, "seccomp: "+err.Error())
		} else {
			r.Seccomp = true
		}
	}
	return r, nil
}

// landlockABI returns the version of Landlock in the kernel, 0 when there is none.
func landlockABI() int {
	const createRulesetVersion = 1 // LANDLOCK_CREATE_RULESET_VERSION
	v, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion)
	if errno != 0 {
		return 0
	}
	return int(v)
}
