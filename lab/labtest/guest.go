package labtest

import "path/filepath"

// GuestFolder is where the lab keeps kernels and images for guests.
const GuestFolder = "/opt/lab/guest"

// ToolsDisk is an ext4 image with tools for guests, fio among them. A guest that finds it on a virtio disk with the
// serial number "labtools" has them in its PATH. It must be attached read-only.
const ToolsDisk = GuestFolder + "/tools.img"

// QuietCmdline is a kernel command line that boots a guest in the lab fast and with little on its console.
const QuietCmdline = "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check " +
	"random.trust_cpu=1 apparmor=0 audit=0"

// Versions are the stock Debian kernels that the lab has for guests.
var Versions = []string{"6.1", "6.12"}

// A GuestKernel names the files of one stock Debian kernel and the initramfs images made for it.
type GuestKernel struct {
	// Version is one of Versions.
	Version string
	// Image is the bzImage, ELF the uncompressed kernel with a PVH note.
	Image, ELF string
	// Initrd ends at a shell or runs a command (see lab/README.md); Tools is the same with more programs; Probe
	// says that it reached user space and switches off.
	Initrd, Tools, Probe string
}

// Kernel returns the files of a kernel of Versions.
func Kernel(version string) GuestKernel {
	d := filepath.Join(GuestFolder, version)
	return GuestKernel{
		Version: version,
		Image:   filepath.Join(d, "vmlinuz"),
		ELF:     filepath.Join(d, "vmlinux"),
		Initrd:  filepath.Join(d, "initrd"),
		Tools:   filepath.Join(d, "initrd-tools"),
		Probe:   filepath.Join(d, "initrd-probe"),
	}
}
