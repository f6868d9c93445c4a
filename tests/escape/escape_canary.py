"""A process of the person's outside of any box: everything that code inside must not reach."""
# What is attacked are the calls themselves.

import contextlib
import ctypes
import json
import os
import pty
import selectors
import signal
import socket
import sys

directory, mark = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
IPC_CREAT, IPC_RMID = 0o1000, 0
signals_seen = []


def count_signal(number, _):
    signals_seen.append(number)


def listen(family, kind, address):
    sock = socket.socket(family, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen(64)
    return sock


def answer(sock):
    if sock.type == socket.SOCK_STREAM:
        connection, _ = sock.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(mark.encode())
        return
    _, sender = sock.recvfrom(64)
    if sock.family == socket.AF_INET:
        sock.sendto(mark.encode(), sender)


def make_ipc():
    key = 0x76000000 | os.getpid() & 0xFFFFFF
    flags = IPC_CREAT | 0o600
    shm, msg, sem = libc.shmget(key, 4096, flags), libc.msgget(key, flags), libc.semget(key, 1, flags)
    queue = f"/vsbox-canary-{os.getpid()}"
    libc.mq_open(queue.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)
    return key, queue, (shm, msg, sem)


def remove_ipc(queue, ids):
    shm, msg, sem = ids
    libc.shmctl(shm, IPC_RMID, None)
    libc.msgctl(msg, IPC_RMID, None)
    libc.semctl(sem, 0, IPC_RMID)
    libc.mq_unlink(queue.encode())


signal.signal(signal.SIGURG, count_signal)
key, queue, ids = make_ipc()
master, terminal = pty.openpty()
abstract = f"vsbox-canary-{os.getpid()}"
tcp = listen(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0))
udp = listen(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0))
sockets = [
    tcp,
    udp,
    listen(socket.AF_UNIX, socket.SOCK_STREAM, f"{directory}/stream.sock"),
    listen(socket.AF_UNIX, socket.SOCK_DGRAM, f"{directory}/dgram.sock"),
    listen(socket.AF_UNIX, socket.SOCK_STREAM, f"\0{abstract}"),
    listen(socket.AF_UNIX, socket.SOCK_DGRAM, f"\0{abstract}-dgram"),
]
shm_file = f"/dev/shm/{abstract}"
with open(shm_file, "w") as file:
    file.write(mark)
tmp_file = f"/tmp/{abstract}"
with open(tmp_file, "w") as file:
    file.write(mark)
buffer = ctypes.create_string_buffer(mark.encode())
facts = {
    "pid": os.getpid(), "address": ctypes.addressof(buffer), "key": key, "queue": queue, "abstract": abstract,
    "tty": os.ttyname(terminal), "tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1],
    "shm_file": shm_file, "tmp_file": tmp_file,
}  # fmt: skip
print(json.dumps(facts), flush=True)

selector = selectors.DefaultSelector()
for sock in sockets:
    selector.register(sock, selectors.EVENT_READ)
selector.register(sys.stdin, selectors.EVENT_READ)
running = True
while running:
    for event, _ in selector.select():
        if event.fileobj is not sys.stdin:
            answer(event.fileobj)
        elif sys.stdin.readline():
            print(len(signals_seen), flush=True)
        else:
            running = False
remove_ipc(queue, ids)
os.unlink(shm_file)
os.unlink(tmp_file)
