#!/bin/bash
# lab.sh - a throw-away test host on any x86_64 Debian machine; no root rights and no KVM needed.
#
# It runs a stock Debian kernel ("L1") under QEMU's software emulation (TCG), on a q35 board that has
#   * AMD SVM with nested paging  -> kvm_amd works in L1: /dev/kvm, and guests of L1 ("L2") really boot
#   * an IOMMU with interrupt remapping -> IOMMU groups, vfio-pci, /dev/vfio/N
#   * igb (82576, 7 SR-IOV functions), e1000e, nvme (2 functions) and virtio-net, each behind a root port of its own
#   * the whole Debian userland that the tests need (virsh, iperf3, fio, iasl, ...) as L1's root
#
#   lab.sh build                         fetch Debian packages and build the images; nothing is installed
#   lab.sh run [-w DIR] [--] CMD ARG...  run CMD in L1, with DIR (default .) as /share and as its working directory;
#                                        stdout, stderr and the exit status come back
#   lab.sh shell                         a shell in L1 on this terminal
#   lab.sh tool NAME ARG...              run a program of the lab's userland (virsh, iasl, ...) on this machine
#   lab.sh libvirtd                      build a tree with Debian's libvirtd, which bench/ compares with; print its path
#   lab.sh iommufd                       build modules of kernel 6.12 with iommufd, for LAB_IOMMUFD=1; print their folder
#   lab.sh images                        build the guest kernels and images only, for guests on this machine
#   lab.sh path [WHAT]                   print where something is: guest/6.1/vmlinuz, root, last-console.log, ...
#   lab.sh selftest                      check kvm and an L2 boot, vhost, vfio, SR-IOV, the tools
#
# Exit status of run: CMD's; 124: LAB_TIMEOUT was reached; 125: the lab itself failed (see $LAB/last-console.log).
#
# Environment: LAB (the cache folder)   LAB_KERNEL=6.1|6.12 (L1's kernel)   LAB_MEM=2048 (MiB)   LAB_SMP=1
#   LAB_TIMEOUT=300 (seconds)   LAB_HUGE=0 (2 MiB huge pages reserved in L1)   LAB_MODULES="kvm_amd vhost_net ..."
#   LAB_IOMMU=intel|none   LAB_DEVICES=1|0   LAB_CPU   LAB_APPEND (kernel arguments)   LAB_EXTRA (qemu arguments)
#   LAB_ENV="NAME=VALUE ..." (environment of CMD)   LAB_VERBOSE=0   LAB_CLIENTS=1 (virt-manager and others in /opt/clients)
#   LAB_IOMMUFD=1 (L1 has iommufd, with LAB_KERNEL=6.12)
# One lab runs at a time per cache folder; the others wait for $LAB/lock. LAB_SLOTS=2 lets two run where speed does not
# matter, LAB_SLOTS=0 waits until no other runs.
set -euo pipefail
umask 022

HERE=$(dirname "$(readlink -f "$0")")
LAB=${LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/virtd-lab}
LAB_KERNEL=${LAB_KERNEL:-6.1}
# More than 2048 MiB moves 64-bit BARs above 4 GiB, where QEMU 10.0.2's igb functions read as zero.
LAB_MEM=${LAB_MEM:-2048}
# With several CPUs, L1 runs under an emulator that is mended: lib/emulator.sh.
LAB_SMP=${LAB_SMP:-1}
LAB_TIMEOUT=${LAB_TIMEOUT:-300}
# The emulator runs "rep movsb" byte by byte, so kernels must not choose it.
LAB_CPU=${LAB_CPU:-max,-erms,-fsrm}
LAB_HUGE=${LAB_HUGE:-0}
LAB_IOMMU=${LAB_IOMMU:-intel}
LAB_DEVICES=${LAB_DEVICES:-1}
LAB_MODULES=${LAB_MODULES-"kvm_amd vhost_net tun vfio_pci vfio_iommu_type1"}
LAB_APPEND=${LAB_APPEND:-}
LAB_EXTRA=${LAB_EXTRA:-}
LAB_ENV=${LAB_ENV:-}
LAB_VERBOSE=${LAB_VERBOSE:-0}
LAB_CLIENTS=${LAB_CLIENTS:-0}
LAB_IOMMUFD=${LAB_IOMMUFD:-0}
LAB_SLOTS=${LAB_SLOTS:-1}

KERNELS="6.1 6.12"
CONSOLE=$LAB/last-console.log # last-console1.log for the second of two labs
ROOT=$LAB/root       # Debian userland: L1's root file system, and the programs run on this machine
IMAGES=$LAB/images   # what L1 sees as /opt/lab, and L1's own initrd

die() { echo "lab: $*" >&2; exit 125; }
log() { echo "lab: $*" >&2; }

for part in packages kernels iommufd userland emulator libvirtd clients guest l1 run selftest; do
  . "$HERE/lib/$part.sh"
done

build() {
  mkdir -p "$LAB"
  images
  build_l1
  [ "$LAB_SMP" = 1 ] || build_emulator
  [ "$LAB_CLIENTS" = 0 ] || build_clients
  [ "$LAB_IOMMUFD" = 0 ] || build_iommufd
}

images() {
  local v
  build_userland
  for v in $KERNELS; do build_kernel "$v"; done
  for v in $KERNELS; do build_guest "$v"; done
  build_tools_disk
}

# ensure COMMAND builds what is missing or old, which takes no time when nothing is. Images are replaced only while no
# lab runs.
ensure() {
  mkdir -p "$LAB"
  [ "${LAB_LOCKED:-}" != "$LAB" ] || return 0
  exec 5>"$LAB/lock-build"
  flock 5
  (PROBE=1 && "$@") >/dev/null 2>&1 || (
    exec 6>"$LAB/lock-alone"
    flock 6
    "$@"
  )
  exec 5>&-
}

# with_slot COMMAND... runs a lab: one at a time, or LAB_SLOTS, or none other at all with LAB_SLOTS=0. A second lab in
# the same process tree would wait for ever, so the holder says so to its children.
with_slot() {
  if [ "${LAB_LOCKED:-}" = "$LAB" ]; then "$@"; return; fi
  local slot said=
  SLOT=
  exec 6>"$LAB/lock-alone"
  if [ "$LAB_SLOTS" = 0 ]; then flock 6; else flock -s 6; fi
  until false; do
    for slot in $(seq 0 $((LAB_SLOTS > 0 ? LAB_SLOTS - 1 : 0))); do
      SLOT=${slot/#0/}
      exec 7>"$LAB/lock$SLOT"
      flock -n 7 && break 2
    done
    [ -n "$said" ] || log "waiting for another lab run ($LAB/lock)"
    said=1
    sleep 0.5
  done
  LAB_LOCKED=$LAB
  CONSOLE=$LAB/last-console$SLOT.log
  "$@"
}

case ${1:-} in
build) ensure build ;;
images) ensure images ;;
iommufd) ensure images; ensure build_iommufd; echo "$IOMMUFD_MODULES" ;;
libvirtd) ensure build_libvirtd; echo "$LIBVIRTD" ;;
run) shift; ensure build; with_slot run "$@" ;;
shell) ensure build; with_slot shell ;;
selftest) ensure build; with_slot selftest ;;
tool) shift; [ -e "$ROOT/.ok" ] || ensure build_userland; tool "$@" ;;
path)
  case ${2:-} in
  guest*) echo "$IMAGES/opt/$2" ;;
  *) echo "$LAB${2:+/$2}" ;;
  esac
  ;;
*) sed -n '2,29p' "$0"; exit 2 ;;
esac
