# The emulator of a lab with several CPUs, $LAB/emulator: that of the userland, 10.0.2, changes the word of a CPU's pending
# interrupts from two threads without a lock, and so loses interrupts and now and then the host itself. A later one seldom does. Guests with
# several vCPUs die in both (mostLost in bench/netside.go).

EMULATOR=$LAB/emulator
EMULATOR_RELEASE=trixie

build_emulator() {
  local want
  want="$(sum "$HERE/lib/emulator.sh" "$HERE/lib/packages.sh")"
  stamp "$EMULATOR/.ok" "$want" && return
  (
    RELEASE=$EMULATOR_RELEASE APT=()
    apt_setup
    list=$(resolve "$RELEASE-backports" qemu-system-x86 seabios ipxe-qemu)
    debs=$(fetch $list)
    log "unpacking the emulator ($(wc -w <<<"$list") packages)"
    rm -rf "$EMULATOR"
    mkdir -p "$EMULATOR"/usr/{bin,sbin,lib,lib64}
    for d in bin sbin lib lib64; do ln -s "usr/$d" "$EMULATOR/$d"; done
    unpack "$EMULATOR" $debs
    rm -rf "$EMULATOR"/usr/share/{doc,man,locale,info,lintian,bug}
    echo "$want" >"$EMULATOR/.ok"
  )
}
