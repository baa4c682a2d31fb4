"""An event loop in a thread, and a list of what it brought, for the other scripts."""
import sys
import threading
import time

import libvirt


def start():
    """Runs libvirt's own event loop. Call it before opening a connection."""
    libvirt.virEventRegisterDefaultImpl()

    def run():
        while True:
            libvirt.virEventRunDefaultImpl()

    threading.Thread(target=run, daemon=True).start()
    # errors are raised; libvirt need not print them too
    libvirt.registerErrorHandler(lambda context, error: None, None)


class Seen:
    """Lines that callbacks leave and the main thread waits for."""

    def __init__(self):
        self.lines = []
        self.changed = threading.Condition()

    def add(self, line):
        with self.changed:
            self.lines.append(line)
            self.changed.notify_all()

    def take(self, count, seconds=20):
        """Prints the next count lines, or those that came in time and how many are missing."""
        end = time.monotonic() + seconds
        with self.changed:
            while len(self.lines) < count and time.monotonic() < end:
                self.changed.wait(end - time.monotonic())
            for line in self.lines[:count]:
                print("  " + line)
            if len(self.lines) < count:
                print(f"  {count - len(self.lines)} more were expected")
            del self.lines[:count]
        sys.stdout.flush()
