#!/bin/bash
# lab.sh - a throw-away hardware test lab on any x86_64 Linux box, no root rights or KVM needed.
#
# It runs a stock Debian kernel ("L1") in QEMU under TCG (pure emulation) on a q35 machine that has:
#   * AMD SVM + nested paging   -> kvm_amd works in L1: /dev/kvm, L2 guests really boot
#   * intel-iommu + intremap    -> IOMMU groups, vfio-pci, /dev/vfio/N, posted to L2 through irqfd
#   * igb (82576, SR-IOV 7 VFs), e1000e, nvme (SR-IOV 2 VFs), virtio-net (iommu_platform), each below
#     its own pcie-root-port so that every function is in an IOMMU group of its own
#   * vhost_net, vhost_vsock, tun, macvtap, bridge, nf_tables ... as stock Debian modules
#
#   lab.sh build                         fetch Debian packages (apt-get download, dpkg -x; nothing is installed)
#   lab.sh run [-w DIR] [--] CMD ARG...  run CMD in L1 with DIR (default .) as /share and as cwd;
#                                        stdout, stderr and the exit status come back
#   lab.sh shell                         interactive L1 shell on the serial console
#   lab.sh selftest                      checks kvm + L2 boot, vhost, vfio, SR-IOV
#
# Exit status of "run": that of CMD; 124 = LAB_TIMEOUT hit; 125 = the lab itself failed (see $LAB/last-console.log).
#
# Environment: LAB (cache dir)  LAB_KERNEL=6.1|6.12  LAB_MEM=2048 (MiB; see note)  LAB_SMP=1  LAB_TIMEOUT=300
#   LAB_CPU=max,-erms,-fsrm (masking erms and fsrm: L2 boots in 3 s, not 5 s; TCG probably runs "rep movsb" byte by byte)  LAB_HUGE=0 (2 MiB huge pages to reserve in L1)  LAB_MODULES="kvm_amd vhost_net ..."
#   LAB_IOMMU=intel|none  LAB_APPEND (kernel args)  LAB_EXTRA (more qemu args)  LAB_DEVICES=1|0  LAB_VERBOSE=0
# NOTE: keep LAB_MEM <= 2048. With RAM above 4 GiB SeaBIOS puts 64-bit BARs above 4 GiB and there the BARs of
#   igb VFs read as zero (seen with QEMU 10.0.2): mailbox dead, "PF still in reset state".
set -euo pipefail
SELF=$(readlink -f "$0")
LAB=${LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/virtd-lab}; LAB_KERNEL=${LAB_KERNEL:-6.1}; LAB_MEM=${LAB_MEM:-2048}; LAB_SMP=${LAB_SMP:-1}
LAB_TIMEOUT=${LAB_TIMEOUT:-300}; LAB_CPU=${LAB_CPU:-max,-erms,-fsrm}; LAB_HUGE=${LAB_HUGE:-0}; LAB_IOMMU=${LAB_IOMMU:-intel}
LAB_MODULES=${LAB_MODULES-"kvm_amd vhost_net tun vfio_pci vfio_iommu_type1"}; LAB_APPEND=${LAB_APPEND:-}
LAB_EXTRA=${LAB_EXTRA:-}; LAB_DEVICES=${LAB_DEVICES:-1}; LAB_VERBOSE=${LAB_VERBOSE:-0}
Q=$LAB/qemu; K=$LAB/k$LAB_KERNEL; L1=$LAB/l1-$LAB_KERNEL
export PATH=$PATH:/sbin:/usr/sbin:$LAB/tools/bin:$LAB/tools/sbin:$LAB/tools/usr/bin:$LAB/tools/usr/sbin
die() { echo "lab: $*" >&2; exit 125; }
log() { echo "lab: $*" >&2; }

# ---------------------------------------------------------------- build
APT=() # apt with lists and sources of its own: this machine's Debian mirror plus the backports suite; nothing of the system changes
apt_setup() { [ ${#APT[@]} -gt 0 ] && return
  local a=$LAB/apt key=/usr/share/keyrings/debian-archive-keyring.gpg uri rel
  APT=( -q -o "Dir::Etc::sourcelist=$a/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$a/lists" -o "Dir::Cache=$a/cache" -o APT::Sandbox::User=root )
  [ -e "$a/.ok" ] && return
  mkdir -p "$a/lists/partial" "$a/cache/archives/partial"; :> "$a/sources.list"
  rel=$(. /etc/os-release; echo "${VERSION_CODENAME:-bookworm}")
  uri=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' 2>/dev/null | awk -v r="$rel" '$2==r && $3=="main"{print $1; exit}')
  # before the first 'apt-get update' apt lists no targets: read the sources themselves
  [ -n "$uri" ] || uri=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -1 | tr -d ' ')
  [ -n "$uri" ] || die "no Debian mirror is configured for apt on this machine"
  { echo "deb [signed-by=$key] $uri $rel main"; echo "deb [signed-by=$key] $uri $rel-updates main"; echo "deb [signed-by=$key] $uri $rel-backports main"
    echo "deb [signed-by=$key] ${uri%/}-security $rel-security main"; } > "$a/sources.list"
  apt-get "${APT[@]}" update >&2 || die "apt-get update failed"; touch "$a/.ok"; }
get() { # get DIR PKG...  : download .debs (honours APT_T) and unpack them below DIR
  local d=$1; shift; mkdir -p "$LAB/debs" "$d"; apt_setup
  local p f; for p in "$@"; do
    f=$(ls -t "$LAB/debs/${p%%[/=]*}"_*.deb 2>/dev/null | head -1 || true)
    if [ -z "$f" ] ; then (cd "$LAB/debs" && apt-get "${APT[@]}" ${APT_T:+-t $APT_T} download "$p" >&2) || die "apt-get download $p failed"
      f=$(ls -t "$LAB/debs/${p%%[/=]*}"_*.deb | head -1); fi
    dpkg -x "$f" "$d"; done; }
tool() { command -v "$1" >/dev/null || get "$LAB/tools" "$2"; }        # tool BINARY PACKAGE
vmlinux() { # vmlinux BZIMAGE OUT : unpack the ELF inside a bzImage (saves TCG from running the decompressor)
  local in=$1 out=$2 m cmd off
  for m in '\xfd7zXZ\x00|xz -dc --single-stream' '\x28\xb5\x2f\xfd|zstd -dc' '\x02\x21\x4c\x18|lz4 -dc'; do
    for off in $(LC_ALL=C grep -obUaP "${m%%|*}" "$in" | cut -d: -f1); do
      tail -c +$((off+1)) "$in" | ${m#*|} > "$out" 2>/dev/null || true
      [ "$(head -c4 "$out" | tail -c3)" = ELF ] && return 0
    done; done; die "cannot unpack $in"; }
closure() { # closure ROOT SRC DST : copy a host binary and the shared libraries it needs
  local l d; mkdir -p "$1/$(dirname "$3")"; cp -L "$2" "$1/$3"
  LD_LIBRARY_PATH=$QLIB ldd "$2" | grep -oE '/[^ ]+\.so[^ ]*' | while read -r l; do
    case $l in */ld-linux-x86-64.so.2) d=/lib64;; *) d=/lib/x86_64-linux-gnu;; esac
    mkdir -p "$1$d"; [ -e "$1$d/$(basename "$l")" ] || cp -L "$l" "$1$d/"; done; }
QLIB=$Q/usr/lib/x86_64-linux-gnu:$Q/lib/x86_64-linux-gnu
build() {
  mkdir -p "$LAB"; apt_setup; tool cpio cpio; tool xz xz-utils; tool zstd zstd
  # kmod's links are absolute (/bin/kmod), so they dangle in a folder it was only unpacked to
  command -v depmod >/dev/null || { get "$LAB/tools" kmod; for t in depmod modprobe; do ln -sf kmod "$LAB/tools/bin/$t"; rm -f "$LAB/tools/sbin/$t"; done; }
  if [ ! -e "$Q/.ok" ]; then rm -rf "$Q"; APT_T=bookworm-backports
    # qemu and, of what it depends on, the packages this machine lacks or has older; unpacked, not installed
    local pk; pk=$( (apt-get "${APT[@]}" install -s --no-install-recommends -t bookworm-backports qemu-system-x86 2>/dev/null || true) |
       awk '/^Inst/{print $2}' | grep -vE '^(qemu-utils|libc6|libc-bin)$' || true)
    get "$Q" $(printf '%s\n' qemu-system-x86 qemu-system-common qemu-system-data seabios ipxe-qemu $pk | sort -u)
    unset APT_T; get "$Q" busybox-static iproute2 dash bash; touch "$Q/.ok"; fi
  if [ ! -e "$K/.ok" ]; then rm -rf "$K"; local p
    case $LAB_KERNEL in 6.1) p=$(apt-cache "${APT[@]}" depends linux-image-amd64/bookworm-security 2>/dev/null || apt-cache "${APT[@]}" depends linux-image-amd64/bookworm);;
      6.12) p=$(apt-cache "${APT[@]}" depends linux-image-amd64/bookworm-backports);; *) die "LAB_KERNEL?";; esac
    p=$(awk '/Depends:/{print $2; exit}' <<<"$p"); log "kernel package $p"; get "$K" "$p"
    vmlinux "$K"/boot/vmlinuz-* "$K/vmlinux"
    find "$K/lib/modules" -name '*.ko.xz' -print0 | xargs -0r xz -d        # busybox modprobe wants plain .ko
    depmod -b "$K" "$(ls "$K/lib/modules")"; touch "$K/.ok"; fi
  if [ ! -e "$L1/.ok" ]; then rm -rf "$L1"; mkinitrd; mkopt; touch "$L1/.ok"; fi; }
mkinitrd() { # tiny: busybox + the modules needed to mount 9p; everything else is loaded over 9p
  local kv r m f; kv=$(ls "$K/lib/modules"); r=$L1/initrd.d; mkdir -p "$r"/{bin,proc,sys,dev,tmp,run,etc,root,share,ctl,opt/lab,huge,lib/modules,usr,sbin,early}
  cp "$Q/bin/busybox" "$r/bin/"; ln -s busybox "$r/bin/sh"; :> "$r/early.list"
  for m in virtio_pci 9pnet_virtio 9p virtio_console; do
    modprobe -d "$K" -S "$kv" --show-depends $m 2>/dev/null | awk '$1=="insmod"{print $2}'; done | awk '!s[$0]++' |
    while read -r f; do cp "$f" "$r/early/"; basename "$f" >> "$r/early.list"; done
  l1init > "$r/init"; chmod +x "$r/init"
  (cd "$r" && find . | cpio -o -H newc --quiet -R 0:0) > "$L1/initrd"; rm -rf "$r"; }
mkopt() { # /opt/lab in L1 (9p, read-only): glibc, ip, and a QEMU for L2 guests with a kernel and an initramfs
  local o=$L1/opt f r; mkdir -p "$o/bin" "$o/share"
  closure "$o/root" "$Q/usr/bin/qemu-system-x86_64" /usr/bin/qemu-system-x86_64
  closure "$o/root" "$(readlink -f "$(ls "$Q/bin/ip" "$Q/sbin/ip" 2>/dev/null | head -1)")" /usr/bin/ip; ln -s ../root/usr/bin/ip "$o/bin/ip"
  # real shells first in PATH: Debian's busybox ash prefers its own applets (its "ip" has no tuntap, no vf) to PATH
  closure "$o/root" "$Q/bin/dash" /usr/bin/dash; closure "$o/root" "$Q/bin/bash" /usr/bin/bash
  ln -s ../root/usr/bin/dash "$o/bin/sh"; ln -s ../root/usr/bin/dash "$o/bin/dash"; ln -s ../root/usr/bin/bash "$o/bin/bash"
  for f in pvh.bin linuxboot_dma.bin kvmvapic.bin qboot.rom; do cp "$Q/usr/share/qemu/$f" "$o/share/"; done
  cp "$Q"/usr/share/seabios/bios-256k.bin "$Q"/usr/share/seabios/bios-microvm.bin "$o/share/"
  printf '#!/bin/sh\nexec /opt/lab/root/usr/bin/qemu-system-x86_64 -L /opt/lab/share "$@"\n' > "$o/bin/qemu-system-x86_64"; chmod +x "$o/bin/qemu-system-x86_64"
  cp "$K/vmlinux" "$o/l2-vmlinux"; r=$L1/l2.d; mkdir -p "$r"/{bin,proc,sys,dev,lib/modules}; cp "$Q/bin/busybox" "$r/bin/"; ln -s busybox "$r/bin/sh"
  printf '%s\n' '#!/bin/busybox sh' '/bin/busybox --install -s /bin; export PATH=/bin; mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev' \
   'echo "L2-USERSPACE $(uname -r) up $(cut -d" " -f1 /proc/uptime)"' 'for d in /sys/bus/pci/devices/*; do [ -e $d ] && echo "L2-PCI ${d##*/} $(cat $d/vendor $d/device | tr "\n" " ")"; done' 'poweroff -f' > "$r/init"; chmod +x "$r/init"
  (cd "$r" && find . | cpio -o -H newc --quiet -R 0:0) > "$o/l2-initrd"; rm -rf "$r"; }
l1init() { cat <<'EOF'
#!/bin/busybox sh
# /init of L1: mount, load modules, run /ctl/cmd with stdout/stderr on virtio-serial ports, write /ctl/rc
/bin/busybox mkdir -p /dev/pts; /bin/busybox --install -s /bin; export PATH=/opt/lab/bin:/bin:/sbin HOME=/root TERM=linux
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts devpts /dev/pts; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mount -t tmpfs shm /dev/shm
ln -s /proc/self/fd /dev/fd; ln -s fd/0 /dev/stdin; ln -s fd/1 /dev/stdout; ln -s fd/2 /dev/stderr
while read -r m; do insmod /early/$m; done < /early.list
M9=trans=virtio,version=9p2000.L,msize=512000
mount -t 9p -o $M9,cache=mmap ctl /ctl && mount -t 9p -o $M9,cache=mmap share /share && mount -t 9p -o $M9,cache=loose,ro opt /opt/lab && mount -t 9p -o $M9,cache=loose,ro mods /lib/modules || { echo "LAB: 9p mount failed"; poweroff -f; }
ln -s /opt/lab/root/lib64 /lib64; ln -s /opt/lab/root/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu
ln -s /opt/lab/bin/bash /bin/bash
mount -t hugetlbfs none /huge 2>/dev/null; mkdir -p /sys/kernel/debug; mount -t debugfs d /sys/kernel/debug 2>/dev/null; mount -t cgroup2 cg /sys/fs/cgroup 2>/dev/null
ip link set lo up 2>/dev/null
for m in $(cat /ctl/modules); do modprobe $m || echo "LAB: modprobe $m failed"; done
echo "LAB: ready, uptime $(cut -d' ' -f1 /proc/uptime)"
[ -e /ctl/shell ] && { cd /share; setsid sh -c 'exec /opt/lab/bin/bash -i </dev/ttyS0 >/dev/ttyS0 2>&1'; poweroff -f; }
for d in /sys/class/virtio-ports/*; do case $(cat $d/name 2>/dev/null) in lab.out) O=/dev/${d##*/};; lab.err) E=/dev/${d##*/};; esac; done
mkfifo /run/o /run/e; cat /run/o > $O & p1=$!; cat /run/e > $E & p2=$!
cd /share; /opt/lab/bin/bash /ctl/cmd < /dev/null > /run/o 2> /run/e; echo $? > /ctl/rc
i=0; while [ $i -lt 20 ] && kill -0 $p1 2>/dev/null || { [ $i -lt 20 ] && kill -0 $p2 2>/dev/null; }; do sleep 0.1; i=$((i+1)); done
sync; poweroff -f
EOF
}

# ---------------------------------------------------------------- run
launch() { # launch CTLDIR SHAREDIR SERIAL-ARGS... ; stdin/stdout/stderr are the caller's
  local ctl=$1 share=$2 nv=$1/nvme.img; shift 2; truncate -s 64M "$nv"; local a=(
   "$Q/usr/bin/qemu-system-x86_64" -L "$Q/usr/share/qemu" -L "$Q/usr/share/seabios" -L "$Q/usr/lib/ipxe/qemu"
   -nodefaults -no-user-config -display none -monitor none -no-reboot -M q35 -accel tcg,thread=multi,tb-size=512
   -cpu "$LAB_CPU" -smp "$LAB_SMP" -m "$LAB_MEM" -kernel "$K/vmlinux" -initrd "$L1/initrd" )
  local ap="console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=1 apparmor=0 audit=0 cryptomgr.notests iomem=relaxed"
  [ "$LAB_HUGE" = 0 ] || ap+=" hugepages=$LAB_HUGE"
  [ "$LAB_VERBOSE" = 0 ] || ap=${ap/ quiet/}
  local t; for t in "ctl $ctl off" "share $share off" "opt $L1/opt on" "mods $K/lib/modules on"; do set -- "$@" -fsdev "local,id=fs_${t%% *},path=$(cut -d' ' -f2 <<<"$t"),security_model=none,multidevs=remap,readonly=${t##* }" -device "virtio-9p-pci,fsdev=fs_${t%% *},mount_tag=${t%% *}"; done
  # intel-iommu must come first on the command line; TCG needs no kernel-irqchip setting
  case $LAB_IOMMU in intel) a+=( -device intel-iommu,intremap=on,caching-mode=on ); ap+=" intel_iommu=on";; esac
  if [ "$LAB_DEVICES" = 1 ]; then a+=(
   -device pcie-root-port,id=rp1,chassis=1,slot=1 -device pcie-root-port,id=rp2,chassis=2,slot=2
   -device pcie-root-port,id=rp3,chassis=3,slot=3 -device pcie-root-port,id=rp4,chassis=4,slot=4
   -netdev hubport,id=n1,hubid=1 -device igb,bus=rp1,netdev=n1,mac=52:54:00:aa:00:01          # 0000:01:00.0 PF, VFs 01:10.0 01:10.2 ...
   -netdev hubport,id=n2,hubid=1 -device e1000e,bus=rp2,netdev=n2,mac=52:54:00:aa:00:02       # 0000:02:00.0, same segment as igb
   -device nvme-subsys,id=sub0 -drive "if=none,id=nvd,file=$nv,format=raw"
   -device nvme,bus=rp3,id=nv0,serial=LAB,subsys=sub0,sriov_max_vfs=2,sriov_vq_flexible=4,sriov_vi_flexible=2,max_ioqpairs=6,msix_qsize=7
   -device nvme-ns,drive=nvd,bus=nv0                                                          # 0000:03:00.0
   -netdev hubport,id=n3,hubid=1 -device virtio-net-pci,bus=rp4,netdev=n3,mac=52:54:00:aa:00:03,iommu_platform=on ); fi # 0000:04:00.0
  echo "$LAB_MODULES" > "$ctl/modules"
  LD_LIBRARY_PATH=$QLIB timeout --foreground "$LAB_TIMEOUT" "${a[@]}" -append "$ap $LAB_APPEND" "$@" $LAB_EXTRA; }
run() {
  local share=$PWD ctl rc=0; [ "${1:-}" = -w ] && { share=$(readlink -f "$2"); shift 2; }; [ "${1:-}" = -- ] && shift
  [ $# -gt 0 ] || die "run: no command"; [ -e "$L1/.ok" ] && [ -e "$K/.ok" ] && [ -e "$Q/.ok" ] || build
  ctl=$(mktemp -d "$LAB/run.XXXXXX"); trap "rm -rf '$ctl'" EXIT
  printf '%q ' "$@" > "$ctl/cmd"; echo >> "$ctl/cmd"
  # console -> file; CMD's stdout/stderr -> virtio-serial -> our stdout/stderr (via fifos, so that any kind of fd 1/2 works)
  mkfifo "$ctl/out" "$ctl/err"; cat "$ctl/out" & local c1=$!; cat "$ctl/err" >&2 & local c2=$!
  exec 8<>"$ctl/out" 9<>"$ctl/err"
  launch "$ctl" "$share" -serial "file:$LAB/last-console.log" -device virtio-serial-pci \
    -chardev "file,id=co,path=$ctl/out,append=on" -device virtserialport,chardev=co,name=lab.out \
    -chardev "file,id=ce,path=$ctl/err,append=on" -device virtserialport,chardev=ce,name=lab.err </dev/null 2> >(grep -v 'is not connected to host network' >&2) || rc=$?
  exec 8>&- 9>&-; wait $c1 $c2 || true
  [ $rc = 124 ] && { log "timeout after ${LAB_TIMEOUT}s"; tail -5 "$LAB/last-console.log" >&2; exit 124; }
  [ -s "$ctl/rc" ] || { log "no exit status from L1 (qemu rc=$rc); console tail:"; tail -15 "$LAB/last-console.log" >&2; exit 125; }
  exit "$(cat "$ctl/rc")"; }
shell() { [ -e "$L1/.ok" ] || build; local ctl; ctl=$(mktemp -d "$LAB/run.XXXXXX"); trap "rm -rf '$ctl'" EXIT; touch "$ctl/shell"
  LAB_TIMEOUT=${LAB_TIMEOUT_SHELL:-86400} launch "$ctl" "$PWD" -serial mon:stdio; }
selftest() { local d; [ -e "$L1/.ok" ] || build; d=$(mktemp -d "$LAB/self.XXXXXX"); trap "rm -rf '$d'" EXIT; cat > "$d/t.sh" <<'EOF'
f=0; ok() { echo "ok   $*"; }; no() { echo "FAIL $*"; f=1; }; B=/sys/bus/pci/devices
[ -c /dev/kvm ] && ok /dev/kvm || no /dev/kvm
for m in igb e1000e nvme; do modprobe $m || no modprobe $m; done
[ -c /dev/vhost-net ] && ok /dev/vhost-net || no /dev/vhost-net
ls -d /sys/kernel/iommu_groups/* >/dev/null 2>&1 && ok "$(ls /sys/kernel/iommu_groups | wc -l) IOMMU groups" || no IOMMU groups
PF=0000:01:00.0; ip link set "$(ls $B/$PF/net)" up; echo 2 > $B/$PF/sriov_numvfs && ok "igb sriov_numvfs=2" || no sriov
VF=$(basename $(readlink $B/$PF/virtfn0)); echo vfio-pci > $B/$VF/driver_override; [ -e $B/$VF/driver ] && echo $VF > $B/$VF/driver/unbind; echo $VF > /sys/bus/pci/drivers_probe
G=$(basename $(readlink $B/$VF/iommu_group)); [ -c /dev/vfio/$G ] && ok "$VF on vfio-pci, /dev/vfio/$G" || no vfio
echo 1 > $B/0000:03:00.0/sriov_numvfs && ok "nvme sriov_numvfs=1" || no nvme sriov
timeout 120 qemu-system-x86_64 -M q35,hpet=off -accel kvm -cpu host -m 128 -mem-path /huge -nodefaults -display none -no-reboot -serial stdio -kernel /opt/lab/l2-vmlinux -initrd /opt/lab/l2-initrd -device vfio-pci,host=$VF,rombar=0 \
  -append "console=ttyS0 quiet panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check random.trust_cpu=1 apparmor=0 audit=0 i8042.noaux i8042.nokbd" > /tmp/l2 2>&1
grep -a L2- /tmp/l2; grep -q L2-USERSPACE /tmp/l2 && ok "L2 Linux reached userspace" || { no L2; tail -5 /tmp/l2; }
grep -q 0x10ca /tmp/l2 && ok "L2 sees the igb VF (vfio-pci)" || no L2 VF
echo "uptime $(cut -d' ' -f1 /proc/uptime)"; exit $f
EOF
  LAB_HUGE=80 LAB_TIMEOUT=240 "$SELF" run -w "$d" sh ./t.sh; }
case ${1:-} in build) build;; run) shift; run "$@";; shell) shell;; selftest) selftest;; *) sed -n '2,30p' "$SELF"; exit 2;; esac
