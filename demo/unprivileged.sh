#!/bin/bash
# unprivileged.sh - the demo as an ordinary user, in the lab. On this machine it boots the lab; there it takes up another uid.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${VIRTD_LAB:-}" ]; then
  make -s -C "$top" build
  "$top/lab/lab.sh" build
  exec "$top/lab/lab.sh" run -w "$top" demo/unprivileged.sh
fi
# as udev leaves them on Debian, for a member of the group kvm
chmod 666 /dev/kvm /dev/net/tun
chmod 1777 /tmp
sysctl -qw kernel.unprivileged_userns_clone=1
mkdir /tmp/top
cp -r "$top/bin" "$top/demo" /tmp/top/
chmod -R a+rX /tmp/top
exec setpriv --reuid 4242 --regid 4242 --clear-groups env HOME=/tmp /tmp/top/demo/demo.sh here /opt/lab/guest/6.1
