"""A Linux guest in the hands of libvirt-dbus. Arguments: the bus's address, the guest."""
import sys
import threading
import time

import gi
gi.require_version("Gio", "2.0")
from gi.repository import Gio, GLib

flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
changed = threading.Condition()
signals = []


def on_signal(bus, sender, path, interface, name, args):
    with changed:
        signals.append((name, args.unpack()[1:]))
        changed.notify_all()


def retry(what):
    end = time.monotonic() + 120
    while True:
        try:
            return what()
        except GLib.Error:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def call(path, interface, method, signature=None, *args):
    got = bus.call_sync("org.libvirt", path, interface, method, GLib.Variant(f"({signature})", args) if signature else None,
                        None, 0, 120000, None).unpack()
    return got[0] if len(got) == 1 else got


def expect(*events):
    """Waits for the signals of these events."""
    with changed:
        if not changed.wait_for(lambda: len(signals) >= len(events), 120):
            print("  too few signals")
        print(" ", signals[:len(events)])
        del signals[:len(events)]


bus = retry(lambda: Gio.DBusConnection.new_for_address_sync(sys.argv[1], flags, None, None))
threading.Thread(target=GLib.MainLoop().run, daemon=True).start()
bus.signal_subscribe("org.libvirt", "org.libvirt.Connect", "DomainEvent", None, None, 0, on_signal)
root, kind = "/org/libvirt/QEMU", "org.libvirt.Domain"
dom = retry(lambda: call(root, "org.libvirt.Connect", "DomainLookupByName", "s", sys.argv[2]))
print("listed", call(root, "org.libvirt.Connect", "ListDomains", "u", 0) == [dom])
call(dom, kind, "Create", "u", 0)
expect("resumed", "started")
print("state", call(dom, kind, "GetState", "u", 0))
print("processors", call(dom, kind, "GetStats", "uu", 1 << 3, 0).get("vcpu.current"))
call(dom, kind, "Suspend")
call(dom, kind, "Resume")
expect("suspended", "resumed")
call(dom, kind, "Destroy", "u", 0)
expect("shutdown", "stopped")
print("state", call(dom, kind, "GetState", "u", 0))
