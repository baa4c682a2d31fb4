package supervise

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEngineTimersAreRelaxed(t *testing.T) {
	_, line, _ := start(t, nil)
	var uid, pid int
	if _, err := fmt.Sscanf(line, "uid=%d pid=%d", &uid, &pid); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(fmt.Sprintf("/proc/%d/timerslack_ns", pid))
	if errors.Is(err, unix.EPERM) {
		t.Skip("needs CAP_SYS_NICE to read another process's timer slack")
	}
	if err != nil || strings.TrimSpace(string(got)) != fmt.Sprint(engineTimerSlack) {
		t.Errorf("timer slack of the engine is %q, %v", got, err)
	}
	if own, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0); err != nil || own >= engineTimerSlack {
		t.Errorf("our own timer slack is %d, %v", own, err)
	}
}
