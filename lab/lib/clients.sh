# A Debian root with the clients of libvirt that need a desktop, or that would start services: virt-manager with a display
# for it, libvirt-dbus, the Prometheus exporter. It is a tree of its own, built when LAB_CLIENTS=1 asks for it, since it is
# as large as L1's root. L1 sees it as /opt/clients; tests run its programs below it, with chroot.

CLIENTS_ROOT=$LAB/clients-root
CLIENTS="base-files bash dash coreutils util-linux python3 python3-libvirt virt-manager xvfb xdotool dbus-daemon at-spi2-core
  gir1.2-atspi-2.0 fonts-dejavu-core libglib2.0-bin libgdk-pixbuf2.0-bin librsvg2-common shared-mime-info libvirt-glib-1.0-0"
# without what they depend on: a daemon of libvirt, and services
CLIENTS_ALONE="prometheus-libvirt-exporter libvirt-dbus"

build_clients() {
  local want list=() debs p d
  want=$(sum "$HERE"/lib/{clients,packages}.sh)
  stamp "$CLIENTS_ROOT/.ok" "$want" && return
  apt_setup
  for p in $(resolve "$RELEASE" $CLIENTS); do
    case " $(echo $UNWANTED) " in *" ${p%%=*} "*) ;; *) list+=("$p") ;; esac
  done
  for p in $CLIENTS_ALONE; do
    list+=("$p=$(apt-cache "${APT[@]}" show "$p" | awk '$1 == "Version:" && !v { v = $2 } END { print v }')")
  done
  debs=$(fetch "${list[@]}")
  log "unpacking the clients (${#list[@]} packages)"
  rm -rf "$CLIENTS_ROOT"
  mkdir -p "$CLIENTS_ROOT"/{usr/bin,usr/sbin,usr/lib,usr/lib64,dev,proc,sys,tmp,run,root,var/lib,etc}
  for d in bin sbin lib lib64; do ln -s "usr/$d" "$CLIENTS_ROOT/$d"; done
  unpack "$CLIENTS_ROOT" $debs
  finish_clients
  echo "$want" >"$CLIENTS_ROOT/.ok"
}

# finish_clients does what maintainer scripts and triggers would have done, but for the caches that only save time.
finish_clients() {
  local r=$CLIENTS_ROOT lib=usr/lib/x86_64-linux-gnu
  rm -rf "$r/var/run" # some packages have it as a folder
  ln -s /run "$r/var/run"
  printf 'root:x:0:0:root:/root:/bin/bash\nlibvirtdbus:x:990:990::/:/bin/false\n' >"$r/etc/passwd"
  printf 'root:x:0:\nlibvirtdbus:x:990:\n' >"$r/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files\n' >"$r/etc/nsswitch.conf"
  printf '127.0.0.1 localhost lab\n' >"$r/etc/hosts"
  clients_tool "$r/$lib/glib-2.0/glib-compile-schemas" "$r/usr/share/glib-2.0/schemas"
  # without these GTK cannot tell what kind of picture an icon is, and gives up
  clients_tool "$r/usr/bin/update-mime-database" "$r/usr/share/mime"
  clients_tool "$r/$lib/gdk-pixbuf-2.0/gdk-pixbuf-query-loaders" "$r/$lib"/gdk-pixbuf-2.0/2.10.0/loaders/*.so |
    sed "s|$r||" >"$r/$lib/gdk-pixbuf-2.0/2.10.0/loaders.cache"
  rm -rf "$r"/usr/share/{doc,man,locale,info,lintian,bug}
}

# clients_tool PROGRAM ARG...: a program of the tree on this machine
clients_tool() {
  local lib=$CLIENTS_ROOT/usr/lib/x86_64-linux-gnu
  "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$@"
}
