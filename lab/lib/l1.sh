# L1: its initrd per kernel, and the folder that it sees as /opt/lab.

# What reaching the shared folders takes; everything else is loaded from them.
EARLY="virtio_pci 9pnet_virtio 9p virtio_console overlay"

l1_initrd() { echo "$IMAGES/l1-initrd-$1"; }

build_l1() {
  local v want
  want=$(sum "$HERE"/lib/{l1,kernels,userland,guest}.sh "$HERE/init/l1-first")
  stamp "$IMAGES/.ok" "$want" && return
  mkdir -p "$IMAGES/opt/bin"
  for v in $KERNELS; do build_l1_initrd "$v"; done
  # names that were there before the guest folder
  ln -sfn guest/6.1/vmlinux "$IMAGES/opt/l2-vmlinux"
  ln -sfn guest/6.1/initrd-probe "$IMAGES/opt/l2-initrd"
  echo "$want" >"$IMAGES/.ok"
}

build_l1_initrd() {
  local v=$1 r f
  r=$(mktemp -d "$LAB/tmp.XXXXXX")
  mkdir -p "$r"/{bin,proc,dev,early}
  cp "$ROOT/usr/bin/busybox" "$r/bin/"
  install -m 755 "$HERE/init/l1-first" "$r/init"
  modules_for "$v" $EARLY | while read -r f; do
    cp "$f" "$r/early/"
    basename "$f" >>"$r/early.list"
  done
  pack "$r" "$(l1_initrd "$v")"
  rm -rf "$r"
}

# pack DIR OUT: DIR as an uncompressed initramfs, owned by root
pack() { (cd "$1" && find . | LC_ALL=C sort | "$LAB/bin/cpio" -o -H newc --quiet -R 0:0 --reproducible) >"$2.new" && mv "$2.new" "$2"; }
