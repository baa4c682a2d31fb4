package qmp

import (
	"context"
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ExecuteFiles is Execute for a command that brings descriptors: the engine gets duplicates of files, in their order.
func (c *Client) ExecuteFiles(ctx context.Context, command string, args any, files []*os.File, result any) error {
	fields := map[string]any{"execute": command}
	if args != nil {
		fields["arguments"] = args
	}
	return c.execute(ctx, fields, files, result)
}

// writeWith writes a line with descriptors, which go with its first byte.
func writeWith(conn net.Conn, line []byte, files []*os.File) error {
	if len(files) == 0 {
		_, err := conn.Write(line)
		return err
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("descriptors need a unix socket")
	}
	fds := make([]int, len(files))
	for i, f := range files {
		fds[i] = int(f.Fd())
	}
	n, _, err := u.WriteMsgUnix(line, unix.UnixRights(fds...), nil)
	if err == nil && n < len(line) {
		_, err = u.Write(line[n:])
	}
	return err
}
