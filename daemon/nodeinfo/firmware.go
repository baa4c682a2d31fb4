package nodeinfo

import (
	"crypto/sha256"

	"github.com/google/uuid"
)

// DMI returns a value of the firmware's tables by its name under /sys/class/dmi/id, "" when there is none.
func (n *Node) DMI(name string) string { return n.read("sys/class/dmi/id/" + name) }

// UUID identifies the host: the firmware's UUID, else one derived from the machine id, which is not shown itself.
func (n *Node) UUID() uuid.UUID {
	if id, err := uuid.Parse(n.DMI("product_uuid")); err == nil && plausible(id) {
		return id
	}
	sum := sha256.Sum256([]byte("virtd host " + n.read("etc/machine-id")))
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x80 // RFC 9562, version 8: of our own making
	id[8] = id[8]&0x3f | 0x80
	return id
}

// plausible refuses what firmware writes when nobody set a UUID.
func plausible(id uuid.UUID) bool {
	for _, b := range id {
		if b != id[0] {
			return true
		}
	}
	return false
}

// Hostname returns the kernel's host name.
func (n *Node) Hostname() string { return n.read("proc/sys/kernel/hostname") }
