// Command vctl is virtd's own command line: it defines, starts, edits, balloons and watches domains, manages storage, networks and
// the host's devices, and opens consoles, over libvirt's wire protocol.
//
// It never touches host state itself: every command is a request to the daemon that the -c URI names, so it works the
// same on remote hosts. Ordinary calls go through go-libvirt; console streams and virtd's private program through
// virtd's own client. One file holds one group of commands. Start reading at app.
package main
