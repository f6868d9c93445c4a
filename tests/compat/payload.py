"""What Python programs do all day, one probe a function: ``python payload.py NAME`` prints ok.

Runs on the Python of the box (3.8 and newer), alone: it imports nothing of vsbox or of the tests.
"""

# It does what other people's programs do, in their ways.
# ruff: noqa: ICN001, PLW1510, PT017, RUF059

import asyncio
import contextlib
import ctypes
import datetime
import fcntl
import getpass
import grp
import locale
import mmap
import multiprocessing as mp
import os
import pathlib
import pty
import pwd
import select
import shutil
import signal
import socket
import sqlite3
import ssl
import struct
import subprocess
import sys
import sysconfig
import tempfile
import termios
import threading
import time
from concurrent import futures
from multiprocessing import shared_memory

HERE = os.path.dirname(os.path.abspath(__file__))
PROBES = {}
SHARED_MEMORY = set()


def probe(function):
    PROBES[function.__name__] = function
    return function


def probe_of_shared_memory(function):
    """Mark a probe that needs /dev/shm, which the Landlock-only tier can open or close but not make private."""
    SHARED_MEMORY.add(function.__name__)
    return probe(function)


# ---- asyncio and threads ----


@probe
def asyncio_wakes_up_across_threads():
    async def main():
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        threading.Thread(target=lambda: (time.sleep(0.01), loop.call_soon_threadsafe(done.set))).start()
        await asyncio.wait_for(done.wait(), 10)
        other = asyncio.run_coroutine_threadsafe
        with futures.ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(lambda: other(asyncio.sleep(0, 7), loop).result(10)) for _ in range(20)]
            await asyncio.wait_for(loop.run_in_executor(None, futures.wait, jobs), 10)
        assert [job.result() for job in jobs] == [7] * 20

    asyncio.run(main())


@probe
def asyncio_runs_subprocesses():
    async def main():
        child = await asyncio.create_subprocess_exec("cat", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        out, _ = await asyncio.wait_for(child.communicate(b"x" * 200_000), 10)
        assert out == b"x" * 200_000
        shells = [await asyncio.create_subprocess_shell(f"exit {n}") for n in range(5)]
        assert await asyncio.wait_for(asyncio.gather(*(s.wait() for s in shells)), 10) == [0, 1, 2, 3, 4]

    asyncio.run(main())


@probe
def asyncio_handles_signals():
    async def main():
        seen = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, seen.set)
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(seen.wait(), 10)

    asyncio.run(main())


async def _echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()


@probe
def asyncio_serves_tcp():
    async def main():
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"hello\n"
        writer.close()
        server.close()

    asyncio.run(main())


@probe
def asyncio_serves_a_unix_socket():
    async def main(path):
        server = await asyncio.start_unix_server(_echo, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"hello\n"
        writer.close()
        server.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(main(os.path.join(directory, "s")))


@probe
def threads_work():
    lock, total = threading.Lock(), []

    def add(n):
        with lock:
            total.append(n)

    workers = [threading.Thread(target=add, args=(n,)) for n in range(64)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(10)
    assert sorted(total) == list(range(64))
    local = threading.Timer(0.01, add, (64,))
    local.start()
    local.join(10)
    assert 64 in total


# ---- multiprocessing: the reason why each is named after its start method ----


def square(n):
    return n * n


def _count(value, lock):
    for _ in range(100):
        with lock:
            value.value += 1


def _fill(name):
    block = shared_memory.SharedMemory(name=name)
    block.buf[:5] = b"hello"
    block.close()


def _start_method(method):
    context = mp.get_context(method)
    with context.Pool(2) as pool:
        assert pool.map(square, range(10)) == [n * n for n in range(10)]
    queue = context.Queue()
    child = context.Process(target=queue.put, args=("sent",))
    child.start()
    assert queue.get(timeout=20) == "sent"
    child.join(20)
    assert child.exitcode == 0


@probe_of_shared_memory
def multiprocessing_forks():
    _start_method("fork")


@probe_of_shared_memory
def multiprocessing_spawns():
    _start_method("spawn")


@probe_of_shared_memory
def multiprocessing_uses_a_fork_server():
    _start_method("forkserver")


@probe_of_shared_memory
def multiprocessing_has_locks_and_values():
    context = mp.get_context("fork")
    value, lock = context.Value("i", 0, lock=False), context.Lock()
    children = [context.Process(target=_count, args=(value, lock)) for _ in range(4)]
    for child in children:
        child.start()
    for child in children:
        child.join(20)
    assert value.value == 400
    for kind in (context.Semaphore, context.BoundedSemaphore, context.RLock, context.Condition):
        with kind():
            pass
    barrier = context.Barrier(1)
    barrier.wait(5)


@probe
def multiprocessing_has_managers():
    with mp.get_context("fork").Manager() as manager:
        shared = manager.dict(a=1)
        shared["b"] = manager.list([2])
        assert shared["a"] == 1
        assert list(shared["b"]) == [2]


@probe
def multiprocessing_has_pipes_and_listeners():
    from multiprocessing.connection import Client, Listener

    one, two = mp.Pipe()
    one.send({"n": 1})
    assert two.recv() == {"n": 1}
    with Listener(("127.0.0.1", 0), authkey=b"key") as listener:
        thread = threading.Thread(target=lambda: listener.accept().send("hello"))
        thread.start()
        with Client(listener.address, authkey=b"key") as client:
            assert client.recv() == "hello"
        thread.join(10)


@probe_of_shared_memory
def shared_memory_works():
    block = shared_memory.SharedMemory(create=True, size=4096)
    try:
        child = mp.get_context("fork").Process(target=_fill, args=(block.name,))
        child.start()
        child.join(20)
        assert bytes(block.buf[:5]) == b"hello"
    finally:
        block.close()
        block.unlink()


@probe_of_shared_memory
def process_pools_work():
    with futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]


@probe
def anonymous_memory_is_shared_with_children():
    area = mmap.mmap(-1, 4096)
    child = os.fork()
    if child == 0:
        area[:2] = b"hi"
        os._exit(0)
    os.waitpid(child, 0)
    assert area[:2] == b"hi"
    descriptor = os.memfd_create("x")
    os.ftruncate(descriptor, 4096)
    assert len(mmap.mmap(descriptor, 4096)) == 4096


# ---- terminals ----


@probe
def ptys_open():
    master, slave = pty.openpty()
    assert os.isatty(slave)
    assert os.ttyname(slave).startswith("/dev/pts/")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 111, 0, 0))
    assert os.get_terminal_size(slave) == (111, 33)
    os.write(slave, b"x\n")
    assert os.read(master, 10) == b"x\r\n"


@probe
def pty_spawns():
    seen = []

    def read(descriptor):
        data = os.read(descriptor, 1024)
        seen.append(data)
        return data

    real, null = os.dup(1), os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    status = pty.spawn(["sh", "-c", "test -t 0 && echo a terminal; exit 3"], read)
    os.dup2(real, 1)
    assert b"a terminal" in b"".join(seen), seen
    assert status == 3 << 8


# ---- network ----


@probe
def ssl_has_certificates():
    context = ssl.create_default_context()
    context.load_default_certs()
    paths = ssl.get_default_verify_paths()
    loaded = context.cert_store_stats()["x509_ca"]
    in_directory = os.listdir(paths.capath) if paths.capath else []
    assert loaded or in_directory, paths


@probe
def ssl_serves_and_connects():
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(os.path.join(HERE, "localhost.pem"))
    asking = ssl.create_default_context(cafile=os.path.join(HERE, "localhost.pem"))

    async def main():
        server = await asyncio.start_server(_echo, "127.0.0.1", 0, ssl=serving)
        reader, writer = await asyncio.open_connection(
            *server.sockets[0].getsockname(), ssl=asking, server_hostname="localhost"
        )
        writer.write(b"hello\n")
        assert await asyncio.wait_for(reader.readline(), 10) == b"hello\n"
        writer.close()
        server.close()

    asyncio.run(main())


def _serve_once(server):
    connection, _ = server.accept()
    with connection:
        connection.sendall(connection.recv(100)[::-1])


def _talk(server, address):
    thread = threading.Thread(target=_serve_once, args=(server,), daemon=True)
    thread.start()
    with socket.socket(server.family) as client:
        client.settimeout(10)
        client.connect(address)
        client.sendall(b"abc")
        assert client.recv(100) == b"cba"
    thread.join(10)
    server.close()


@probe
def threads_serve_tcp():
    server = socket.create_server(("127.0.0.1", 0))
    _talk(server, server.getsockname())


@probe
def threads_serve_a_unix_socket():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "s")
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen()
        _talk(server, path)


def _fill_backlog(family, address):
    """Return a server whose queue is full: the next connection waits."""
    server = socket.socket(family)
    server.bind(address)
    server.listen(0)
    waiting = []
    for _ in range(8):
        client = socket.socket(family)
        client.setblocking(False)
        client.connect_ex(server.getsockname())
        waiting.append(client)
    return server, waiting


def _connect_for_ever(family, address):
    with contextlib.suppress(OSError), socket.socket(family) as client:
        client.connect(address)


def _others_go_on_while_one_connects(family, address):
    server, waiting = _fill_backlog(family, address)
    thread = threading.Thread(target=_connect_for_ever, args=(family, server.getsockname()), daemon=True)
    thread.start()
    time.sleep(0.3)
    assert thread.is_alive()
    with tempfile.NamedTemporaryFile() as file:
        os.chmod(file.name, 0o600)
        os.utime(file.name, (1, 1))
    other = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(other.getsockname(), timeout=10):
        pass
    assert len(waiting) == 8
    print("ok", flush=True)
    os._exit(0)


@probe
def a_tcp_connection_that_waits_holds_up_nobody():
    _others_go_on_while_one_connects(socket.AF_INET, ("127.0.0.1", 0))


@probe
def a_unix_connection_that_waits_holds_up_nobody():
    with tempfile.TemporaryDirectory() as directory:
        _others_go_on_while_one_connects(socket.AF_UNIX, os.path.join(directory, "s"))


@probe
def http_serves_and_fetches():
    import http.server
    import urllib.request

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "f").write_text("hello")
        os.chdir(directory)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        assert opener.open("http://127.0.0.1:%d/f" % server.server_port, timeout=10).read() == b"hello"
        server.shutdown()
        os.chdir("/")


@probe
def udp_reaches_ourselves():
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("127.0.0.1", 0))
    one.settimeout(10)
    two = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    two.sendto(b"x", one.getsockname())
    assert one.recv(10) == b"x"


@probe
def socketpairs_pass_descriptors():
    one, two = socket.socketpair()
    with tempfile.TemporaryFile() as file:
        file.write(b"through")
        file.flush()
        one.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file.fileno()))])
        _, control, _, _ = two.recvmsg(1, socket.CMSG_SPACE(4))
        descriptor = struct.unpack("i", control[0][2][:4])[0]
        assert os.pread(descriptor, 20, 0) == b"through"


@probe
def localhost_resolves():
    answers = {answer[4][0] for answer in socket.getaddrinfo("localhost", 80)}
    assert answers & {"127.0.0.1", "::1"}, answers
    assert socket.gethostname()
    assert socket.getservbyname("https") == 443


# ---- files ----


@probe
def sqlite_works_in_memory_and_in_a_file():
    with tempfile.TemporaryDirectory() as directory:
        for name in (":memory:", os.path.join(directory, "db")):
            with contextlib.closing(sqlite3.connect(name)) as database:
                database.execute("pragma journal_mode=wal")
                database.execute("create table t (n integer)")
                database.executemany("insert into t values (?)", [(n,) for n in range(1000)])
                database.commit()
                assert database.execute("select sum(n) from t").fetchone() == (499500,)


@probe
def temporary_files_work():
    with tempfile.NamedTemporaryFile("w+") as file:
        file.write("hello")
        file.flush()
        assert pathlib.Path(file.name).read_text() == "hello"
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "a", "b")
        path.mkdir(parents=True)
        (path / "c").write_text("x")
        (path / "c").rename(path / "d")
        (path / "l").symlink_to("d")
        os.link(path / "d", path / "h")
        assert sorted(p.name for p in path.iterdir()) == ["d", "h", "l"]
        os.link(path / "d", path.parent / "h")
        (path.parent / "h").rename(path / "moved from another directory")
        os.mkfifo(path / "fifo")
        shutil.copytree(directory, os.path.join(directory, "copy"), ignore=lambda *_: ["fifo", "copy"])
    assert not os.path.exists(directory)
    with tempfile.SpooledTemporaryFile(max_size=10) as file:
        file.write(b"x" * 100)


@probe
def metadata_changes_on_own_files():
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "f")
        pathlib.Path(path).write_text("x")
        os.chmod(path, 0o600)
        assert os.stat(path).st_mode & 0o777 == 0o600
        os.utime(path, (1, 2))
        assert os.stat(path).st_mtime == 2
        os.chown(path, os.getuid(), os.getgid())
        shutil.copy2(path, path + "2")
        assert os.stat(path + "2").st_mtime == 2
        os.truncate(path, 0)
        with open(path, "w") as file:
            os.fchmod(file.fileno(), 0o644)
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@probe
def home_is_writable():
    path = pathlib.Path.home() / ".config" / "compat"
    path.mkdir(parents=True, exist_ok=True)
    (path / "f").write_text("x")
    assert os.path.expanduser("~") == os.environ["HOME"]
    shutil.rmtree(path)


@probe
def devices_work():
    assert pathlib.Path("/dev/null").read_bytes() == b""
    pathlib.Path("/dev/null").write_bytes(b"x")
    with open("/dev/zero", "rb") as file:
        assert file.read(4) == bytes(4)
    with open("/dev/urandom", "rb") as file:
        assert len(file.read(16)) == 16
    assert len(os.urandom(16)) == 16
    assert len(os.getrandom(16)) == 16
    try:
        pathlib.Path("/dev/full").write_bytes(b"x")
    except OSError as error:
        assert error.errno == 28
    read, write = os.pipe()
    os.write(write, b"x")
    with open("/dev/fd/%d" % read, "rb", buffering=0) as file:
        assert file.read(1) == b"x"


@probe
def own_process_shows_in_proc():
    assert b"payload" in pathlib.Path("/proc/self/cmdline").read_bytes()
    assert os.listdir("/proc/self/fd")
    assert "VmRSS" in pathlib.Path("/proc/self/status").read_text()
    assert pathlib.Path("/proc/self/maps").read_text()
    assert pathlib.Path("/proc/meminfo").read_text()
    assert pathlib.Path("/proc/cpuinfo").read_text()


# ---- subprocesses ----


@probe
def subprocesses_work():
    assert subprocess.check_output(["echo", "hi"]) == b"hi\n"
    assert subprocess.check_output("echo $((6*7)) | cat", shell=True) == b"42\n"
    assert subprocess.run(["sh", "-c", "kill -9 $$"]).returncode == -9
    assert subprocess.run(["false"]).returncode == 1
    assert subprocess.run(["cat"], input=b"y" * 300_000, stdout=-1).stdout == b"y" * 300_000
    assert os.popen("echo popen").read() == "popen\n"
    assert os.WEXITSTATUS(os.system("exit 5")) == 5
    assert subprocess.check_output("cat <<E\nhere\nE", shell=True) == b"here\n"
    assert subprocess.check_output(["bash", "-c", "cat <(echo there); cat <<<here"]) == b"there\nhere\n"
    assert os.waitpid(os.posix_spawnp("true", ["true"], {}), 0)[1] == 0
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(["sleep", "60"], timeout=0.1)
        raise AssertionError("no timeout")


@probe
def forks_are_not_interrupted():
    """fork(2) knows no EINTR: a shell whose earlier child ends at that moment would say "Cannot fork"."""
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for _ in range(500):
        for _ in range(2):
            if os.fork() == 0:
                os._exit(0)
        for _ in range(2):
            os.wait()


@probe
def children_find_pip_and_python():
    home = os.environ["VIRTUAL_ENV"]
    wanted = subprocess.check_output([sys.executable, "-m", "pip", "--version"])
    assert subprocess.check_output(["pip", "--version"]) == wanted
    for name in ("python", "python3"):
        command = [os.path.join(home, "bin", name), "-c", "import sys; print(sys.prefix)"]
        assert subprocess.check_output(command, text=True).strip() == sys.prefix == home
    assert os.path.dirname(shutil.which("python")) == os.path.join(home, "bin")
    assert subprocess.check_output(["python", "-m", "pip", "list"])


@probe
def sessions_and_groups_work():
    child = subprocess.Popen(["sleep", "60"], start_new_session=True)
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait(10) == -signal.SIGTERM
    poller = select.epoll()
    read, write = os.pipe()
    poller.register(read, select.EPOLLIN)
    os.write(write, b"x")
    assert poller.poll(5) == [(read, select.EPOLLIN)]
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    assert signal.sigwait({signal.SIGALRM}) == signal.SIGALRM
    assert ctypes.CDLL(None).getpid() == os.getpid()


@probe
def connections_are_made_under_timers():
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.siginterrupt(signal.SIGALRM, False)
    with tempfile.TemporaryDirectory() as directory:
        servers = []
        for family, address in ((socket.AF_UNIX, directory + "/s"), (socket.AF_INET, ("127.0.0.1", 0))):
            server = socket.socket(family)
            server.bind(address)
            server.listen(1)
            servers.append(server)
        signal.setitimer(signal.ITIMER_REAL, 0.0004, 0.0004)
        for _ in range(500):
            for server in servers:
                with socket.socket(server.family) as client:
                    client.connect(server.getsockname())
                    server.accept()[0].close()
        signal.setitimer(signal.ITIMER_REAL, 0)


# ---- who and where ----


@probe
def prefix_is_the_environment():
    assert sys.prefix == os.environ["VIRTUAL_ENV"]
    assert sys.prefix != sys.base_prefix
    assert sys.executable == os.path.join(sys.prefix, "bin", os.path.basename(sys.executable))
    assert os.access(sys.executable, os.X_OK)
    assert sysconfig.get_path("purelib").startswith(sys.prefix)
    assert os.path.isdir(sysconfig.get_path("purelib"))
    assert os.path.isfile(os.path.join(sys.prefix, "pyvenv.cfg"))


@probe
def user_has_a_name():
    assert getpass.getuser() == pwd.getpwuid(os.getuid()).pw_name
    assert grp.getgrgid(os.getgid()).gr_name
    assert os.getuid() == os.geteuid()


@probe
def processors_are_counted():
    assert os.cpu_count() >= 1
    assert os.sched_getaffinity(0)
    assert os.getloadavg()


@probe
def time_zone_and_locale_work():
    now = datetime.datetime.now().astimezone()
    assert now.utcoffset() is not None
    os.environ["TZ"] = "Asia/Tokyo" if os.path.exists("/usr/share/zoneinfo/Asia/Tokyo") else "JST-9"
    time.tzset()
    assert time.localtime(0).tm_hour == 9
    assert locale.setlocale(locale.LC_ALL, "C.UTF-8")
    assert sys.getfilesystemencoding() == "utf-8"


@probe
def resources_can_be_asked_and_lowered():
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(64, hard), hard))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    os.nice(1)
    os.umask(0o77)


def main():
    PROBES[sys.argv[1]]()
    print("ok")


if __name__ == "__main__":
    main()
