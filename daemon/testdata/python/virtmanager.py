"""A tour through virt-manager: the list, a guest's console, details and graphs, its life, its XML, and a new guest from an
image with a kernel. Arguments: the URI, one that is not used, the directory with the documents."""
import atexit
import re
import subprocess
import sys
import time

import libvirt
from screen import Widget, screenshot, until

uri, directory = sys.argv[1], sys.argv[3]
conn = libvirt.open(uri)
with open(directory + "/demo.xml") as f:
    dom = conn.defineXML(f.read())
with open(directory + "/net.xml") as f:
    conn.networkDefineXML(f.read()).create()
# without one virt-manager makes it, in libvirt's own place
conn.storagePoolDefineXML(f"<pool type='dir'><name>default</name><target><path>{directory}/pool</path></target></pool>", 0).build(0)
conn.storagePoolLookupByName("default").create(0)
with open(directory + "/guest.img", "wb") as f:
    f.truncate(8 << 20)

program = subprocess.Popen(["virt-manager", "--no-fork", "--connect", uri])
atexit.register(program.kill)
screen = Widget()
main = screen.find("frame", "Virtual Machine Manager")


def row(pattern):
    return main.find("table cell", pattern)


def page(name):
    """A page of the details, on its first tab."""
    win.find("table cell", name).focus()


print("the list:", row("A demo\n.*").name.split("\n"))
row("A demo\n.*").focus()
main.find("push button", "Open").click()
win = screen.find("frame", "A demo on QEMU/KVM.*").front()
screenshot("off")

print("start, and the serial console")
win.find("push button", "Run").click()
row("A demo\nRunning")


def echoed():
    """Types again until it comes back: the stream may not have been open."""
    terminal = win.find("terminal", "Serial Terminal")
    terminal.focus().type("uname -a")
    end = time.monotonic() + 2
    while time.monotonic() < end and "uname -a" not in terminal.text:
        time.sleep(0.05)
    return "uname -a" in terminal.text


until("the console's echo", echoed)
screenshot("console")

print("details")
win.find("radio button", "Details").click()
print(" ", [n for n in win.find("table", "hw-list").names("table cell")])
page("Overview")
win.find("label", r"Running \(Booted\)")
print(" ", [n for n in win.find("filler", "overview-tab").names("label") if n in ("Q35", "KVM", "x86_64", "11111111-2222-4333-8444-555555555555")])
page("Performance")
win.find("label", "Network I/O")
until("rates of disk and network", lambda: len([n for n in win.names("label") if re.match(r"\d+ KiB/s", n)]) == 2)
screenshot("performance")
for name, label in (("OS information", None), ("CPUs", "Configuration"), ("Memory", "Maximum allocation:"), ("Boot Options", "Autostart"),
                    ("VirtIO Disk 1", "Virtual Disk"), ("NIC :12:34:56", "MAC address:"), ("Serial 1", "Serial Device.*")):
    page(name)
    if label:
        win.find("label", label)
    if screen.has("alert", ".*"):
        print("  an alert at", name, screen.find("alert", ".*").names("label"))

print("pause, resume, force off, run")
win.find("toggle button", "Pause").click()
row("A demo\nPaused")
win.find("toggle button", "Pause").click()
row("A demo\nRunning")
win.find("toggle button", "Menu").click()
screen.find("menu item", "Force Off").click()
row("A demo\nShutoff")
win.find("push button", "Run").click()
row("A demo\nRunning")
print("  what happens elsewhere shows")
dom.suspend()
row("A demo\nPaused")
dom.resume()
row("A demo\nRunning")

print("edit the XML")
page("Overview")
win.find("page tab", "XML").select()
editor = win.find("text", "XML editor")
until("the document", lambda: "<domain" in editor.text)
editor.text = editor.text.replace("A demo", "Edited in virt-manager")
win.find("push button", "config-apply").click()
alert = screen.find("alert", "vmm dialog")
print(" ", alert.names("label"))
alert.find("push button", "OK").click()
alert.gone()
print("  stored:", re.findall("<title>.*</title>", dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)))
editor.text = "<domain><name>demo"
win.find("push button", "config-apply").click()
alert = screen.find("alert", "vmm dialog")
print(" ", alert.names("label")[0].splitlines()[0])
screenshot("bad-xml")
alert.find("push button", "Close").click()
alert.gone()
win.find("push button", "config-cancel").click()

print("add a device to the running guest")
win.find("page tab", "Details").select()
win.find("push button", "add-hardware").click()
add = screen.find("frame", "Add New Virtual Hardware")
add.find("table cell", "RNG").focus()
screenshot("add")
add.find("push button", "Finish").click()
add.gone()
win.find("table cell", "RNG /dev/urandom")
print("  live:", "<rng" in dom.XMLDesc(0), "stored:", "<rng" in dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE))

print("a new guest")
main.find("push button", "New").click()
new = screen.find("frame", "New VM")
new.find("radio button", "Import existing disk image").click()
new.find("push button", "Forward").click()
new.find("text", "import-entry").text = directory + "/guest.img"
system = new.find("text", "oslist-entry").focus()
system.text = "generic linux 2022"
screen.find("table cell", "Generic Linux 2022.*").activate()
screenshot("new-image")
new.find("push button", "Forward").click()
new.find("label", "CPUs:")
new.find("push button", "Forward").click()
new.find("text", "Name:?").text = "made"
new.find("check box", "Customize configuration before install").click()
screenshot("new-name")
new.find("push button", "Finish").click()
custom = screen.find("frame", "made on QEMU/KVM.*")
custom.find("table cell", "Boot Options").focus()
custom.find("toggle button", "Direct kernel boot").click()
custom.find("check box", "Enable direct kernel boot").click()
custom.find("text", "Kernel path:").text = "/boot/vmlinuz"
custom.find("text", "Kernel args:").text = "console=ttyS0"
custom.find("push button", "config-apply").click()
screenshot("customize")
custom.find("push button", "Begin Installation").click()
custom.gone() # the guest's own window has the same title
row("made\nRunning")
made = conn.lookupByName("made")
xml = made.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
print(" ", re.findall("<(?:kernel|cmdline)>.*<", xml), re.findall("source (?:file|network)='[^']*'", xml))
print("  state", made.state(), "persistent", made.isPersistent())
# it has a display in its definition only: the serial console is in the menu
win = screen.find("frame", "made on QEMU/KVM.*").front()
win.find("menu", "View").press()
win.find("menu", "Consoles").press()
win.find("radio menu item", "Serial 1").press()
win.find("terminal", "Serial Terminal")
screenshot("made")

