# The peer of virtd: a tree with libvirtd as Debian ships it, for bench/. It is a tree of its own, since L1 must not have
# another daemon next to virtd.

LIBVIRTD=$LAB/libvirtd
# the driver answers only with an emulator to ask; nothing here runs a guest
DAEMON="base-files bash coreutils util-linux libvirt-daemon libvirt-daemon-driver-qemu libvirt-clients qemu-system-x86"

build_libvirtd() {
  local want list=() debs p d
  want=$(sum "$HERE"/lib/{libvirtd,packages}.sh)
  stamp "$LIBVIRTD/.ok" "$want" && return
  apt_setup
  for p in $(resolve "$RELEASE" $DAEMON); do
    case " $(echo $UNWANTED) " in *" ${p%%=*} "*) ;; *) list+=("$p") ;; esac
  done
  debs=$(fetch "${list[@]}")
  log "unpacking libvirtd (${#list[@]} packages)"
  rm -rf "$LIBVIRTD"
  mkdir -p "$LIBVIRTD"/{usr/bin,usr/sbin,usr/lib,usr/lib64,dev,proc,sys,tmp,run,root,var,etc/libvirt}
  for d in bin sbin lib lib64; do ln -s "usr/$d" "$LIBVIRTD/$d"; done
  unpack "$LIBVIRTD" $debs
  # what maintainer scripts would have done: the user that the driver wants to find
  printf 'root:x:0:0:root:/root:/bin/bash\nlibvirt-qemu:x:64055:64055::/var/lib/libvirt:/bin/false\n' >"$LIBVIRTD/etc/passwd"
  printf 'root:x:0:\nlibvirt:x:120:\nkvm:x:121:\nlibvirt-qemu:x:64055:\n' >"$LIBVIRTD/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files\n' >"$LIBVIRTD/etc/nsswitch.conf"
  rm -rf "$LIBVIRTD"/usr/share/{doc,man,locale,info,lintian,bug}
  echo "$want" >"$LIBVIRTD/.ok"
}
