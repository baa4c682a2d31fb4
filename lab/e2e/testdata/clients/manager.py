"""virt-manager with a Linux guest: the list, its start, its shell on the serial console, its details and graphs, its life,
its XML, and another guest from an image with a kernel. Arguments: the guest, an image, a kernel, an initrd, kernel
arguments."""
import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time

import libvirt
from screen import PATIENCE, Widget, screenshot, until

guest, image, kernel, initrd, cmdline = sys.argv[1:]
conn = libvirt.open("qemu:///system")
dom = conn.lookupByName(guest)

program = subprocess.Popen(["virt-manager", "--no-fork", "--connect", "qemu:///system", "--debug"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                           env=dict(os.environ, PYTHONFAULTHANDLER="1", LC_ALL="C.UTF-8"))
log = []
tour_over = False
threading.Thread(target=lambda: log.extend(program.stdout), daemon=True).start()


def ending():
    """Ends virt-manager. If the tour is not over, tells where it is: it prints the stacks of its threads when it is aborted."""
    if tour_over:
        program.kill()
        return
    print("virt-manager", "runs" if program.poll() is None else f"ended with {program.poll()}")
    program.send_signal(signal.SIGABRT)
    program.wait()
    time.sleep(1)
    print(b"".join(log[-100:]).decode(errors="replace"))


atexit.register(ending)
screen = Widget()
main = screen.find("frame", "Virtual Machine Manager")


def row(pattern):
    return main.find("table cell", pattern)


def answers(win):
    """The shell behind a console computes something."""
    def probe():
        terminal = win.find("terminal", "Serial Terminal")
        terminal.focus().type("echo typed-$((40+2))")
        terminal.press("key", "Return")
        end = time.monotonic() + 3 * PATIENCE
        while time.monotonic() < end:
            if "typed-42" in terminal.text:
                return True
            time.sleep(0.2)
        print("  no answer in:", terminal.text[-300:])
    until("the shell's answer", probe)


print("the list:", row(guest + "\n.*").name.split("\n"))


def opened():
    """The selection follows the focus after a while: a button that is faster has no guest to open."""
    row(guest + "\n.*").focus()
    time.sleep(2)
    main.find("push button", "Open").click()
    time.sleep(2)
    return screen.has("frame", guest + " on QEMU/KVM.*")


win = until("the guest's window", opened).front()

print("start, and the shell on the serial console")
win.find("push button", "Run").click()
row(guest + "\nRunning")
answers(win)
screenshot("console")

print("details and graphs")
win.find("radio button", "Details").click()
print(" ", win.find("table", "hw-list").names("table cell"))
win.find("table cell", "Performance").focus()
win.find("label", "Network I/O")
until("load of the guest", lambda: [n for n in win.names("label") if re.fullmatch(r"\d+ %", n)])
screenshot("performance")

print("pause, resume")
win.find("toggle button", "Pause").click()
row(guest + "\nPaused")
win.find("toggle button", "Pause").click()
row(guest + "\nRunning")

print("edit the XML")
win.find("table cell", "Overview").focus()
win.find("page tab", "XML").select()
editor = win.find("text", "XML editor")
until("the document", lambda: "<domain" in editor.text)
editor.text = editor.text.replace("</name>", "</name><title>Edited in virt-manager</title>", 1)
win.find("push button", "config-apply").click()
alert = screen.find("alert", "vmm dialog")
alert.find("push button", "OK").click()
alert.gone()
print("  stored:", re.findall("<title>.*</title>", dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))

print("shut down by the guest's power button")
win.find("push button", "Shut Down").click()
row("(" + guest + "|Edited in virt-manager)\nShutoff")

print("a new guest from an image with a kernel")
main.find("push button", "New").click()
new = screen.find("frame", "New VM")
new.find("radio button", "Import existing disk image").click()
new.find("push button", "Forward").click()
new.find("text", "import-entry").text = image
system = new.find("text", "oslist-entry").focus()
system.text = "generic linux 2022"


def chosen():
    """What is typed opens a list a moment later, and the entry says what was chosen from it. Forward refuses what is only typed."""
    cell = screen.has("table cell", "Generic Linux 2022.*")
    if cell:
        cell.activate()
    return system.text.startswith("Generic Linux 2022")


until("the operating system", chosen)
new.find("push button", "Forward").click()
new.find("label", "CPUs:")
memory = new.find("spin button", "Memory.*|")
memory.text = "256"
new.find("push button", "Forward").click()
new.find("text", "Name:?").text = "made"
new.find("check box", "Customize configuration before install").click()
new.find("push button", "Finish").click()
custom = screen.find("frame", "made on QEMU/KVM.*")
custom.find("table cell", "Boot Options").focus()
custom.find("toggle button", "Direct kernel boot").click()
custom.find("check box", "Enable direct kernel boot").click()
custom.find("text", "Kernel path:").text = kernel
custom.find("text", "Initrd path:").text = initrd
custom.find("text", "Kernel args:").text = cmdline
custom.find("push button", "config-apply").click()
custom.find("push button", "Begin Installation").click()
custom.gone()  # the guest's own window has the same title
row("made\nRunning")
win = screen.find("frame", "made on QEMU/KVM.*").front()
win.find("menu", "View").press()
win.find("menu", "Consoles").press()
win.find("radio menu item", "Serial 1").press()
answers(win)
screenshot("made")
tour_over = True
