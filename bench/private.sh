# private.sh ROOT SCRATCH COMMAND... - run a daemon in the tree ROOT, with SCRATCH/{etc,run,var} as its /etc/libvirt, /run
# and /var. It is started in mount, process and network namespaces of its own, so that nothing else of the machine changes.
set -eu
root=$1 scratch=$2
shift 2
mount --make-rprivate /
mount --bind "$root" "$root"
mount --bind "$scratch/etc" "$root/etc/libvirt"
mount --bind "$scratch/run" "$root/run"
mount --bind "$scratch/var" "$root/var"
mount -t tmpfs tmpfs "$root/tmp"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys" # this network namespace's interfaces
# Without /dev/kvm: no guest is started, and where there is one that QEMU cannot use, libvirtd asks QEMU for its capabilities
# anew at every definition. With cpu_dma_latency, as daemons have it on a host.
mount -t tmpfs tmpfs "$root/dev"
for node in null zero full random urandom cpu_dma_latency; do
  [ -c "/dev/$node" ] || continue
  : >"$root/dev/$node"
  mount --bind "/dev/$node" "$root/dev/$node"
done
# This shell is the first process of its namespace: it stays, to wait for processes that the daemon's children leave.
chroot "$root" "$@" &
wait $!
