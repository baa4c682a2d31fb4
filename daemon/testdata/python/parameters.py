"""What comes in two passes, how many and then which, and the numbers of domains and of the host."""
import sys

import libvirt

libvirt.registerErrorHandler(lambda context, error: None, None)
conn = libvirt.open(sys.argv[1])
directory = sys.argv[3]
with open(directory + "/demo.xml") as f:
    dom = conn.defineXML(f.read())


def show(what, call):
    try:
        print(what, call())
    except libvirt.libvirtError as e:
        print(f"{what}: code {e.get_error_code()} {e.get_error_message()}")


def both(what, call):
    show(what, call)
    dom.create()
    show(what + ", running:", call)
    dom.destroy()


both("scheduler", dom.schedulerType)
both("scheduler parameters", dom.schedulerParameters)
both("memory", lambda: dom.memoryParameters(0))
both("blkio", lambda: dom.blkioParameters(0))
both("numa", lambda: dom.numaParameters(0))
both("block iotune", lambda: dom.blockIoTune("vda", 0))
both("interface", lambda: dom.interfaceParameters("52:54:00:12:34:56", 0))
both("perf events", lambda: dom.perfEvents(0))
both("iothreads", lambda: dom.ioThreadInfo(0))
both("disk errors", lambda: dom.diskErrors(0))
both("cpu stats", lambda: dom.getCPUStats(True))
both("block stats", lambda: sorted(dom.blockStatsFlags("vda", 0)))
both("old block stats", lambda: dom.blockStats("vda"))
both("interface stats", lambda: dom.interfaceStats("52:54:00:12:34:56"))
both("memory stats", lambda: sorted(dom.memoryStats()))
both("job", lambda: dom.jobInfo()[0])
both("job stats", lambda: dom.jobStats())
both("completed job", lambda: dom.jobStats(libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED))
both("emulator pin", lambda: dom.emulatorPinInfo(0)[:8])
both("vcpu pin", lambda: [p[:8] for p in dom.vcpuPinInfo(0)])
both("max vcpus", dom.maxVcpus)
both("vcpus", lambda: dom.vcpusFlags(0))
both("info", lambda: dom.info()[:4])
both("control", dom.controlInfo)
both("security label", dom.securityLabel)
both("block info", lambda: dom.blockInfo("vda")[0])
both("block job", lambda: dom.blockJobInfo("vda", 0))
both("time", lambda: dom.getTime(0))
both("hostname", lambda: dom.hostname(0))
both("launch security", lambda: dom.launchSecurityInfo(0))

print("node info", conn.getInfo()[1:])
print("node memory", conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS), conn.getMemoryStats(0))
print("node cpu", conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS))
print("node memory parameters")
show(" ", lambda: sorted(conn.getMemoryParameters()))
print("cpu map", conn.getCPUMap(0))
print("free memory", conn.getFreeMemory(), conn.getCellsFreeMemory(0, 8))
print("free pages", conn.getFreePages([4, 2048], 0, 2))
print("max vcpus", conn.getMaxVcpus("kvm"))
print("models", conn.getCPUModelNames("x86_64"))
print("type", conn.getType(), "version", conn.getVersion(), "library", conn.getLibVersion())
print("secure", conn.isSecure(), "encrypted", conn.isEncrypted(), "alive", conn.isAlive())
print("stats", sorted(conn.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)[0][1].items()))
