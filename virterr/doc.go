// Package virterr is the error vocabulary that every manager of virtd shares with libvirt's clients: an error code, the
// subsystem it came from, a level and a message, as libvirt's virterror.h numbers them.
//
// A function anywhere below the daemon returns a *virterr.Error when a user can have caused the failure; the daemon puts
// it on the wire unchanged. Any other error reaches the client as INTERNAL_ERROR with its text.
//
// The package leaves out translation and logging. Start reading at Error.
package virterr
