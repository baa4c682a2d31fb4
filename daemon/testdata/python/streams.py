"""Streams: a console, and a volume's data in both directions."""
import hashlib
import os
import sys
import threading
import time

import libvirt
import loop

loop.start()
conn = libvirt.open(sys.argv[1])
directory = sys.argv[3]

with open(directory + "/demo.xml") as f:
    dom = conn.defineXML(f.read())
dom.create()

print("console")
console = conn.newStream(libvirt.VIR_STREAM_NONBLOCK)
dom.openConsole(None, console, 0)
came = bytearray()
done = threading.Event()


def readable(stream, events, opaque):
    data = stream.recv(4096)
    if isinstance(data, bytes):
        came.extend(data)
    if b"echo\r\n" in came or b"echo\n" in came or b"echo" in came:
        done.set()


console.eventAddCallback(libvirt.VIR_STREAM_EVENT_READABLE, readable, None)
print("  sent", console.send(b"echo"))
print("  came back:", done.wait(20))
console.eventRemoveCallback()
console.finish()

print("a second one, by force and not")
first = conn.newStream(0)
dom.openConsole(None, first, 0)
second = conn.newStream(0)
try:
    dom.openConsole(None, second, libvirt.VIR_DOMAIN_CONSOLE_SAFE)
except libvirt.libvirtError as e:
    print(" ", e)
third = conn.newStream(0)
dom.openConsole(None, third, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
third.abort()
try:
    first.abort()
except libvirt.libvirtError as e:
    print(" ", e)
dom.destroy()

with open(directory + "/pool.xml") as f:
    pool = conn.storagePoolDefineXML(f.read(), 0)
pool.build(0)
pool.create(0)
size = 24 << 20
volume = pool.createXML(f"<volume><name>data.img</name><capacity>{size}</capacity><allocation>0</allocation></volume>", 0)
data = os.urandom(1 << 20) * 20

print("upload")
up = conn.newStream(0)
volume.upload(up, 1 << 20, len(data), 0)
left = memoryview(data)


def source(stream, count, opaque):
    global left
    part, left = left[:count], left[count:]
    return bytes(part)


up.sendAll(source, None)
up.finish()
with open(volume.path(), "rb") as f:
    f.seek(1 << 20)
    print("  same:", f.read(len(data)) == data)

print("download")
down = conn.newStream(0)
volume.download(down, 1 << 20, len(data), 0)
got = hashlib.sha256()
down.recvAll(lambda stream, part, opaque: got.update(part), None)
down.finish()
print("  same:", got.digest() == hashlib.sha256(data).digest())

print("an upload that the client gives up")
up = conn.newStream(0)
volume.upload(up, 0, 0, 0)
up.send(b"x" * 1000)
up.abort()
print("  alive:", conn.isAlive())

print("a sparse upload: data, a hole over what was there, data, a hole at the end")
path = directory + "/sparse.bin"
with open(path, "wb") as f:
    f.write(b"a" * 65536)
    f.truncate(8 << 20)
    f.seek(4 << 20)
    f.write(b"b" * 65536)
    f.truncate(16 << 20)
sparse = pool.createXML("<volume><name>sparse.img</name><capacity>65536</capacity></volume>", 0)
with open(sparse.path(), "r+b") as f:
    f.write(b"x" * (1 << 20))
up = conn.newStream(0)
sparse.upload(up, 0, 0, libvirt.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
fd = os.open(path, os.O_RDONLY)


def position(stream, opaque):
    """Says whether data comes next, and how much."""
    at = os.lseek(fd, 0, os.SEEK_CUR)
    try:
        data = os.lseek(fd, at, os.SEEK_DATA)
    except OSError:  # a hole up to the end
        end = os.lseek(fd, 0, os.SEEK_END)
        os.lseek(fd, at, os.SEEK_SET)
        return [False, end - at]
    hole = data if data > at else os.lseek(fd, at, os.SEEK_HOLE)
    os.lseek(fd, at, os.SEEK_SET)
    return [data == at, hole - at]


up.sparseSendAll(lambda stream, count, opaque: os.read(fd, count), position,
                 lambda stream, count, opaque: os.lseek(fd, count, os.SEEK_CUR), None)
up.finish()
os.close(fd)
with open(path, "rb") as a, open(sparse.path(), "rb") as b:
    print("  same:", a.read() == b.read())
print("  takes up less than 1 MiB:", os.stat(sparse.path()).st_blocks * 512 < 1 << 20)

print("a sparse download")
back = os.open(directory + "/back.bin", os.O_RDWR | os.O_CREAT, 0o600)
holes = []


def skip(stream, count, opaque):
    holes.append(count)
    os.ftruncate(back, os.lseek(back, count, os.SEEK_CUR))


down = conn.newStream(0)
sparse.download(down, 0, 0, libvirt.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM)
down.sparseRecvAll(lambda stream, data, opaque: os.write(back, data), skip, None)
down.finish()
with open(path, "rb") as a, open(directory + "/back.bin", "rb") as b:
    print("  same:", a.read() == b.read(), "holes of more than 10 MiB:", sum(holes) > 10 << 20)

print("a hole where none may be")
up = conn.newStream(0)
sparse.upload(up, 0, 0, 0)
try:
    up.sendHole(4096, 0)
    up.finish()
except libvirt.libvirtError as e:
    print(f"  code {e.get_error_code()} {e.get_error_message()}")
print("  alive:", conn.isAlive())
