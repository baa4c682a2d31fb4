package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// programDirs are where the programs of a host's administrator are, whatever PATH virtd was started with.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// maxOutput is how much a program may print.
const maxOutput = 16 << 20

// programEnv is what programs are started with: answers in English, and no word about descriptors that are not ours.
var programEnv = []string{"LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1", "PATH=" + strings.Join(programDirs, ":")}

// MissingProgram is a Host's error about a program that is not installed.
type MissingProgram string

// Error implements error.
func (m MissingProgram) Error() string { return "cannot find '" + string(m) + "' in path" }

// environment returns programEnv, and more on a host without udev: LVM then makes the devices' nodes itself, and does not wait
// for somebody else to.
func environment() []string {
	if _, err := os.Stat("/run/udev/control"); err != nil {
		return append(slices.Clone(programEnv), "DM_DISABLE_UDEV=1")
	}
	return programEnv
}

func findProgram(name string) (string, error) {
	for _, dir := range programDirs {
		path := filepath.Join(dir, name)
		if st, err := os.Stat(path); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", MissingProgram(name)
}

// Has implements Host.
func (Local) Has(program string) bool {
	_, err := findProgram(program)
	return err == nil
}

// Run implements Host. When ctx ends the program is asked to end, and killed when it does not.
func (Local) Run(ctx context.Context, program string, args ...string) ([]byte, error) {
	path, err := findProgram(program)
	if err != nil {
		return nil, err
	}
	out, complaint := &limitedBuffer{}, &limitedBuffer{}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = environment(), out, complaint
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	cmd.Dir = "/"
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("it took too long, or virtd ends: %w", ctx.Err())
		}
		return nil, programError(program, args, complaint.String(), err)
	}
	return out.Bytes(), nil
}

// programError is about a program that ended badly.
func programError(program string, args []string, complaint string, err error) error {
	said := lastLines(complaint)
	var exit *exec.ExitError
	if said != "" && errors.As(err, &exit) {
		return fmt.Errorf("%s failed: %s", program, said)
	}
	return fmt.Errorf("%s failed: %w (%s)", strings.Join(append([]string{program}, args...), " "), err, said)
}

// lastLines returns the end of what a program complained of, on one line.
func lastLines(text string) string {
	var lines []string
	for _, line := range strings.Split(text, "\n") {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "WARNING") {
			lines = append(lines, line)
		}
	}
	if n := len(lines); n > 4 {
		lines = lines[n-4:]
	}
	return strings.Join(lines, "; ")
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

// Write implements io.Writer.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	if room := maxOutput - b.Len(); len(p) > room {
		b.Buffer.Write(p[:max(room, 0)])
		return len(p), nil
	}
	return b.Buffer.Write(p)
}
