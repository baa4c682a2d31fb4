"""Codes, domains, levels and texts of errors."""
import sys
import uuid

import libvirt

libvirt.registerErrorHandler(lambda context, error: None, None)
conn = libvirt.open(sys.argv[1])
readonly = libvirt.openReadOnly(sys.argv[2])
directory = sys.argv[3]


def fails(what, call):
    try:
        print(f"{what}: returned {call()!r}")
    except libvirt.libvirtError as e:
        print(f"{what}: code {e.get_error_code()} domain {e.get_error_domain()} level {e.get_error_level()}")
        print(f"  {e.get_error_message()}")


with open(directory + "/demo.xml") as f:
    xml = f.read()
dom = conn.defineXML(xml)
none = "99999999-0000-4000-8000-000000000000"
fails("domain by name", lambda: conn.lookupByName("none"))
fails("domain by uuid", lambda: conn.lookupByUUIDString(none))
fails("domain by id", lambda: conn.lookupByID(99))
fails("network by name", lambda: conn.networkLookupByName("none"))
fails("network by uuid", lambda: conn.networkLookupByUUIDString(none))
fails("pool by name", lambda: conn.storagePoolLookupByName("none"))
fails("pool by uuid", lambda: conn.storagePoolLookupByUUIDString(none))
fails("volume by key", lambda: conn.storageVolLookupByKey("none"))
fails("volume by path", lambda: conn.storageVolLookupByPath("/none"))
fails("device by name", lambda: conn.nodeDeviceLookupByName("none"))
fails("secret by uuid", lambda: conn.secretLookupByUUIDString(none))
fails("secret by usage", lambda: conn.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_CEPH, "none"))
fails("snapshot by name", lambda: dom.snapshotLookupByName("none"))
fails("no title", lambda: conn.defineXML(xml.replace("<title>A demo</title>", "")).metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None))
fails("not running", dom.suspend)
fails("not running", dom.destroy)
fails("broken document", lambda: conn.defineXML("<domain"))
fails("unsupported element", lambda: conn.defineXML(xml.replace("<devices>", "<devices><tpm model='tpm-crb'/>")))
fails("same name", lambda: conn.defineXML(xml.replace("11111111-", "99999999-")))
fails("flags", lambda: dom.state(5))
fails("read-only", lambda: readonly.lookupByName("demo").create())
fails("secrets for readers", lambda: readonly.lookupByName("demo").XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE))
fails("no such call", lambda: conn.nwfilterDefineXML("<filter/>"))
dom.create()
fails("running already", dom.create)
fails("too much memory", lambda: dom.setMemory(1 << 40))
fails("no such disk", lambda: dom.blockInfo("vdz"))
fails("no such interface", lambda: dom.interfaceStats("none"))
fails("no guest agent", dom.fsInfo)
dom.destroy()
dom.undefine()
fails("gone", dom.info)
fails("another daemon's URI", lambda: libvirt.open(sys.argv[1].replace("/system", "/elsewhere")))
fails("no socket", lambda: libvirt.open("qemu:///system?socket=" + directory + "/none"))
