# The Debian userland: root file system of L1, and the source of the programs for guests and for this machine.

USERLAND="base-files base-passwd bash dash coreutils util-linux mount kmod iproute2 iputils-ping procps psmisc
  grep sed gawk findutils diffutils debianutils hostname less file libc-bin ncurses-base ncurses-bin
  cpio tar gzip xz-utils zstd e2fsprogs dosfstools lvm2 busybox-static
  libvirt-clients python3-libvirt virtinst iperf3 ethtool isc-dhcp-client acpica-tools fio libxml2-utils jq socat expect
  tcpdump nftables pciutils strace passt"
PEER="qemu-system-x86 qemu-utils seabios ipxe-qemu"
# Maintainer-script helpers and what only they need; nothing here runs them.
UNWANTED="perl perl-modules-5.36 libperl5.36 libfile-find-rule-perl libtext-glob-perl libnumber-compare-perl
  usrmerge adduser debconf dpkg init-system-helpers"

build_userland() {
  local want
  want="$(sum "$HERE/lib/userland.sh" "$HERE/lib/packages.sh")"
  stamp "$ROOT/.ok" "$want" && return
  apt_setup
  local base peer list=() debs p
  # Two resolutions: virsh and its libraries as Debian 12 has them, QEMU from its backports; one tree.
  base=$(resolve "$RELEASE" $USERLAND)
  peer=$(resolve "$RELEASE-backports" $PEER)
  for p in $base; do
    case " $(echo $UNWANTED) " in *" ${p%%=*} "*) continue ;; esac
    grep -q "^${p%%=*}=" <<<"$peer" || list+=("$p")
  done
  for p in $peer; do
    case " $(echo $UNWANTED) " in *" ${p%%=*} "*) continue ;; esac
    list+=("$p")
  done
  debs=$(fetch "${list[@]}")
  log "unpacking the userland (${#list[@]} packages)"
  rm -rf "$ROOT"
  mkdir -p "$ROOT"/{usr/bin,usr/sbin,usr/lib,usr/lib64,dev,proc,sys,tmp,run,root,share,ctl,opt/lab,huge,mnt,var/tmp}
  local d
  for d in bin sbin lib lib64; do ln -s "usr/$d" "$ROOT/$d"; done
  unpack "$ROOT" $debs
  finish_userland
  wrap xz zstd cpio depmod modprobe mke2fs
  echo "$want" >"$ROOT/.ok"
}

# finish_userland does what maintainer scripts would have done and drops what nobody reads in a test host.
finish_userland() {
  ln -sf gawk "$ROOT/usr/bin/awk"
  ln -sf /run "$ROOT/var/run"
  cp "$ROOT/usr/share/base-passwd/passwd.master" "$ROOT/etc/passwd"
  cp "$ROOT/usr/share/base-passwd/group.master" "$ROOT/etc/group"
  sed -i 's/^root:[^:]*:/root::/' "$ROOT/etc/passwd"
  printf 'libvirt:x:120:\nkvm:x:121:\n' >>"$ROOT/etc/group"
  echo lab >"$ROOT/etc/hostname"
  printf '127.0.0.1 localhost lab\n::1 localhost\n' >"$ROOT/etc/hosts"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$ROOT/etc/nsswitch.conf"
  rm -rf "$ROOT"/usr/share/{doc,man,locale,info,lintian,bug}
  rm -rf "$ROOT"/usr/lib/x86_64-linux-gnu/gconv
  # busybox stands in for every program the packages do not bring (poweroff, udhcpc, telnet, ...)
  local a
  for a in $("$ROOT/usr/bin/busybox" --list); do
    [ -e "$ROOT/usr/bin/$a" ] || [ -L "$ROOT/usr/bin/$a" ] || [ -e "$ROOT/usr/sbin/$a" ] || [ -L "$ROOT/usr/sbin/$a" ] ||
      ln -s busybox "$ROOT/usr/bin/$a"
  done
}

# wrap NAME...: scripts in $LAB/bin that run programs of the userland on this machine, with the userland's own
# loader and libraries, so that it does not matter what this machine's are.
wrap() {
  local name file lib=$ROOT/usr/lib/x86_64-linux-gnu
  mkdir -p "$LAB/bin"
  for name in "$@"; do
    file=$(userland_program "$name") || die "the userland has no $name"
    # kmod looks at the name it was called by
    cat >"$LAB/bin/$name" <<SCRIPT
#!/bin/sh
exec $lib/ld-linux-x86-64.so.2 --argv0 $name --library-path $lib:$lib/ceph $file "\$@"
SCRIPT
    chmod +x "$LAB/bin/$name"
  done
}

# userland_program NAME prints where the userland keeps a program; links are followed inside the userland.
userland_program() {
  local d f
  for d in usr/bin usr/sbin; do
    f=$ROOT/$d/$1
    [ -L "$f" ] && case $(readlink "$f") in /*) f=$ROOT$(readlink "$f") ;; esac
    [ -x "$f" ] && { echo "$f"; return; }
  done
  return 1
}

# tool NAME ARG...: run a program of the userland here; replaces this process.
tool() {
  [ $# -gt 0 ] || die "tool: which program?"
  local name=$1
  shift
  [ -x "$LAB/bin/$name" ] || wrap "$name"
  exec "$LAB/bin/$name" "$@"
}
