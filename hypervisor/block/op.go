package block

import (
	"golang.org/x/sys/unix"
)

// Code says what an Op does.
type Code uint8

// Operations.
const (
	Read        Code = iota
	Write            // durable at completion if Op.Durable
	Flush            // what completed before is on stable storage
	Discard          // Len bytes at Off may lose their contents
	WriteZeroes      // Len bytes at Off read as zeroes; Op.Unmap lets the host give the space back
)

// Op is one request. The caller fills the first group and leaves it alone until Loop.Next returns it.
type Op struct {
	Code    Code
	Durable bool         // Write, WriteZeroes: as if a Flush followed
	Unmap   bool         // WriteZeroes
	Iov     []unix.Iovec // Read, Write: guest memory; the Op cuts it as it proceeds
	Off     int64        // bytes
	Len     int64        // bytes; the sum of Iov for Read and Write
	Tag     int          // the caller's

	// Err is the result, 0 for success.
	Err unix.Errno

	file  *Image // whose file it is about, and
	at    int64  // where in it: Off, unless the image has a format
	state int64  // bytes done, or the step of a fallback
	slow  bool   // the format does it, in steps of its own
	held  bool   // the format must not use the place for something else before epoch is left
	epoch uint8
	stage stage
	slot  uint64
	next  *Op
}

// stage is what an Op in flight waits for.
type stage uint8

const (
	stageMain  stage = iota // the operation itself
	stageFlush              // the fdatasync behind a durable operation without a flag of its own
)

// list is a queue of Ops through their next fields.
type list struct{ head, tail *Op }

func (l *list) push(op *Op) {
	op.next = nil
	if l.tail == nil {
		l.head = op
	} else {
		l.tail.next = op
	}
	l.tail = op
}

func (l *list) pop() *Op {
	op := l.head
	if op != nil {
		if l.head = op.next; l.head == nil {
			l.tail = nil
		}
		op.next = nil
	}
	return op
}
