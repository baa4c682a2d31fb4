// Package dirtyrate measures how fast a guest dirties its memory, as QEMU's calc-dirty-rate does: over a given time, once.
//
// Page sampling hashes some pages of each GiB of RAM before and after; the share that changed stands for all. It costs
// nothing in between, sees whoever writes, and does not see a page that was written with what it held. Dirty bitmap counts
// the pages of 4 KiB that a Log has at the end, each once, however often it was written. Dirty ring, by vCPU, needs KVM's
// ring, which this engine does not make.
//
// A Meter measures one thing at a time and keeps the last result. The package leaves out who asks. Start reading at Meter.
package dirtyrate
