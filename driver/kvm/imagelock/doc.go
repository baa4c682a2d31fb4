// Package imagelock locks disk images with the byte ranges that QEMU uses (block/file-posix.c), so that QEMU, its tools
// and virtd exclude each other.
//
// A user of an image holds, as shared locks of its open file description, byte 100+i for each permission i it has, and
// byte 200+i for each permission i it does not let others have. A lock is good when nobody else holds the opposite byte.
// The locks belong to the open file: they go with it to another process and end when its last descriptor is closed.
//
// Left out: who may use an image at all, and naming the domains that use it (driver/kvm). Start reading at Take.
package imagelock
