package kvm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"virtd/driver"
	"virtd/driver/kvm/supervise"
	"virtd/virterr"
)

// MemoryStats implements driver.Instance.
func (i *instance) MemoryStats(ctx context.Context) (driver.MemoryStats, error) {
	s := driver.MemoryStats{Actual: i.rec.Memory}
	if rss, err := supervise.RSS(i.rec.PID); err == nil {
		s.RSS = rss
	}
	if b := i.definition().View().Devices.MemBalloon; b == nil || b.Model == "none" {
		return s, nil
	}
	var reply struct {
		Actual     uint64                       `json:"actual"`
		Stats      map[driver.MemoryStat]uint64 `json:"stats"`
		LastUpdate int64                        `json:"last-update"` // seconds since 1970
	}
	if err := i.execute(ctx, "x-virtd-balloon-stats", nil, &reply); err != nil {
		return s, err
	}
	s.Actual, s.Guest = reply.Actual, reply.Stats
	if reply.LastUpdate != 0 {
		s.LastUpdate = time.Unix(reply.LastUpdate, 0)
	}
	return s, nil
}

// BlockStats implements driver.Instance.
func (i *instance) BlockStats(ctx context.Context) (map[string]driver.BlockStats, error) {
	var reply map[string]struct {
		ReadBytes  uint64 `json:"rd-bytes"`
		ReadOps    uint64 `json:"rd-ops"`
		ReadNS     int64  `json:"rd-ns"`
		WriteBytes uint64 `json:"wr-bytes"`
		WriteOps   uint64 `json:"wr-ops"`
		WriteNS    int64  `json:"wr-ns"`
		FlushOps   uint64 `json:"flush-ops"`
		FlushNS    int64  `json:"flush-ns"`
		Errors     uint64 `json:"errors"`
		Size       uint64 `json:"size"` // bytes a guest sees; engines of before qcow2 do not say
	}
	if err := i.execute(ctx, "x-virtd-block-stats", nil, &reply); err != nil {
		return nil, err
	}
	images, _ := i.used()
	all := make(map[string]driver.BlockStats, len(images))
	for _, image := range images {
		if image.Backing {
			continue
		}
		r := reply[image.Alias]
		s := driver.BlockStats{
			ReadBytes: r.ReadBytes, ReadOps: r.ReadOps, ReadTime: time.Duration(r.ReadNS),
			WriteBytes: r.WriteBytes, WriteOps: r.WriteOps, WriteTime: time.Duration(r.WriteNS),
			FlushOps: r.FlushOps, FlushTime: time.Duration(r.FlushNS), Errors: r.Errors,
		}
		s.Allocation, s.Physical = imageSize(image)
		if s.Capacity = r.Size; s.Capacity == 0 {
			s.Capacity = s.Physical
		}
		all[image.Alias] = s
	}
	return all, nil
}

// imageSize returns what an image occupies and how long it is, in bytes; zeros when its path now names another file.
func imageSize(image imageRecord) (allocation, length uint64) {
	var st unix.Stat_t
	if unix.Stat(image.Path, &st) != nil || st.Ino != image.Ino || st.Dev != image.Dev {
		return 0, 0
	}
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		sectors, err := readNumber(fmt.Sprintf("/sys/dev/block/%d:%d/size", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
		if err != nil {
			return 0, 0
		}
		return sectors * 512, sectors * 512
	}
	return uint64(st.Blocks) * 512, uint64(st.Size)
}

// NetStats implements driver.Instance: the host's counters of each tap, which count every kind of back end, and the engine's
// where there is no tap. A device that the host lost has none.
func (i *instance) NetStats(ctx context.Context) (map[string]driver.NetStats, error) {
	_, taps := i.used()
	all := make(map[string]driver.NetStats, len(taps))
	for alias, tap := range taps {
		s, err := i.d.cfg.Links.GuestStats(tap)
		if _, now := i.used(); err != nil && now[alias] != tap {
			continue // it went meanwhile
		}
		if errors.Is(err, unix.ENODEV) {
			all[alias] = driver.NetStats{}
			continue
		}
		if err != nil {
			return nil, err
		}
		all[alias] = driver.NetStats(s)
	}
	return all, i.streamStats(ctx, taps, all)
}

// streamStats adds the counters of the interfaces that have no tap.
func (i *instance) streamStats(ctx context.Context, taps map[string]string, all map[string]driver.NetStats) error {
	var ask []string
	for _, nic := range i.definition().Tree().Root.Child("devices").All("interface") {
		if alias := alias(nic); nic.Attr("type") == "user" && taps[alias] == "" {
			ask = append(ask, alias)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	var reply map[string]struct {
		RxBytes   uint64 `json:"rx-bytes"`
		RxPackets uint64 `json:"rx-packets"`
		RxDropped uint64 `json:"rx-dropped"`
		TxBytes   uint64 `json:"tx-bytes"`
		TxPackets uint64 `json:"tx-packets"`
		TxDropped uint64 `json:"tx-dropped"`
	}
	if err := i.execute(ctx, "x-virtd-net-stats", nil, &reply); err != nil {
		return err
	}
	for _, alias := range ask {
		s := reply[alias]
		all[alias] = driver.NetStats{
			RxBytes: s.RxBytes, RxPackets: s.RxPackets, RxDropped: s.RxDropped, TxBytes: s.TxBytes, TxPackets: s.TxPackets, TxDropped: s.TxDropped,
		}
	}
	return nil
}

// CPUTime implements driver.Instance.
func (i *instance) CPUTime() (driver.CPUTime, error) {
	if i.rec.Cgroup != "" {
		if total, user, system, err := supervise.CgroupTime(i.rec.Cgroup); err == nil {
			return driver.CPUTime{Total: total, User: user, System: system}, nil
		}
	}
	s, err := supervise.ReadStat(i.rec.PID, 0)
	if err != nil || s.StartTime != i.rec.StartTime {
		return driver.CPUTime{}, virterr.New(virterr.OperationInvalid, "domain is not running")
	}
	return driver.CPUTime{Total: s.User + s.System, User: s.User, System: s.System}, nil
}

func bitmap(cpus []int) []byte {
	var b []byte
	for _, c := range cpus {
		for len(b) <= c/8 {
			b = append(b, 0)
		}
		b[c/8] |= 1 << (c % 8)
	}
	return b
}

// affinity returns the host CPUs a thread may run on.
func affinity(tid int) ([]byte, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(tid, &set); err != nil {
		return nil, err
	}
	online := hostCPUs()
	b := make([]byte, (online+7)/8)
	for c := range online {
		if set.IsSet(c) {
			b[c/8] |= 1 << (c % 8)
		}
	}
	return b, nil
}

// hostCPUs returns how many CPUs this host can have, as libvirt's CPU maps count them.
func hostCPUs() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/present")
	if err != nil {
		return 1
	}
	last := 0
	for n, digits := 0, ""; n <= len(text); n++ { // the list is ascending: the last number is the highest
		if n < len(text) && text[n] >= '0' && text[n] <= '9' {
			digits += string(text[n])
			continue
		}
		if v, err := strconv.Atoi(digits); err == nil {
			last = v
		}
		digits = ""
	}
	return last + 1
}
