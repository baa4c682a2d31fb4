package monitor

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// maxFiles bounds the descriptors that one command may bring: those of a disk with 64 backing images. A network device with
// 16 queue pairs on vhost has 32.
const maxFiles = 1 + 64

// fileReader reads a client's commands and keeps the descriptors that come with them (SCM_RIGHTS) for the next command that
// takes some: lines before it may arrive in the same read. It belongs to the client's reader.
type fileReader struct {
	conn  *os.File
	files []int
	oob   [unix.SizeofCmsghdr + 8 + 4*maxFiles]byte
}

// Read implements io.Reader.
func (r *fileReader) Read(p []byte) (int, error) {
	raw, err := r.conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var n, oobn int
	var received error
	err = raw.Read(func(fd uintptr) bool {
		n, oobn, _, _, received = unix.Recvmsg(int(fd), p, r.oob[:], unix.MSG_CMSG_CLOEXEC)
		return received != unix.EAGAIN
	})
	switch {
	case err != nil:
		return 0, err
	case received != nil:
		return 0, received
	}
	r.keep(r.oob[:oobn])
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// keep takes the descriptors out of a control message. More than a command can need are closed.
func (r *fileReader) keep(oob []byte) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			continue
		}
		r.files = append(r.files, fds...)
	}
	for len(r.files) > maxFiles {
		last := len(r.files) - 1
		unix.Close(r.files[last])
		r.files = r.files[:last]
	}
}

// take gives the descriptors that came away.
func (r *fileReader) take() []int {
	f := r.files
	r.files = nil
	return f
}

// drop closes what nobody took.
func (r *fileReader) drop() {
	for _, fd := range r.take() {
		unix.Close(fd)
	}
}
