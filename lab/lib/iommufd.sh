# Modules of the 6.12 kernel with iommufd, which Debian builds its kernels without: iommufd itself, and VFIO with devices of
# their own, from Debian's sources of the very kernel that the lab has, against its headers. LAB_IOMMUFD=1 gives L1 these
# modules: a folder that has all others too.
#
# What the kernel proper has of the IOMMU is the same with and without the option, but for one thing: a library function that
# only iommufd uses is compiled into the module. What depends on struct vfio_device is built here, and nothing else of VFIO's
# is left in the folder; a driver elsewhere that uses it (kvmgt) does not load, as its symbols' versions tell.

IOMMUFD_KERNEL=6.12
IOMMUFD_MODULES=$LAB/modules-$IOMMUFD_KERNEL-iommufd # lib/modules/RELEASE below it

build_iommufd() {
  local k release want version debs w
  k=$(kernel_dir "$IOMMUFD_KERNEL")
  release=$(ls "$k/lib/modules")
  want="$(sum "$HERE"/lib/{iommufd,kernels}.sh) $release"
  stamp "$IOMMUFD_MODULES/.ok" "$want" && return
  command -v make >/dev/null && command -v gcc-12 >/dev/null || die "building iommufd needs make and gcc-12, the compiler of the kernel"
  apt_setup
  version=$(apt-cache "${APT[@]}" show "linux-headers-$release" | awk '/^Version:/ && !v { v = $2 } END { print v }')
  [ -n "$version" ] || die "there are no headers of kernel $release"
  debs=$(fetch "linux-source-$IOMMUFD_KERNEL=$version" "linux-headers-$release=$version" \
    "linux-headers-${release%-amd64}-common=$version" "linux-kbuild-${release%-amd64}=$version")
  log "building iommufd for kernel $release"
  w=$(mktemp -d "$LAB/tmp.XXXXXX")
  unpack "$w" $debs
  iommufd_sources "$w"
  iommufd_compile "$w" "$release" >"$LAB/iommufd-build.log" 2>&1 || die "iommufd does not build: see $LAB/iommufd-build.log"
  iommufd_install "$w/build" "$k" "$release"
  rm -rf "$w"
  echo "$want" >"$IOMMUFD_MODULES/.ok"
}

# iommufd_sources DIR puts what is to be built into DIR/build, with a Kbuild file.
iommufd_sources() {
  local s=linux-source-$IOMMUFD_KERNEL b=$1/build
  tar -xJf "$1/usr/src/$s.tar.xz" -C "$1" "$s"/drivers/{iommu/iommufd,iommu/iommu-priv.h,vfio} "$s/lib/interval_tree.c" ||
    die "cannot unpack the sources of the kernel"
  mkdir -p "$b"
  mv "$1/$s"/drivers/* "$b/"
  {
    printf '#include <linux/%s.h>\n' interval_tree compiler export
    sed -n '/^#ifdef CONFIG_INTERVAL_TREE_SPAN_ITER/,/^#endif/p' "$1/$s/lib/interval_tree.c"
  } >"$b/iommu/iommufd/interval_tree_span.c"
  echo 'iommufd-y += interval_tree_span.o' >>"$b/iommu/iommufd/Makefile"
  echo 'obj-m := iommu/iommufd/ vfio/' >"$b/Kbuild"
}

# iommufd_compile DIR RELEASE builds DIR/build with the headers below DIR, whose own makefiles expect to be installed. Without
# the headers' copy of the kernel there is no type information (BTF) for the modules, which nobody here needs.
iommufd_compile() {
  local headers=$1/usr/src/linux-headers-$2
  echo "include $1/usr/src/linux-headers-${2%-amd64}-common/Makefile" >"$headers/Makefile"
  rm -f "$headers/vmlinux"
  make -C "$headers" M="$1/build" -j"$(nproc)" modules CONFIG_IOMMUFD=m CONFIG_VFIO_DEVICE_CDEV=y CONFIG_VFIO_MDEV= \
    KCFLAGS="-DCONFIG_IOMMUFD_MODULE=1 -DCONFIG_VFIO_DEVICE_CDEV=1 -DCONFIG_INTERVAL_TREE_SPAN_ITER=1"
}

# iommufd_install BUILD KERNEL RELEASE makes the folder: links to all modules of the kernel but VFIO's, and what was built.
iommufd_install() {
  local to=$IOMMUFD_MODULES/lib/modules/$3 f
  rm -rf "$IOMMUFD_MODULES"
  mkdir -p "$IOMMUFD_MODULES/lib/modules"
  cp -al "$2/lib/modules/$3" "$to"
  rm -rf "$to/kernel/drivers/vfio" "$to"/modules.{dep,alias,symbols,softdep,devname}*
  while read -r f; do
    install -D -m 644 "$1/$f" "$to/kernel/drivers/$f"
  done < <(cd "$1" && find . -name '*.ko' | LC_ALL=C sort)
  "$LAB/bin/depmod" -b "$IOMMUFD_MODULES" "$3"
}
