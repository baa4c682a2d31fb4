// Package saveimage is the file of a saved domain: a head of virtd's with the domain's document, and behind it the state
// that the engine wrote (hypervisor/statefile), which nobody but an engine reads.
//
// Numbers are little-endian. The head is
//
//	 0  16  "virtd-save-part\0" until the file is complete, then "virtd-save-done\0"
//	16   4  version, 1
//	20   4  flags: 1 the guest runs after a restore
//	24   4  slot of the document, 0 or 1
//	28   4  zero
//	32   8  bytes of a slot
//	40   8  bytes of the document
//	48   4  CRC-32C of the document
//	52   4  CRC-32C of bytes 16 to 51
//
// Slot 0 is at 4096, slot 1 behind it, the state behind that. A changed document goes into the other slot, and then the
// head, one sector, is written: at each instant one of the two is the document.
//
// The engine makes a state void, when the guest went on after all, by putting zeroes to its beginning. A complete head
// before a void state is an incomplete image. Start reading at Create and Open.
package saveimage
