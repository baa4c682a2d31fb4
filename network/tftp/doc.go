// Package tftp gives guests files to boot from: the read half of the Trivial File Transfer Protocol (RFC 1350) with the
// options blksize, timeout and tsize (RFC 2347 to 2349). Files come from a function, so that the process that serves decides
// what there is; package services opens them below one directory.
//
// Everything that comes in was written by guests. A request costs nothing before it has one of a bounded number of places, which
// is why no library is used: the one that is kept well opens a socket and a quarter of a megabyte for each packet first.
//
// Left out: writing, netascii and mail, which firmware does not use. Start reading at Server.
package tftp
