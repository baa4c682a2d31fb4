# The clients of libvirt that tests run and that are not installed on this machine: packages that would start services
# here, and a later release of virsh. They are unpacked with everything they need into two trees; the scripts in their
# run/bin run them with the tree's own loader and libraries. Sourced by sections.sh; needs no root.
#
#   clients          makes or updates the trees, and prints their folder

CLIENTS=${LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/virtd-lab}/clients

clients() (
  HERE=$PWD/lab LAB=${CLIENTS%/clients}
  die() { echo "clients: $*" >&2; exit 1; }
  log() { echo "clients: $*" >&2; }
  . lab/lib/packages.sh
  mkdir -p "$CLIENTS"
  exec 9>"$CLIENTS/lock"
  flock 9
  # of libvirt-dbus's own dependencies only the libraries: the others are services
  clients_tree bookworm "$RELEASE" "prometheus-libvirt-exporter libvirt-dbus" libvirt0 libvirt-glib-1.0-0 dbus-daemon
  clients_tree backports "$RELEASE-backports" "" libvirt-clients
  echo "$CLIENTS"
)

# clients_tree NAME SUITE "PACKAGE..." PACKAGE...: the first packages alone, the others with what they depend on
clients_tree() {
  local tree=$CLIENTS/$1 suite=$2 alone=$3 want list p
  shift 3
  want="$(sum .ci/clients.sh lab/lib/packages.sh)"
  ! stamp "$tree/.ok" "$want" || return 0
  apt_setup
  list=$(resolve "$suite" "$@")
  for p in $alone; do
    list+=" $p=$(apt-cache "${APT[@]}" show "$p" | awk '$1 == "Version:" && !v { v = $2 } END { print v }')"
  done
  list=$(fetch $list)
  rm -rf "$tree"
  mkdir -p "$tree"/usr/{bin,sbin,lib,lib64} "$tree/run"
  for p in bin sbin lib lib64; do ln -s "usr/$p" "$tree/$p"; done
  unpack "$tree" $list
  rm -rf "$tree"/usr/share/{doc,man,locale,info,perl*} "$tree"/usr/lib/systemd
  for p in "$tree"/usr/{bin,sbin}/{virsh,prometheus-libvirt-exporter,libvirt-dbus,dbus-daemon}; do
    [ ! -e "$p" ] || clients_program "$tree" "$p"
  done
  echo "$want" >"$tree/.ok"
}

# clients_program TREE FILE: a program of this machine that runs FILE as the tree would
clients_program() {
  local lib=$1/usr/lib/x86_64-linux-gnu name=${2##*/}
  mkdir -p "$1/run/bin"
  printf '#!/bin/sh\nexec %s --argv0 %s --library-path %s %s "$@"\n' \
    "$lib/ld-linux-x86-64.so.2" "$name" "$lib:$lib/ceph" "$2" >"$1/run/bin/$name"
  chmod +x "$1/run/bin/$name"
}
