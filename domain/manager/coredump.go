package manager

import (
	"context"
	"errors"

	"virtd/domain/wholefile"
	"virtd/driver"
	"virtd/virterr"
)

// DumpFormat is virDomainCoreDumpFormat.
type DumpFormat uint32

// dumpFormats are the names of the formats. Raw is ELF for a dump of memory alone.
var dumpFormats = [...]string{"elf", "kdump-zlib", "kdump-lzo", "kdump-snappy", "win-dmp", "kdump-raw-zlib", "kdump-raw-lzo", "kdump-raw-snappy"}

// CoreDump writes an ELF core file of the running guest to path. When it fails there is no file and the guest goes on.
func (d *Domain) CoreDump(ctx context.Context, path string, format DumpFormat, flags DumpFlags) error {
	if err := checkFlags(flags, dumpKnown, "qemuDomainCoreDumpWithFormat"); err != nil {
		return err
	}
	switch {
	case int(format) >= len(dumpFormats):
		return virterr.New(virterr.InvalidArg, "invalid value of dumpformat: %d", format)
	case format != 0 && flags&DumpMemoryOnly == 0:
		return virterr.New(virterr.OperationUnsupported, "kdump-compressed format is only supported with memory-only dump")
	case format != 0:
		return virterr.New(virterr.OperationInvalid, "unsupported dumpformat '%s' for this QEMU binary", dumpFormats[format])
	case flags&DumpMemoryOnly == 0:
		return virterr.New(virterr.OperationUnsupported, "a dump that is not of memory only is in QEMU's migration format, which this engine does not have: use --memory-only for an ELF core file")
	}
	if err := checkImagePath(path); err != nil {
		return err
	}
	j, err := d.begin(context.WithoutCancel(ctx), "dump")
	if err != nil {
		return err
	}
	defer j.end()
	return j.outcome(d, d.coreDump(j, path, flags))
}

func (d *Domain) coreDump(j *job, path string, flags DumpFlags) error {
	inst, _, err := d.engine()
	if err != nil {
		return err
	}
	state, _ := d.State()
	f, err := wholefile.Create(path)
	if err != nil {
		return fileError("create", path, err)
	}
	defer f.Close()
	err = d.runLong(j, JobDump, inst, func(ctx context.Context) error { return inst.Dump(ctx, f.File, flags&DumpLive != 0) })
	if err != nil {
		d.settle(inst, state)
		return errors.Join(longError("dump", d.Name(), path, err), f.Abort())
	}
	if err := f.Commit(); err != nil {
		return errors.Join(fileError("write", path, err), f.Abort())
	}
	return d.afterDump(j, inst, flags)
}

// afterDump does to the guest what the flags want.
func (d *Domain) afterDump(j *job, inst driver.Instance, flags DumpFlags) error {
	switch {
	case flags&DumpCrash != 0:
		d.mu.Lock()
		r := d.run
		if r != nil {
			r.destroying, r.endAs = true, &end{ShutOffCrashed, StoppedCrashed}
		}
		d.mu.Unlock()
		if r == nil {
			return nil
		}
		return d.end(j, r, inst, false)
	case flags&DumpReset != 0:
		ctx, cancel := d.call(j.ctx)
		defer cancel()
		return inst.Reset(ctx)
	}
	return nil
}
