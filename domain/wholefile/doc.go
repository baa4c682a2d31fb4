// Package wholefile makes large files that appear under their name whole, or not at all.
//
// A new file has no name until it is complete (O_TMPFILE), so that the end of this process at any instant leaves nothing
// behind; where the file system cannot do that it has a hidden one. It takes its name by rename, so that an older file
// stays until the new one is on disk. A block device is written in place. Start reading at Create.
package wholefile
