"""What Python programs may count on: the compatibility contract. Runs inside and outside: Python 3.8, no other library.

Each function of the table raises where something does not work; text that it returns is shown. Start methods other than
fork import what they run by name, so only functions of the standard library are sent to other processes.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib
import locale
import mmap
import multiprocessing
import operator
import os
import pathlib
import py_compile
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from typing import Callable, NamedTuple

SECONDS = 20
LOCALHOST = ("127.0.0.1", 0)


class Promise(NamedTuple):
    """One promise: what works, and the aspect of the policy that may close it."""

    name: str
    how: str
    function: Callable[[], object]
    aspect: str = ""


def hold(is_so: object, what: str) -> None:
    """Raise unless something is so."""
    if not is_so:
        raise RuntimeError(what)


# ---- asyncio and threads ----


def run_loop() -> None:
    """Sleep, gather and time out."""

    async def main() -> None:
        hold(await asyncio.gather(*(asyncio.sleep(0.01, n) for n in range(10))) == list(range(10)), "gather")
        try:
            await asyncio.wait_for(asyncio.sleep(60), 0.01)
        except asyncio.TimeoutError:
            return
        raise RuntimeError("no timeout")

    asyncio.run(main())


def wake_loop() -> None:
    """Wake a loop from other threads."""

    async def main() -> None:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()
        threading.Thread(target=lambda: loop.call_soon_threadsafe(woken.set)).start()
        await asyncio.wait_for(woken.wait(), SECONDS)
        hold(await asyncio.wait_for(loop.run_in_executor(None, operator.add, 3, 4), SECONDS) == 7, "executor")

    asyncio.run(main())


def run_asyncio_subprocess() -> None:
    """Talk to a process."""

    async def main() -> None:
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec("cat", stdin=pipe, stdout=pipe)
        out, _ = await asyncio.wait_for(child.communicate(b"x" * 100_000), SECONDS)
        hold(out == b"x" * 100_000, "what came back differs")

    asyncio.run(main())


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


def serve_by_asyncio() -> None:
    """Serve and connect on localhost."""

    async def main() -> None:
        sock = socket.create_server(LOCALHOST)
        server = await asyncio.start_server(_echo, sock=sock)
        reader, writer = await asyncio.open_connection(*sock.getsockname())
        writer.write(b"hello\n")
        hold(await asyncio.wait_for(reader.readline(), SECONDS) == b"hello\n", "what came back differs")
        writer.close()
        server.close()

    asyncio.run(main())


def run_threads() -> None:
    """Count in 32 threads, and in a pool."""
    lock, seen = threading.Lock(), []

    def add(number: int) -> None:
        with lock:
            seen.append(number)

    threads = [threading.Thread(target=add, args=(n,)) for n in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    hold(sorted(seen) == list(range(32)), "threads are missing")
    with futures.ThreadPoolExecutor(4) as pool:
        hold(list(pool.map(abs, (-1, -2))) == [1, 2], "the pool")


# ---- multiprocessing ----


def start_process(method: str) -> None:
    """Start a process by a method, and hear from it."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=operator.methodcaller("send", 7), args=(theirs,))
    process.start()
    hold(ours.poll(SECONDS) and ours.recv() == 7, "nothing came from the process")
    process.join(SECONDS)
    hold(process.exitcode == 0, "exit code %s" % process.exitcode)


def run_pool() -> None:
    """Map over processes."""
    with multiprocessing.get_context("fork").Pool(2) as pool:
        hold(pool.map(abs, range(-5, 0)) == [5, 4, 3, 2, 1], "results differ")
    with futures.ProcessPoolExecutor(2) as executor:
        hold(list(executor.map(abs, (-1, -2))) == [1, 2], "results differ")


def run_manager() -> None:
    """Share a dictionary through a server process."""
    with multiprocessing.get_context("fork").Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = 2
        hold(sorted(shared.keys()) == ["a", "b"], "what is shared differs")


def take_locks() -> None:
    """Make each kind of lock, and a queue."""
    context = multiprocessing.get_context("fork")
    for kind in (context.Lock, context.RLock, context.Semaphore, context.Condition):
        with kind():
            pass
    channel = context.Queue()
    channel.put(1)
    try:
        hold(channel.get(timeout=SECONDS) == 1, "the queue")
    except queue.Empty:
        raise RuntimeError("nothing came through the queue") from None


def share_memory() -> None:
    """Make a block of shared memory and find it by its name."""
    from multiprocessing import shared_memory

    block = shared_memory.SharedMemory(create=True, size=4096)
    try:
        other = shared_memory.SharedMemory(name=block.name)
        other.buf[:2] = b"hi"
        hold(bytes(block.buf[:2]) == b"hi", "it is not shared")
        other.close()
    finally:
        block.close()
        block.unlink()


def write_dev_shm() -> None:
    """Write a file into /dev/shm."""
    path = "/dev/shm/vsbox-check-%d" % os.getpid()
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def share_anonymous_memory() -> None:
    """Share memory with a child."""
    area = mmap.mmap(-1, 4096)
    child = os.fork()
    if child == 0:
        area[:2] = b"hi"
        os._exit(0)
    os.waitpid(child, 0)
    hold(area[:2] == b"hi", "it is not shared")


# ---- files ----


def use_sqlite(name: str) -> None:
    """Write and read a database."""
    import sqlite3

    database = sqlite3.connect(name)
    database.execute("pragma journal_mode=wal")
    database.execute("create table t (n integer)")
    database.executemany("insert into t values (?)", [(n,) for n in range(100)])
    database.commit()
    hold(database.execute("select sum(n) from t").fetchone() == (4950,), "the sum differs")
    database.close()


def use_sqlite_file() -> None:
    """Write and read a database in a file."""
    with tempfile.TemporaryDirectory() as directory:
        use_sqlite(os.path.join(directory, "db"))


def make_temporary_files() -> str:
    """Make, move, link and remove."""
    with tempfile.NamedTemporaryFile("w") as file:
        file.write("x")
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "a")
        path.write_text("x")
        path.rename(path.with_name("b"))
        path.with_name("c").symlink_to("b")
        os.chmod(path.with_name("b"), 0o600)
        os.utime(path.with_name("b"), (1, 2))
        hold(path.with_name("c").stat().st_mtime == 2, "times differ")
    return "in %s" % tempfile.gettempdir()


def write_home() -> str:
    """Write a file into the home directory."""
    home = os.path.expanduser("~")
    with tempfile.NamedTemporaryFile(dir=home):
        return home


def import_new_module() -> None:
    """Write a module and import it."""
    with tempfile.TemporaryDirectory() as directory:
        name = "vsbox_check_%d" % os.getpid()
        pathlib.Path(directory, name + ".py").write_text("def f():\n    return 42\n")
        sys.path.insert(0, directory)
        importlib.invalidate_caches()
        hold(importlib.import_module(name).f() == 42, "the result differs")


def write_bytecode() -> None:
    """Compile a module into a file."""
    with tempfile.TemporaryDirectory() as directory:
        source = pathlib.Path(directory, "m.py")
        source.write_text("x = 1\n")
        hold(os.path.exists(str(py_compile.compile(str(source), doraise=True))), "no bytecode")


def load_library() -> None:
    """Load the C library and call back from it."""
    libc = ctypes.CDLL(None)
    numbers = (ctypes.c_int * 3)(3, 1, 2)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    libc.qsort(numbers, 3, 4, kind(lambda a, b: a[0] - b[0]))
    hold(list(numbers) == [1, 2, 3], "not sorted")


# ---- network ----


def _serve(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(16)[::-1])


def serve(family: int, address: object) -> None:
    """Serve in a thread and connect."""
    with socket.socket(family) as server, socket.socket(family) as client:
        server.bind(address)
        server.listen(1)
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        client.settimeout(SECONDS)
        client.connect(server.getsockname())
        client.sendall(b"abc")
        hold(client.recv(16) == b"cba", "what came back differs")


def serve_unix() -> None:
    """Serve on a socket with a path."""
    with tempfile.TemporaryDirectory() as directory:
        serve(socket.AF_UNIX, os.path.join(directory, "s"))


def exchange_datagrams() -> None:
    """Send ourselves a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(
        socket.AF_INET, socket.SOCK_DGRAM
    ) as two:
        one.bind(("127.0.0.1", 0))
        one.settimeout(SECONDS)
        two.sendto(b"x", one.getsockname())
        hold(one.recv(1) == b"x", "nothing came")


def find_certificates() -> str:
    """Find the authorities that the system trusts."""
    import ssl

    context = ssl.create_default_context()
    context.load_default_certs()
    paths = ssl.get_default_verify_paths()
    loaded = context.cert_store_stats()["x509_ca"]
    listed = len(os.listdir(paths.capath)) if paths.capath and os.path.isdir(paths.capath) else 0
    hold(loaded or listed, "no certificate authority in %s or %s" % (paths.cafile, paths.capath))
    return "%d loaded, %d in the directory" % (loaded, listed)


# ---- processes and terminals ----


def run_subprocesses() -> None:
    """Run commands, with and without a shell."""
    hold(subprocess.check_output(["echo", "hi"]) == b"hi\n", "echo")
    hold(subprocess.check_output("echo $((6*7)) | cat", shell=True) == b"42\n", "the shell")
    hold(subprocess.run(["cat"], input=b"y" * 100_000, stdout=-1, check=False).stdout == b"y" * 100_000, "cat")
    hold(subprocess.run([sys.executable, "-c", "raise SystemExit(5)"], check=False).returncode == 5, "sys.executable")


def handle_signals() -> None:
    """Handle a signal, and a timer."""
    seen = []
    for number in (signal.SIGUSR1, signal.SIGALRM):
        signal.signal(number, lambda number, _: seen.append(number))
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    deadline = time.monotonic() + SECONDS
    while len(seen) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    hold(seen == [signal.SIGUSR1, signal.SIGALRM], "not all signals came")


def open_terminal() -> None:
    """Open a pseudo-terminal and write through it."""
    import pty

    master, slave = pty.openpty()
    hold(os.isatty(slave), "it is no terminal")
    os.write(slave, b"x\n")
    shown = b""
    while len(shown) < 3:
        shown += os.read(master, 8)
    hold(shown == b"x\r\n", "what came through differs")


def spawn_on_terminal() -> None:
    """Run a command on a terminal of its own."""
    import pty

    pid, master = pty.fork()
    if pid == 0:
        os.execvp("sh", ["sh", "-c", "test -t 0 && exit 3"])
    hold(os.waitpid(pid, 0)[1] == 3 << 8, "it had no terminal")
    os.close(master)


# ---- where and when ----


def know_locale() -> None:
    """Use UTF-8, and a time zone."""
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
    hold(sys.getfilesystemencoding() == "utf-8", "file names are in %s" % sys.getfilesystemencoding())
    os.environ["TZ"] = "Asia/Tokyo" if os.path.exists("/usr/share/zoneinfo/Asia/Tokyo") else "JST-9"
    time.tzset()
    hold(time.localtime(0).tm_hour == 9, "the time zone does not count")


def count_processors() -> str:
    """Count processors."""
    hold(os.cpu_count() and os.sched_getaffinity(0), "there are none")
    return "%d, %d of them ours" % (os.cpu_count() or 0, len(os.sched_getaffinity(0)))


def find_randomness() -> None:
    """Get random bytes."""
    hold(len(os.urandom(16)) == 16, "no bytes")
    with open("/dev/urandom", "rb") as file:
        hold(len(file.read(16)) == 16, "no bytes from /dev/urandom")


def compute_with_numpy() -> str:
    """Multiply matrices, which starts threads, in several threads."""
    import numpy as np

    one = np.arange(250_000, dtype=float).reshape(500, 500)
    with futures.ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: float((one @ one)[0, 0]), range(8)))
    hold(len(set(results)) == 1, "results differ")
    return "numpy %s" % np.__version__


PROMISES = (
    Promise("asyncio: loop", "gather and timeouts", run_loop),
    Promise("asyncio: wake-up from threads", "call_soon_threadsafe", wake_loop),
    Promise("asyncio: subprocess", "create_subprocess_exec", run_asyncio_subprocess),
    Promise("asyncio: server", "start_server on localhost", serve_by_asyncio, "network"),
    Promise("threads", "32 threads, a pool", run_threads),
    Promise("multiprocessing: fork", "Process and Pipe", lambda: start_process("fork")),
    Promise("multiprocessing: spawn", "Process and Pipe", lambda: start_process("spawn")),
    Promise("multiprocessing: forkserver", "Process and Pipe", lambda: start_process("forkserver")),
    Promise("multiprocessing: pools", "Pool, ProcessPoolExecutor", run_pool, "shared-memory"),
    Promise("multiprocessing: Manager", "a dictionary in a server process", run_manager),
    Promise("multiprocessing: locks, queues", "POSIX semaphores", take_locks, "shared-memory"),
    Promise("multiprocessing: shared_memory", "shm_open(3)", share_memory, "shared-memory"),
    Promise("/dev/shm", "a file in it", write_dev_shm, "shared-memory"),
    Promise("mmap: anonymous", "shared with a child", share_anonymous_memory),
    Promise("sqlite3: in memory", "a table", lambda: use_sqlite(":memory:")),
    Promise("sqlite3: in a file", "a table, write-ahead log", use_sqlite_file),
    Promise("tempfile", "files, directories, links, times", make_temporary_files),
    Promise("home directory", "a file in it", write_home),
    Promise("import of a new module", "a file on sys.path", import_new_module),
    Promise("bytecode", "py_compile", write_bytecode),
    Promise("ctypes", "a call back from the C library", load_library),
    Promise("localhost: TCP", "a server in a thread", lambda: serve(socket.AF_INET, LOCALHOST), "network"),
    Promise("localhost: UDP", "a datagram to ourselves", exchange_datagrams, "network"),
    Promise("UNIX socket", "a server in a thread", serve_unix, "unix-sockets"),
    Promise("ssl: certificates", "create_default_context", find_certificates),
    Promise("subprocess", "with and without a shell", run_subprocesses),
    Promise("signals", "a handler, a timer", handle_signals),
    Promise("pty: openpty", "through a terminal of our own", open_terminal),
    Promise("pty: fork", "a command on a terminal of its own", spawn_on_terminal),
    Promise("locale and time zone", "C.UTF-8, TZ", know_locale),
    Promise("processors", "cpu_count, sched_getaffinity", count_processors),
    Promise("random bytes", "os.urandom, /dev/urandom", find_randomness),
    Promise("numpy: threads", "matrices, in four threads", compute_with_numpy),
)
