# Stock Debian kernels, for L1 and for its guests: $LAB/kernel-V/{vmlinuz,vmlinux,config,lib/modules/RELEASE}.

kernel_dir() { echo "$LAB/kernel-$1"; }

build_kernel() {
  local v=$1 k want suite pkg deb
  k=$(kernel_dir "$v")
  want=$(sum "$HERE/lib/kernels.sh")
  stamp "$k/.ok" "$want" && return
  apt_setup
  case $v in
  6.1) suite=$RELEASE-security ;;
  6.12) suite=$RELEASE-backports ;;
  *) die "no kernel $v: LAB_KERNEL is one of $KERNELS" ;;
  esac
  pkg=$(apt-cache "${APT[@]}" depends "linux-image-amd64/$suite" | awk '/Depends:/ { print $2; exit }')
  [ -n "$pkg" ] || die "linux-image-amd64 is not in $suite"
  deb=$(fetch "$pkg=$(apt-cache "${APT[@]}" show "$pkg" | awk '/^Version:/ && !v { v = $2 } END { print v }')")
  log "unpacking kernel $pkg"
  rm -rf "$k"
  mkdir -p "$k"
  dpkg-deb -x "$deb" "$k"
  mv "$k"/boot/vmlinuz-* "$k/vmlinuz"
  mv "$k"/boot/config-* "$k/config"
  extract_vmlinux "$k/vmlinuz" "$k/vmlinux"
  # busybox's modprobe in guests wants plain files
  find "$k/lib/modules" -name '*.ko.xz' -print0 | xargs -0r "$LAB/bin/xz" -d
  rm -rf "$k/boot" "$k/usr"
  "$LAB/bin/depmod" -b "$k" "$(ls "$k/lib/modules")"
  echo "$want" >"$k/.ok"
}

# modules_for V NAME... prints the files to load for modules of kernel V, dependencies first, each once.
modules_for() {
  local v=$1 k m
  k=$(kernel_dir "$v")
  shift
  for m in "$@"; do
    "$LAB/bin/modprobe" -d "$k" -S "$(ls "$k/lib/modules")" --show-depends "$m" || die "kernel $v has no module $m"
  done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }'
}

# extract_vmlinux BZIMAGE OUT: the ELF kernel inside, which spares an emulated CPU the decompression.
extract_vmlinux() {
  local in=$1 out=$2 m off
  for m in '\xfd7zXZ\x00|xz -dc --single-stream' '\x28\xb5\x2f\xfd|zstd -dc'; do
    for off in $(LC_ALL=C grep -obUaP "${m%%|*}" "$in" | cut -d: -f1); do
      tail -c +$((off + 1)) "$in" | "$LAB"/bin/${m#*|} >"$out" 2>/dev/null || true
      [ "$(head -c4 "$out" | tail -c3)" = ELF ] && return
    done
  done
  die "cannot find the kernel inside $in"
}
