package nodeinfo

import (
	"errors"
	"fmt"
	"strconv"
)

const ksmDir = "sys/kernel/mm/ksm/"

// ErrReadOnly is what changing a setting fails with where a Node cannot change any.
var ErrReadOnly = errors.New("settings of this host cannot be changed")

// KSM returns a number of the kernel's same-page merging (mm/ksm of the kernel's administration guide); ok is false where the
// kernel does not have it.
func (n *Node) KSM(name string) (value uint64, ok bool) {
	value, err := strconv.ParseUint(n.read(ksmDir+name), 10, 64)
	return value, err == nil
}

// SetKSM changes a number of the kernel's same-page merging.
func (n *Node) SetKSM(name string, value uint64) error {
	return n.set(ksmDir+name, value)
}

// SetHugePages sets how many huge pages of a size, in KiB, a NUMA node keeps, or changes the number by that many when add is
// set. It returns how many there are then, which is less than wanted where memory is short.
func (n *Node) SetHugePages(cell int, size uint32, count uint64, add bool) (uint64, error) {
	file := n.hugeDir(cell, size) + "/nr_hugepages"
	now, err := strconv.ParseUint(n.read(file), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("page size %d KiB is not available on node %d", size, cell)
	}
	if add {
		count += now
	}
	if err := n.set(file, count); err != nil {
		return now, err
	}
	return strconv.ParseUint(n.read(file), 10, 64)
}

func (n *Node) set(file string, value uint64) error {
	if n.Write == nil {
		return ErrReadOnly
	}
	if err := n.Write(file, strconv.FormatUint(value, 10)); err != nil {
		return fmt.Errorf("set /%s: %w", file, err)
	}
	return nil
}
