package signature

// Kind is what a signature stands for.
type Kind int

// The kinds.
const (
	FileSystem Kind = iota
	Partitions      // a partition table
	Member          // a part of something larger, such as a volume group
	Other           // encryption, swap, a disk image
)

// magic is a text at a fixed place.
type magic struct {
	name   string
	kind   Kind
	offset int64 // from the end where it is negative
	text   string
}

// magics are the signatures that are no more than that. ext, FAT, partition tables and RAID take a second look.
var magics = []magic{
	{"xfs", FileSystem, 0, "XFSB"},
	{"btrfs", FileSystem, 65536 + 64, "_BHRfS_M"},
	{"ntfs", FileSystem, 3, "NTFS    "},
	{"exfat", FileSystem, 3, "EXFAT   "},
	{"iso9660", FileSystem, 32769, "CD001"},
	{"udf", FileSystem, 34817, "NSR0"},
	{"udf", FileSystem, 36865, "NSR0"},
	{"f2fs", FileSystem, 1024, "\x10\x20\xf5\xf2"},
	{"squashfs", FileSystem, 0, "hsqs"},
	{"erofs", FileSystem, 1024, "\xe2\xe1\xf5\xe0"},
	{"reiserfs", FileSystem, 65536 + 52, "ReIsEr"},
	{"jfs", FileSystem, 32768, "JFS1"},
	{"hfsplus", FileSystem, 1024, "H+"},
	{"hfsplus", FileSystem, 1024, "HX"},
	{"gfs2", FileSystem, 65536, "\x01\x16\x19\x70"},
	{"ocfs2", FileSystem, 1024, "OCFSV2"},
	{"ocfs2", FileSystem, 2048, "OCFSV2"},
	{"ocfs2", FileSystem, 4096, "OCFSV2"},
	{"ocfs2", FileSystem, 8192, "OCFSV2"},
	{"nilfs2", FileSystem, 1024 + 6, "\x34\x34"},
	{"bcachefs", FileSystem, 4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef"},
	{"ufs", FileSystem, 8192 + 1372, "\x54\x19\x01\x00"},
	{"ufs", FileSystem, 65536 + 1372, "\x19\x01\x54\x19"},
	{"VMFS_volume_member", Member, 0x100000, "\x0d\xd0\x01\xc0"},
	{"LVM2_member", Member, 0, "LABELONE"},
	{"LVM2_member", Member, 512, "LABELONE"},
	{"LVM2_member", Member, 1024, "LABELONE"},
	{"LVM2_member", Member, 1536, "LABELONE"},
	{"bcache", Member, 4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81"},
	{"linux_raid_member", Member, 0, "\xfc\x4e\x2b\xa9"},
	{"linux_raid_member", Member, 4096, "\xfc\x4e\x2b\xa9"},
	{"ceph_bluestore", Member, 0, "bluestore block device"},
	{"vdo", Member, 0, "dmvdo001"},
	{"crypto_LUKS", Other, 0, "LUKS\xba\xbe"},
	{"crypto_LUKS", Other, 0x4000, "SKUL\xba\xbe"},
	{"BitLocker", Other, 3, "-FVE-FS-"},
	{"swap", Other, 4096 - 10, "SWAPSPACE2"},
	{"swap", Other, 8192 - 10, "SWAPSPACE2"},
	{"swap", Other, 16384 - 10, "SWAPSPACE2"},
	{"swap", Other, 65536 - 10, "SWAPSPACE2"},
	{"swsuspend", Other, 4096 - 10, "S1SUSPEND"},
	{"qcow2", Other, 0, "QFI\xfb"},
	{"vmdk", Other, 0, "KDMV"},
	{"vhdx", Other, 0, "vhdxfile"},
	{"vdi", Other, 0x40, "\x7f\x10\xda\xbe"},
	{"gpt", Partitions, 512, "EFI PART"},
	{"gpt", Partitions, 4096, "EFI PART"},
	{"gpt", Partitions, -512, "EFI PART"},
	{"gpt", Partitions, -4096, "EFI PART"},
}
