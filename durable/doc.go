// Package durable changes small files such that a crash or a power cut at any instant leaves the old contents or the new,
// and a change that was reported done stays done.
//
// It leaves out files that are too large for memory (domain/wholefile) and the store of domains, which tests its own
// sequence of calls against power cuts (domain/store). Start reading at Write.
package durable
