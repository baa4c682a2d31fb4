#!/bin/bash
# demo.sh - one domain from definition to shutdown, on a virtd of its own. "make demo" runs it.
#
#   demo.sh                 choose a place that can run Linux guests: this host, or else the lab
#   demo.sh here IMAGES     run it on this host with the kernel and initrd in the folder IMAGES
#
# Nothing of the host changes: state, sockets and the disk are in a temporary folder, the bridge is in a network
# namespace of its own, and both are gone afterwards.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
bin=$top/bin
say() { printf '\n\033[1m== %s\033[0m\n' "$*"; }

# choose asks a virtd of its own whether this host's KVM can run a Linux guest.
choose() {
  local verdict
  work=$(mktemp -d "${TMPDIR:-/tmp}/virtd-demo.XXXXXX")
  trap cleanup EXIT
  say "can this host run a Linux guest?"
  start_virtd
  if verdict=$(vctl host-check); then
    echo "$verdict"
    stop
    say "yes: the demo runs here"
    "$top/lab/lab.sh" build
    exec "$0" here "$("$top/lab/lab.sh" path guest/6.1)"
  fi
  echo "$verdict"
  stop
  say "no: the same demo runs in the lab instead, a whole host under software emulation"
  "$top/lab/lab.sh" build
  exec "$top/lab/lab.sh" run -w "$top" demo/demo.sh here /opt/lab/guest/6.1
}

# stop ends what choose started.
stop() {
  trap - EXIT
  kill "$virtd" 2>/dev/null || true
  wait "$virtd" 2>/dev/null || true
  rm -rf "$work"
}

# in_namespace runs the rest in a network namespace of its own, so that its bridge is nobody else's.
in_namespace() {
  [ -z "${DEMO_NETNS:-}" ] || return 0
  export DEMO_NETNS=none
  if [ "$(id -u)" = 0 ] && unshare --net true 2>/dev/null; then
    echo "network: a namespace of its own, made by root"
    DEMO_NETNS=root exec unshare --net "$0" "$@"
  elif unshare --user --map-current-user --keep-caps --net true 2>/dev/null; then
    echo "network: a user and network namespace, without root"
    DEMO_NETNS=user exec unshare --user --map-current-user --keep-caps --net "$0" "$@"
  fi
  echo "network: none, this host allows no user namespaces (sysctl kernel.unprivileged_userns_clone=1 allows them)"
}

bridge() {
  [ "$DEMO_NETNS" != none ] || return 0
  ip link set lo up
  ip link add br-demo type bridge
  ip addr add 10.9.0.1/24 dev br-demo
  ip link set br-demo up
}

# start_virtd runs a private daemon and waits for its socket.
start_virtd() {
  # in the lab programs start much faster from memory than from a shared folder
  [ -z "${VIRTD_LAB:-}" ] || { mkdir -p "$work/bin"; cp "$bin"/virtd "$bin"/vctl "$bin"/virtd-vmm "$work/bin/"; bin=$work/bin; }
  chmod 755 "$work"
  "$bin/virtd" --state-dir "$work/state" --run-dir "$work/run" --log-dir "$work/log" --socket-dir "$work" --emulator "$bin/virtd-vmm" > "$work/virtd.log" 2>&1 &
  virtd=$!
  local i
  for i in $(seq 100); do [ -S "$work/libvirt-sock" ] && return; kill -0 "$virtd" 2>/dev/null || break; sleep 0.1; done
  cat "$work/virtd.log"; echo "virtd did not start" >&2; exit 1
}

# a virtd that is not root's serves sessions
case $(id -u) in 0) instance=system ;; *) instance=session ;; esac
vctl() { "$bin/vctl" -c "qemu:///$instance?socket=$work/libvirt-sock" "$@"; }
run() { printf '$ vctl %s\n' "$*"; vctl "$@"; }

cleanup() {
  local rc=$?
  exec 3>&- 2>/dev/null || true
  if [ -n "${virtd:-}" ] && kill -0 "$virtd" 2>/dev/null; then
    vctl destroy demo >/dev/null 2>&1 || true
    kill "$virtd"; wait "$virtd" 2>/dev/null || true
  fi
  [ $rc = 0 ] || { echo "--- log of virtd"; tail -20 "$work/virtd.log"; echo "--- log of the engine"; tail -20 "$work"/log/*.log 2>/dev/null; } >&2 || true
  rm -rf "$work"
  exit $rc
}

# wait_for PATTERN FILE SECONDS
wait_for() {
  local i
  for i in $(seq $(($3 * 5))); do grep -qa -- "$1" "$2" 2>/dev/null && return; sleep 0.2; done
  echo "no \"$1\" within $3 s" >&2; return 1
}

console() {
  mkfifo "$work/keys"
  vctl start demo --console < "$work/keys" > "$work/console" &
  local client=$!
  exec 3> "$work/keys"
  tail -f --pid "$client" "$work/console" 2>/dev/null & local shown=$!
  wait_for 'LAB-GUEST: shell' "$work/console" 120
  printf 'uname -sr; free -m | head -2; dd if=/dev/urandom of=/dev/vda bs=1M count=1 conv=fsync 2>&1 | tail -1; echo typed-$((40+2))\r' >&3
  wait_for 'typed-42' "$work/console" 30
  sleep 0.5
  printf '\035' >&3
  exec 3>&-
  wait "$client" || true
  wait "$shown" 2>/dev/null || true
}

here() {
  images=$1
  in_namespace here "$images"
  work=$(mktemp -d "${TMPDIR:-/tmp}/virtd-demo.XXXXXX")
  trap cleanup EXIT
  bridge
  say "a virtd of our own"
  start_virtd
  run version
  say "define"
  truncate -s 16M "$work/disk.img"
  local nic="<interface type='bridge'><source bridge='br-demo'/><model type='virtio'/></interface>"
  [ "$DEMO_NETNS" != none ] || nic=
  sed -e "s|@IMAGES@|$images|; s|@WORK@|$work|; s|@INTERFACE@|$nic|" "$top/demo/domain.xml" > "$work/demo.xml"
  run define "$work/demo.xml"
  run list --all
  say "start, with its console"
  echo '$ vctl start demo --console'
  console
  echo
  if [ "$DEMO_NETNS" != none ]; then
    say "the guest answers on the bridge"
    ping -c 2 -w 10 10.9.0.2
  fi
  say "the balloon"
  run balloon demo
  run balloon demo 300MiB --timeout 90s
  run balloon demo
  run balloon demo 512MiB --timeout 90s
  say "shut down gracefully"
  run shutdown demo
  local i
  for i in $(seq 150); do [ "$(vctl domstate demo)" = "shut off" ] && break; sleep 0.2; done
  run domstate demo --reason
  [ "$(vctl domstate demo)" = "shut off" ]
  run undefine demo
  say "done: nothing is left behind"
}

case ${1:-} in
  here) shift; here "$@";;
  '') choose;;
  *) sed -n '2,9p' "$0"; exit 2;;
esac
