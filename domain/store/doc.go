// Package store keeps domain definitions and the records of running domains on disk, so that both survive kill -9 of
// virtd and a power cut at any instant.
//
// Definitions are files named by UUID, so that a rename is one atomic write: a temporary file is written, synced and renamed
// over the old one. That takes two syncs of the file system, so a change is first appended to a journal, with one sync that
// those who come at once share, before the call returns; the file follows within seconds, and when the store is closed. The
// journal's own file, with zeros where records will be, is made before somebody waits for it, and records are written past the
// kernel's cache where the file system has that. What is in the journal counts
// when the store is opened. A file that cannot be understood (truncated, foreign, from another build) is reported and left
// where it is, never deleted. In memory there is one small Entry for each definition; documents are read when somebody asks.
//
// Status records describe running domains in a directory that does not survive a boot of the host.
//
// Left out: names of running domains, jobs, events (domain/manager).
//
// Start reading at Store, then Dir, commit.go, settle.go and move.go.
package store
