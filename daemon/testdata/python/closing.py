"""The close callback, and keepalive in both directions. Reads a line for each step that the test drives."""
import os
import sys
import time

import libvirt
import loop

loop.start()
conn = libvirt.open(sys.argv[1])
seen = loop.Seen()
names = {libvirt.VIR_CONNECT_CLOSE_REASON_ERROR: "error", libvirt.VIR_CONNECT_CLOSE_REASON_EOF: "end of file",
         libvirt.VIR_CONNECT_CLOSE_REASON_KEEPALIVE: "keepalive", libvirt.VIR_CONNECT_CLOSE_REASON_CLIENT: "client"}
conn.registerCloseCallback(lambda conn, reason, opaque: seen.add("closed: " + names[reason]), None)
print("keepalive:", conn.setKeepAlive(1, 2), flush=True)
print("pid", os.getpid(), flush=True)
for line in sys.stdin:
    step = line.strip()
    if step == "alive":
        print("alive:", conn.isAlive(), conn.getHostname(), flush=True)
    elif step == "closed":
        seen.take(1)
        print("alive:", conn.isAlive(), flush=True)
        try:
            conn.getHostname()
        except libvirt.libvirtError as e:
            print(f"code {e.get_error_code()} {e.get_error_message()}", flush=True)
