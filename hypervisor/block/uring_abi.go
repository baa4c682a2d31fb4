package block

// The kernel's interface to io_uring (include/uapi/linux/io_uring.h, Linux 6.1). A test checks the sizes.

// Setup flags.
const (
	setupCQSize       = 1 << 3  // IORING_SETUP_CQSIZE
	setupDisabled     = 1 << 6  // IORING_SETUP_R_DISABLED, 5.10
	setupCoopTaskrun  = 1 << 8  // IORING_SETUP_COOP_TASKRUN, 5.19
	setupSingleIssuer = 1 << 12 // IORING_SETUP_SINGLE_ISSUER, 6.0
	setupDeferTaskrun = 1 << 13 // IORING_SETUP_DEFER_TASKRUN, 6.1
)

// Features.
const (
	featSingleMmap = 1 << 0  // IORING_FEAT_SINGLE_MMAP
	featNoDrop     = 1 << 1  // IORING_FEAT_NODROP
	featExtArg     = 1 << 8  // IORING_FEAT_EXT_ARG, 5.11: an enter can have a time limit
	featRsrcTags   = 1 << 10 // IORING_FEAT_RSRC_TAGS, 5.13: the release that has multishot poll
	featCQESkip    = 1 << 11 // IORING_FEAT_CQE_SKIP, 5.17
)

// Offsets for mmap.
const (
	offRings = 0          // IORING_OFF_SQ_RING, with featSingleMmap also the completion ring
	offSQEs  = 0x10000000 // IORING_OFF_SQES
)

// Operations.
const (
	opReadv      = 1
	opWritev     = 2
	opFsync      = 3
	opPollAdd    = 6
	opPollRemove = 7
	opFallocate  = 17
	opWrite      = 23
)

const (
	enterGetEvents = 1 // IORING_ENTER_GETEVENTS
	enterExtArg    = 8 // IORING_ENTER_EXT_ARG
	fsyncDatasync  = 1 // IORING_FSYNC_DATASYNC
	pollAddMulti   = 1 // IORING_POLL_ADD_MULTI
	cqeMore        = 2 // IORING_CQE_F_MORE
	sqeSkipSuccess = 1 << 6

	registerRestrictions = 11 // IORING_REGISTER_RESTRICTIONS
	registerEnableRings  = 12 // IORING_REGISTER_ENABLE_RINGS

	restrictionSQEOp           = 1 // IORING_RESTRICTION_SQE_OP
	restrictionSQEFlagsAllowed = 2 // IORING_RESTRICTION_SQE_FLAGS_ALLOWED
)

// params is struct io_uring_params.
type params struct {
	sqEntries, cqEntries, flags, sqThreadCPU, sqThreadIdle, features, wqFD uint32
	_                                                                      [3]uint32

	sq struct {
		head, tail, ringMask, ringEntries, flags, dropped, array, _ uint32
		_                                                           uint64
	}
	cq struct {
		head, tail, ringMask, ringEntries, overflow, cqes, flags, _ uint32
		_                                                           uint64
	}
}

// sqe is struct io_uring_sqe.
type sqe struct {
	opcode, flags uint8
	ioprio        uint16
	fd            int32
	off           uint64
	addr          uint64
	len           uint32
	opFlags       uint32 // rw_flags, fsync_flags, poll32_events
	userData      uint64
	_             [3]uint64
}

// eventsArg is struct io_uring_getevents_arg.
type eventsArg struct {
	sigmask     uint64
	sigmaskSize uint32
	_           uint32
	time        uint64 // address of a time64
}

// time64 is struct __kernel_timespec.
type time64 struct{ sec, nsec int64 }

// cqe is struct io_uring_cqe.
type cqe struct {
	userData uint64
	res      int32
	flags    uint32
}

// restriction is struct io_uring_restriction.
type restriction struct {
	opcode uint16
	arg    uint8
	_      uint8
	_      [3]uint32
}
