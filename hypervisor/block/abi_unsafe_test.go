package block

import (
	"testing"
	"unsafe"
)

// TestURingLayout compares with the sizes and offsets of the kernel's structures.
func TestURingLayout(t *testing.T) {
	for name, c := range map[string][2]uintptr{
		"io_uring_params":           {unsafe.Sizeof(params{}), 120},
		"io_uring_params.sq_off":    {unsafe.Offsetof(params{}.sq), 40},
		"io_uring_params.cq_off":    {unsafe.Offsetof(params{}.cq), 80},
		"io_uring_sqe":              {unsafe.Sizeof(sqe{}), 64},
		"io_uring_sqe.off":          {unsafe.Offsetof(sqe{}.off), 8},
		"io_uring_sqe.len":          {unsafe.Offsetof(sqe{}.len), 24},
		"io_uring_sqe.user_data":    {unsafe.Offsetof(sqe{}.userData), 32},
		"io_uring_getevents_arg":    {unsafe.Sizeof(eventsArg{}), 24},
		"io_uring_getevents_arg.ts": {unsafe.Offsetof(eventsArg{}.time), 16},
		"__kernel_timespec":         {unsafe.Sizeof(time64{}), 16},
		"io_uring_cqe":              {unsafe.Sizeof(cqe{}), 16},
		"io_uring_restriction":      {unsafe.Sizeof(restriction{}), 16},
		"io_uring_restriction.arg":  {unsafe.Offsetof(restriction{}.arg), 2},
	} {
		if c[0] != c[1] {
			t.Errorf("%s is %d, the kernel's %d", name, c[0], c[1])
		}
	}
}
