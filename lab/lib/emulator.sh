# The emulator of a lab with several CPUs, $LAB/emulator: Debian 13's QEMU with what it does wrong in SVM mended, since guests
# of L1 do not live long without. It is built from Debian's source, in a tree with Debian 13's compiler and libraries.
#
# Each of these killed guests, or L1 itself, of 10.0; 11.1 still has the first two:
#   - An interrupt that VMRUN injects stays in exception_index, so it is delivered once more when another thread asks the CPU to
#     stop, wherever the guest is by then: behind SYSCALL, still on the user's stack, it dies of a double fault.
#   - FXRSTOR, FNCLEX and others on any CPU clear IGNNE in the first one's hflags2, without a lock. What that CPU changes
#     there at the moment is lost: #VMEXIT keeps nested paging on, and the host's next page walk counts as a fault of the
#     guest, whose state the host's replaces; or interrupts stay on where #VMEXIT turned them off.
#   - VMRUN sets VIRQ in interrupt_request without the lock that others change that word under, so an interrupt is lost.

EMULATOR=$LAB/emulator
EMULATOR_RELEASE=trixie
EMULATOR_TOOLS="bash bzip2 coreutils diffutils findutils gcc grep libattr1-dev libc6-dev libglib2.0-dev libpixman-1-dev make mawk
  meson ninja-build perl pkgconf python3-pip python3-pycotap python3-setuptools python3-venv sed zlib1g-dev"

build_emulator() {
  local want
  want="$(sum "$HERE/lib/emulator.sh" "$HERE/lib/packages.sh")"
  stamp "$EMULATOR/.ok" "$want" && return
  (
    RELEASE=$EMULATOR_RELEASE APT=() APT_TYPES="deb deb-src"
    apt_setup
    list=$(resolve "$RELEASE" qemu-system-x86 seabios ipxe-qemu)
    w=$(mktemp -d "$LAB/tmp.XXXXXX")
    emulator_source "$w" "$(sed -n 's/^qemu-system-x86=//p' <<<"$list" | sed 's/+b[0-9]*$//')"
    tools=$(resolve "$RELEASE" $EMULATOR_TOOLS)
    tools=$(fetch $tools)
    debs=$(fetch $list)
    tree "$w" $tools
    log "building the emulator (five minutes)"
    emulator_compile "$w" >"$LAB/emulator-build.log" 2>&1 || die "the emulator does not build: see $LAB/emulator-build.log"
    rm -rf "$EMULATOR"
    tree "$EMULATOR" $debs
    cp "$w/build/qemu-system-x86_64" "$EMULATOR/usr/bin/"
    rm -rf "$EMULATOR"/usr/share/{doc,man,locale,info,lintian,bug} "$w"
    echo "$want" >"$EMULATOR/.ok"
  )
}

# tree DIR DEB... unpacks packages into a new root with a merged /usr.
tree() {
  local d=$1
  shift
  mkdir -p "$d"/usr/{bin,sbin,lib,lib64} "$d"/{dev,proc}
  for l in bin sbin lib lib64; do ln -s "usr/$l" "$d/$l"; done
  unpack "$d" "$@"
}

# emulator_source DIR VERSION puts the mended source into DIR/source.
emulator_source() {
  local s=$1/source i386
  i386=$s/target/i386/tcg/system
  (cd "$1" && apt-get "${APT[@]}" source --download-only "qemu=$2" >&2) || die "cannot fetch the source of QEMU $2"
  mkdir "$s"
  tar -xJf "$1"/qemu_*.orig.tar.xz -C "$s" --strip-components=1
  mend "$i386/svm_helper.c" 'do_interrupt_x86_hardirq(env, vector, 1);' '& cs->exception_index = -1;'
  mend "$i386/svm_helper.c" 'cs->interrupt_request |= CPU_INTERRUPT_VIRQ;' 'bql_lock(); & bql_unlock();'
  mend "$i386/svm_helper.c" '#include "cpu.h"' '&\n#include "qemu/main-loop.h"'
  mend "$i386/fpu_helper.c" 'env->hflags2 &= ~HF2_IGNNE_MASK;' 'if (env->hflags2 \& HF2_IGNNE_MASK) &'
  # Debian's tarball is without firmware, which comes from packages, and the tests want it
  sed -i "s/^subdir('pc-bios')//; s/^ *subdir('tests.*')//; s/^subdir('tools')//" "$s/meson.build"
}

# mend FILE LINE REPLACEMENT: LINE is in FILE once, but for its indentation; & stands for it in the replacement.
mend() {
  local line
  line=$(sed 's/[][\.*^$/]/\\&/g' <<<"$2")
  [ "$(grep -c "^ *$line\$" "$1")" = 1 ] || die "$1 is not as expected: $2"
  sed -i "s@^ *$line\$@$3@" "$1"
}

# emulator_compile DIR builds DIR/source in DIR/build, with DIR as the root.
emulator_compile() {
  ln -s bash "$1/usr/bin/sh"
  ln -s gcc "$1/usr/bin/cc"
  ln -s mawk "$1/usr/bin/awk"
  unshare -rm bash -euc 'mount --rbind /dev "$1/dev"; mount --rbind /proc "$1/proc"; exec chroot "$1" bash -euc "$2"' - "$1" '
    export PATH=/usr/bin:/usr/sbin
    mkdir /build
    cd /build
    ../source/configure --target-list=x86_64-softmmu --without-default-features --enable-tcg --enable-system \
      --enable-virtfs --enable-attr --disable-docs --disable-werror --disable-download --disable-install-blobs
    ninja qemu-system-x86_64'
}
