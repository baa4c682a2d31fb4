# Guest images: $IMAGES/opt/guest/V/ (in L1: /opt/lab/guest/V/) with, for each stock kernel V,
#   vmlinuz vmlinux config modules/    the kernel as a bzImage and as ELF, its configuration and all its modules
#   initrd         busybox, the modules a virtio guest needs, init/guest: ends at a shell, or runs a command
#   initrd-tools   the same with bash, ip, ping, iperf3, ethtool, a DHCP client, ...
#   initrd-probe   says that it reached user space, lists its PCI devices and switches off
#   initrd-first   says LAB-FIRST as the first thing user space does, for measuring
# and guest/tools.img, an ext4 file system with those tools and fio (whose libraries are too much for an initrd):
# given to a guest as a virtio disk with the serial number "labtools", it is mounted and in the guest's PATH.

# Loaded in guests when the hardware or a mount asks for them. cpuid and msr let tests read what KVM offers.
GUEST_MODULES="virtio_pci virtio_blk virtio_net virtio_balloon virtio-rng virtio_console virtio_scsi
  vmw_vsock_virtio_transport pvpanic-pci pvpanic-mmio button evdev ext4 vfat nls_cp437 nls_ascii nls_iso8859-1
  crc32c_generic crc32c-intel cpuid msr igb igbvf e1000e nvme i6300esb"
GUEST_TOOLS="bash ip ping iperf3 ethtool dhclient sha256sum dd free lspci tcpdump taskset nproc lsblk"

guest_dir() { echo "$IMAGES/opt/guest/$1"; }

build_guest() {
  local v=$1 g k want
  g=$(guest_dir "$v")
  k=$(kernel_dir "$v")
  want=$(sum "$HERE"/lib/{guest,kernels,userland,packages}.sh "$HERE"/init/guest{,-probe,-first})
  stamp "$g/.ok" "$want" && return
  log "building guest images for $v"
  rm -rf "$g"
  mkdir -p "$g"
  cp -l "$k/vmlinux" "$k/vmlinuz" "$k/config" "$g/"
  cp -al "$k/lib/modules" "$g/modules"

  local r
  r=$(mktemp -d "$LAB/tmp.XXXXXX")
  guest_base "$r"
  install -m 755 "$HERE/init/guest-probe" "$r/init"
  pack "$r" "$g/initrd-probe"
  install -m 755 "$HERE/init/guest-first" "$r/init"
  pack "$r" "$g/initrd-first"
  install -m 755 "$HERE/init/guest" "$r/init"
  guest_modules "$v" "$r"
  pack "$r" "$g/initrd"
  guest_tools "$r"
  pack "$r" "$g/initrd-tools"
  rm -rf "$r"
  echo "$want" >"$g/.ok"
}

# guest_base DIR: busybox and the folders; the links to its applets are made here, not at every boot.
guest_base() {
  local r=$1 a
  mkdir -p "$r"/{bin,proc,sys,dev,tmp,run,etc,root,mnt,lib,usr/share/udhcpc,var/lib/dhcp}
  ln -s bin "$r/sbin"
  ln -s ../bin "$r/usr/bin"
  ln -s ../bin "$r/usr/sbin"
  cp "$ROOT/usr/bin/busybox" "$r/bin/"
  for a in $("$ROOT/usr/bin/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$r/bin/$a"; done
  echo 'root::0:0:root:/root:/bin/sh' >"$r/etc/passwd"
  echo 'root:x:0:' >"$r/etc/group"
  echo '127.0.0.1 localhost' >"$r/etc/hosts"
  cat >"$r/usr/share/udhcpc/default.script" <<'SCRIPT'
#!/bin/sh
# what busybox's DHCP client calls with what it was told
case $1 in
deconfig) ip -4 addr flush dev "$interface"; ip link set "$interface" up ;;
bound | renew)
  ip -4 addr flush dev "$interface"
  ip addr add "$ip/${mask:-24}" dev "$interface"
  [ -z "$router" ] || ip route replace default via "${router%% *}"
  : >/etc/resolv.conf
  for d in $dns; do echo "nameserver $d" >>/etc/resolv.conf; done
  ;;
esac
SCRIPT
  chmod +x "$r/usr/share/udhcpc/default.script"
}

# guest_modules V DIR: the modules above with what they depend on, and an index of those only.
guest_modules() {
  local v=$1 r=$2 k rel f
  k=$(kernel_dir "$v")
  rel=$(ls "$k/lib/modules")
  modules_for "$v" $GUEST_MODULES | while read -r f; do
    install -D -m 644 "$f" "$r/lib/modules/$rel/${f#"$k/lib/modules/$rel/"}"
  done
  cp "$k/lib/modules/$rel"/modules.{builtin,order,builtin.modinfo} "$r/lib/modules/$rel/"
  "$LAB/bin/depmod" -b "$r" "$rel"
  rm -f "$r/lib/modules/$rel"/modules.{*.bin,builtin.modinfo}
}

# guest_tools DIR: GUEST_TOOLS over busybox's applets, with the libraries they need.
guest_tools() {
  local r=$1 t
  mkdir -p "$r/lib/x86_64-linux-gnu" "$r/lib64" "$r/usr/lib"
  ln -sf ../../lib/x86_64-linux-gnu "$r/usr/lib/x86_64-linux-gnu"
  cp -L "$ROOT/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$r/lib64/"
  for t in $GUEST_TOOLS; do with_libraries "$t" "$r/bin" "$r/lib/x86_64-linux-gnu"; done
  # busybox's shell prefers its applets to programs of the same name, so the shell must be another one
  ln -sf bash "$r/bin/sh"
  install -m 755 "$ROOT/usr/sbin/dhclient-script" "$r/bin/dhclient-script"
}

# with_libraries PROGRAM BIN LIB: copy a program of the userland and the shared libraries it needs
with_libraries() {
  local f l lib=$ROOT/usr/lib/x86_64-linux-gnu
  f=$(userland_program "$1") || die "the userland has no $1"
  rm -f "$2/$1"
  cp -L "$f" "$2/$1"
  "$lib/ld-linux-x86-64.so.2" --library-path "$lib:$lib/ceph" --list "$f" | grep -oE '/[^ ]+\.so[^ ]*' | while read -r l; do
    [ -e "$3/${l##*/}" ] || cp -L "$l" "$3/"
  done
}

# build_tools_disk: guest/tools.img. Its programs are started through its own loader, so it works over any initrd.
build_tools_disk() {
  local img=$IMAGES/opt/guest/tools.img want r t
  want=$(sum "$HERE"/lib/{guest,userland,packages}.sh)
  stamp "$img.ok" "$want" && return
  log "building the tools disk"
  mkdir -p "${img%/*}"
  r=$(mktemp -d "$LAB/tmp.XXXXXX")
  mkdir -p "$r"/{bin,prog,lib}
  for t in $GUEST_TOOLS fio; do
    with_libraries "$t" "$r/prog" "$r/lib"
    printf '#!/bin/busybox sh\nexec /opt/lib/ld-linux-x86-64.so.2 --argv0 %s --library-path /opt/lib /opt/prog/%s "$@"\n' "$t" "$t" >"$r/bin/$t"
    chmod +x "$r/bin/$t"
  done
  ln -s bash "$r/bin/sh"
  rm -f "$img"
  "$LAB/bin/mke2fs" -q -t ext4 -O ^has_journal -m 0 -L labtools -E root_owner=0:0 -d "$r" "$img" 192M
  rm -rf "$r"
  echo "$want" >"$img.ok"
}
