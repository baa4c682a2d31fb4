# Starting L1.

# launch CTL SHARE SERIAL-ARGUMENT...: QEMU with everything the header of lab.sh promises. CTL is the folder with the
# command, SHARE becomes /share.
launch() {
  local ctl=$1 share=$2 k t modules
  shift 2
  k=$(kernel_dir "$LAB_KERNEL")
  [ -d "$k" ] || die "LAB_KERNEL=$LAB_KERNEL: it is one of $KERNELS"
  modules=$k/lib/modules
  if [ "$LAB_IOMMUFD" != 0 ]; then
    [ "$LAB_KERNEL" = "$IOMMUFD_KERNEL" ] || die "LAB_IOMMUFD=1 needs LAB_KERNEL=$IOMMUFD_KERNEL"
    modules=$IOMMUFD_MODULES/lib/modules
  fi
  cp "$HERE/init/l1-second" "$ctl/init"
  echo "$LAB_MODULES" >"$ctl/modules"
  : >"$ctl/env"
  for t in $LAB_ENV; do printf 'export %q\n' "$t" >>"$ctl/env"; done

  local qemu=$ROOT
  [ "$LAB_SMP" = 1 ] || qemu=$EMULATOR
  local lib=$qemu/usr/lib/x86_64-linux-gnu
  local a=("$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$qemu/usr/bin/qemu-system-x86_64"
    -L "$qemu/usr/share/qemu" -L "$qemu/usr/share/seabios" -L "$qemu/usr/lib/ipxe/qemu"
    -nodefaults -no-user-config -display none -monitor none -no-reboot
    -M q35 -accel tcg,thread=multi,tb-size=512 -cpu "$LAB_CPU" -smp "$LAB_SMP" -m "$LAB_MEM"
    -kernel "$k/vmlinux" -initrd "$(l1_initrd "$LAB_KERNEL")")
  local append="console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check"
  append+=" random.trust_cpu=1 apparmor=0 audit=0 cryptomgr.notests iomem=relaxed"
  [ "$LAB_HUGE" = 0 ] || append+=" hugepages=$LAB_HUGE"
  [ "$LAB_VERBOSE" = 0 ] || append=${append/ quiet/}
  # intel-iommu must come before the devices it translates for
  if [ "$LAB_IOMMU" = intel ]; then
    a+=(-device "intel-iommu,intremap=on,caching-mode=on")
    append+=" intel_iommu=on"
  fi
  [ "$LAB_DEVICES" = 0 ] || pci_devices "$ctl/nvme.img"
  folder root "$ROOT" on
  folder opt "$IMAGES/opt" on
  folder mods "$modules" on
  [ "$LAB_CLIENTS" = 0 ] || append+=" lab.clients"
  [ "$LAB_CLIENTS" = 0 ] || folder clients "$CLIENTS_ROOT" on
  folder ctl "$ctl" off
  folder share "$share" off
  timeout --foreground "$LAB_TIMEOUT" "${a[@]}" -append "$append $LAB_APPEND" "$@" $LAB_EXTRA
}

# folder TAG PATH READONLY adds a 9p share to launch's arguments.
folder() {
  a+=(-fsdev "local,id=fs_$1,path=$2,security_model=none,multidevs=remap,readonly=$3"
    -device "virtio-9p-pci,fsdev=fs_$1,mount_tag=$1")
}

# pci_devices NVME-IMAGE adds the PCI functions to test with to launch's arguments.
pci_devices() {
  truncate -s 64M "$1"
  local n
  for n in 1 2 3 4; do a+=(-device "pcie-root-port,id=rp$n,chassis=$n,slot=$n"); done
  a+=(
    # 0000:01:00.0 igb, its virtual functions at 01:10.0, 01:10.2, ...
    -netdev hubport,id=n1,hubid=1 -device igb,bus=rp1,netdev=n1,mac=52:54:00:aa:00:01
    # 0000:02:00.0 e1000e, on the same network segment
    -netdev hubport,id=n2,hubid=1 -device e1000e,bus=rp2,netdev=n2,mac=52:54:00:aa:00:02
    # 0000:03:00.0 nvme with two virtual functions
    -device nvme-subsys,id=sub0 -drive "if=none,id=nvd,file=$1,format=raw"
    -device "nvme,bus=rp3,id=nv0,serial=LAB,subsys=sub0,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7"
    -device nvme-ns,drive=nvd,bus=nv0
    # 0000:04:00.0 virtio-net behind the IOMMU
    -netdev hubport,id=n3,hubid=1 -device virtio-net-pci,bus=rp4,netdev=n3,mac=52:54:00:aa:00:03,iommu_platform=on)
}

# control_dir makes the folder that one run's command and status live in; it goes with this process.
control_dir() {
  CTL=$(mktemp -d "$LAB/run.XXXXXX")
  trap 'rm -rf "$CTL"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}

run() {
  local share=$PWD rc=0 c1 c2
  [ "${1:-}" = -w ] && { share=$(readlink -f "$2"); shift 2; }
  [ "${1:-}" = -- ] && shift
  [ $# -gt 0 ] || die "run: no command"
  [ -d "$share" ] || die "run: no folder $share"
  control_dir
  printf '%q ' "$@" >"$CTL/cmd"
  echo >>"$CTL/cmd"
  # console -> file; CMD's stdout and stderr -> virtio-serial -> ours, through fifos, so that any kind of file
  # descriptor 1 and 2 works
  mkfifo "$CTL/out" "$CTL/err" "$CTL/pulse"
  cat "$CTL/out" & c1=$!
  cat "$CTL/err" >&2 & c2=$!
  pulse "$CTL/pulse" >/dev/null 2>&1 &
  exec 8<>"$CTL/out" 9<>"$CTL/err"
  launch "$CTL" "$share" -serial "file:$CONSOLE" -device virtio-serial-pci \
    -chardev "file,id=co,path=$CTL/out,append=on" -device virtserialport,chardev=co,name=lab.out \
    -chardev "file,id=ce,path=$CTL/err,append=on" -device virtserialport,chardev=ce,name=lab.err \
    -chardev "pipe,id=cp,path=$CTL/pulse" -device virtserialport,chardev=cp,name=lab.pulse \
    </dev/null 2> >(grep -v 'is not connected to host network' >&2) || rc=$?
  exec 8>&- 9>&-
  wait $c1 $c2 || true
  if [ $rc = 124 ]; then
    log "timeout after ${LAB_TIMEOUT}s; the end of the console:"
    tail -5 "$CONSOLE" >&2
    exit 124
  fi
  if [ ! -s "$CTL/rc" ]; then
    log "no exit status from L1 (qemu's: $rc); the end of the console:"
    tail -15 "$CONSOLE" >&2
    exit 125
  fi
  exit "$(cat "$CTL/rc")"
}

# pulse FIFO sends L1 five lines a second, for as long as this process is there and the fifo is. The emulator now and then loses
# an interrupt of L1's timer, as far as one can tell because two of its threads change the word of pending interrupts at the same
# time: that of the CPU, which enters and leaves L2, and that of the timer. An idle L1 then stands still for good; the next
# interrupt from anywhere brings the lost one back. L1's init passes the line on to each further CPU.
pulse() {
  exec 7<>"$1"
  while [ -e "$1" ] && kill -0 $$; do
    echo >&7
    sleep 0.2
  done
}

shell() {
  control_dir
  { stty size 2>/dev/null || echo 24 80; } | awk '{ print "rows " $1 " cols " $2 }' >"$CTL/shell"
  LAB_TIMEOUT=${LAB_TIMEOUT_SHELL:-86400} launch "$CTL" "$PWD" -serial mon:stdio
}
