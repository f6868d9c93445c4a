"""The events: what of each is to be checked.

Source: https://docs.python.org/3/library/audit_events.html
"""

import os
import posix
import sys
from errno import EACCES

from vsbox.guard.hook.guard import Guard, SandboxPermissionError
from vsbox.guard.hook.paths import holder_of, is_entry, is_link, is_there, joined, mount_of, path_of_url
from vsbox.guard.hook.reports import NOTE_PREFIX
from vsbox.guard.hook.words import OWN_FILE, as_host, as_text, is_address, is_own_host, packed_address, read_text

SPAWNING = ("os.fork", "os.forkpty", "os.system")
"""Events that start a process, watched where a report is asked for: the next one is on behalf of who is at work now."""


class Present(Exception):
    """The answer of a guard that is at work already."""


class Events(Guard):
    """What of each event is to be checked; its arguments are those of the table in Python's documentation."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.extensible_connections = {}

    def opened(self, args):
        path, mode, flags = args
        if mode is None and not isinstance(path, int) and as_text(path)[:1] != "/":
            return  # os.open with dir_fd says nothing of the directory: the kernel's
        writes = flags & (posix.O_WRONLY | posix.O_RDWR | posix.O_TRUNC)
        if flags & posix.O_CREAT and not writes:  # the guard alone does not count on that it stays there
            writes = self.tier == "none" or not is_there(path)
        self.check("write" if writes else "read", path, 2 if writes else 1, flags=flags)

    def reading(self, operation):
        return lambda args: self.check(operation, args[0] if args[0] is not None else ".", 1)

    def at(self, path, directory):
        """Return a path that is given with a directory's descriptor; None where that is the kernel's business."""
        if directory in (-1, None):
            return path
        if self.tier != "none":
            return None
        return joined("/proc/self/fd/%d" % directory, as_text(path))

    def changing(self, operation, index=0, fd_index=None, resolve_last=False):
        def handle(args):
            path = args[index]
            if fd_index is not None and len(args) > fd_index:
                path = self.at(path, args[fd_index])
            if path is not None and not (resolve_last and self.may_not_follow(operation, path)):
                self.check(operation, path, 2, resolve_last)

        return handle

    def may_not_follow(self, operation, path):
        """Tell whether a change may be one of a link itself: with ``follow_symlinks``, of which no event tells."""
        return operation == "change" and not isinstance(path, int) and self.asks(is_link, as_text(path))

    def renamed(self, args):
        old, new = (self.at(args[index], args[index + 2]) for index in (0, 1))
        fails = old is not None and self.asks(self.fails_anyway, old, new)
        for operation, path in (("rename", old), ("replace", new)):
            if path is not None:
                self.check(operation, path, 2, False, told_only=fails)

    def fails_anyway(self, old, new):
        """Tell whether a rename is refused for what it is: across mounts, or of nothing."""
        if self.tier == "landlock":
            return not is_entry(old)
        return new is not None and mount_of(holder_of(old)) != mount_of(holder_of(new))

    def linked(self, args):
        """The kernel asks where the new one is to be, and of the old one only whether it is there."""
        old, new = (self.at(args[index], args[index + 2]) for index in (0, 1))
        if old is not None:
            self.check("link", old, 2 if self.tier == "none" else 1, False, posix.O_PATH, self.tier == "landlock")
        if new is not None:
            fails = old is not None and self.asks(lambda: not is_entry(old))
            self.check("link", new, 2, False, told_only=fails)

    def started(self, args):
        self.about_to_start()

    def executed(self, args):
        self.about_to_start()
        if args[0] and "/" in os.fsdecode(args[0]):
            self.check("execute", args[0], 1)

    def executed_with(self, path, variables):
        def handle(args):
            self.given(args[variables] if len(args) > variables else None)
            self.executed(args[path:])

        return handle

    def opened_process(self, args):
        """``subprocess.Popen``: a relative name of a program is looked up where the process is to start."""
        program, _, directory, variables = args
        self.given(variables)
        if directory is not None:
            self.entered((directory,))
            if "/" in os.fsdecode(program):
                program = joined(os.fsdecode(directory), os.fsdecode(program))
        self.executed((program,))

    def entered(self, args):
        if self.tier != "landlock":  # which lets it pass
            self.check("enter", args[0], 1)

    def read_attributes(self, args):
        """With Landlock no file has any; elsewhere they may be those of a link, of which the event does not tell."""
        path = args[0] if args[0] is not None else "."
        if self.tier == "none" or (self.tier == "namespaces" and not is_entry(as_text(path))):
            self.check("read", path, 1)

    def removed_tree(self, args):
        """``shutil.rmtree`` begins with a look, which is no event; what follows has events of its own."""
        path, *directory = args
        if self.tier == "namespaces" and directory in ([], [None]) and not is_entry(as_text(path)):
            self.check("remove", path, 2, False, posix.O_PATH, raises=is_strict(sys._getframe(1)))

    def in_terminal(self, args):
        if args[0]:
            self.executed(args[0][:1])

    def loaded(self, args):
        if isinstance(args[0], (str, bytes)) and "/" in os.fsdecode(args[0]):
            self.check("load", args[0], 1)

    def imported(self, args):
        if args[1]:
            self.check("load", args[1], 1)

    def database(self, args):
        name = as_text(args[0]) if not isinstance(args[0], int) else ""
        names = [name]
        if name.startswith("file:"):  # a URI, or a file of that name: the event does not say
            names = [name] * is_entry(name) + uri_paths(name) if self.tier == "none" else []
        for path in names:
            if path and path != ":memory:":
                self.of_database("open", path, 1 if is_there(path) else 2, posix.O_RDWR | posix.O_CREAT)

    def extensible(self, args):
        self.extensible_connections[id(args[0])] = args[1]

    def extended(self, args):
        """``load_extension`` of a database: SQLite takes a name with a suffix as well.

        The event comes before what the call itself looks at: whether the connection is open, and may be extended.
        """
        connection, path = args[0], as_text(args[1])
        if "/" not in path or connection.total_changes < 0:
            return
        names = list(filter(is_there, (path, path + ".so"))) or [path]
        if self.tier == "none" or (len(names) == 1 and self.extensible_connections.get(id(connection))):
            for name in names:
                self.of_database("load", name, 1)

    def of_database(self, operation, path, level, flags=0):
        try:
            self.check(operation, path, level, flags=flags)
        except SandboxPermissionError as error:
            from _sqlite3 import OperationalError

            bases = (type(error), OperationalError)  # what programs catch
            kind = type("SandboxDatabaseError", bases, {"__module__": "vsbox", "plain": OperationalError})
            raise kind(error.errno, error.strerror, error.filename) from None

    def requested(self, args):
        """``urllib.request`` looks at a file before it opens it, which is no event; or a handler does something else.

        So it is only noted.
        """
        url = args[0]
        if self.tier == "namespaces" and isinstance(url, str) and url[:5].lower() == "file:":
            path = path_of_url(url)
            if path and not is_entry(path):
                self.check("read", path, 1, raises=False)

    def watches_network(self):
        return self.offline or self.observed

    def connected(self, args, raises=True):
        address = bytes(args[1]) if isinstance(args[1], bytearray) else args[1]
        if isinstance(address, (str, bytes)):
            address = as_text(address)
            if address and address[0] != "\0":
                self.check("connect", address, 2, raises=raises)
        elif self.watches_network() and isinstance(address, tuple) and address:
            host = as_host(address[0])
            if not self.is_near(args[0].family, host):
                port = address[1] if len(address) > 1 else "?"
                self.deny_network("connect", "%s port %s" % (host, port), raises=raises)

    def bound(self, args):
        """A socket's name in a directory is an entry like any other."""
        address = args[1]
        if isinstance(address, (str, bytes, bytearray)):
            address = as_text(bytes(address) if isinstance(address, bytearray) else address)
            if address and address[0] != "\0":
                self.check("create", address, 2, False)

    def maybe_connected(self, args):
        """``connect_ex`` has the same event, and returns what fails: so the kernel does it, unless there is only us."""
        self.connected(args, self.tier == "none" or is_connect(sys._getframe(1)))

    def is_near(self, family, host):
        if family not in (2, 10):  # AF_INET, AF_INET6
            return self.tier != "none" or family == 16  # AF_NETLINK
        if self.tier != "none" and not is_address(host):
            return True  # it has been resolved
        return is_own_host(host) or host == posix.uname().nodename.lower()

    def resolved(self, args):
        host = as_host(args[0])
        if not is_address(host) and host != "<broadcast>" and self.must_ask_for(host):
            from _socket import EAI_AGAIN, gaierror

            error = resolve_error(gaierror)
            self.deny_network("resolve", host, error, EAI_AGAIN, "Temporary failure in name resolution")

    def must_ask_for(self, host):
        """Tell whether a name, or the name of an address, is to be had from somebody on a network."""
        if not self.watches_network() or not host or is_own_host(host) or host == posix.uname().nodename.lower():
            return False
        known = (self.unwatched(read_text, "/etc/hosts") or "").lower().split()
        packed = packed_address(host)
        return host not in known and not (packed and packed in map(packed_address, known))

    def resolved_back(self, args):
        """``gethostbyaddr``: of a name it asks for the address first, with the error of that."""
        host = as_host(args[0])
        if not packed_address(host):
            self.resolved(args)
        elif "%" not in host and self.must_ask_for(host):
            from _socket import herror

            self.deny_network("resolve", host, resolve_error(herror), 2, "Host name lookup failure")

    def named(self, args):
        """``getnameinfo`` may be asked for the number alone, and the event does not say: so the kernel answers."""
        host = as_host(args[0][0])
        if self.tier == "none" and self.must_ask_for(host):
            from _socket import EAI_AGAIN, gaierror

            error = resolve_error(gaierror)
            self.deny_network("resolve", host, error, EAI_AGAIN, "Temporary failure in name resolution")

    def made(self, args):  # without namespaces the filter refuses the socket itself
        internet = args[1] in (2, 10)  # AF_INET, AF_INET6
        if self.offline and self.tier == "landlock" and internet and not self.observed:
            self.deny_network("connect", "the network", number=EACCES)

    def changed_variable(self, args):
        if args[0] in (b"VSBOX_SHOWN", "VSBOX_SHOWN") and self.tier == "none":
            self.refuse("change what this start is granted")

    def given(self, variables):
        """Without kernel limits a variable says what a start is granted: no other value of it is handed on."""
        if self.tier == "none" and variables:
            for name, value in dict(variables).items():
                if os.fsdecode(name) == "VSBOX_SHOWN" and os.fsdecode(value) != self.shown:
                    self.refuse("change what another start is granted")

    def asked_for(self, args):
        raise Present

    def guarded(self, args):
        if type(args[0]) is type(install) and args[0].__code__.co_filename == OWN_FILE:
            raise SandboxPermissionError(EACCES, "%s (the sandbox's guard cannot be changed)" % posix.strerror(EACCES))

    def handlers(self):
        """Return event -> function of its arguments; what is not in it is nobody's business here."""
        reading, changing = self.reading, self.changing
        table = {
            "open": self.opened, "os.listdir": reading("list"), "os.scandir": reading("list"),
            "os.chdir": self.entered, "os.getxattr": self.read_attributes, "os.listxattr": self.read_attributes,
            "os.mkdir": changing("create", 0, 2), "os.rmdir": changing("remove", 0, 1),
            "os.remove": changing("remove", 0, 1), "os.rename": self.renamed, "os.link": self.linked,
            "os.symlink": changing("create", 1, 2), "os.truncate": changing("truncate", resolve_last=True),
            "os.chmod": changing("change", 0, 2, True), "os.chown": changing("change", 0, 3, True),
            "os.utime": changing("change", 0, 3, True), "os.setxattr": changing("change", resolve_last=True),
            "os.removexattr": changing("change", resolve_last=True), "shutil.rmtree": self.removed_tree,
            "sqlite3.connect": self.database, "sqlite3.enable_load_extension": self.extensible,
            "sqlite3.load_extension": self.extended, "urllib.Request": self.requested,
            "ctypes.dlopen": self.loaded, "import": self.imported, "pty.spawn": self.in_terminal,
            "os.exec": self.executed_with(0, 2), "os.posix_spawn": self.executed_with(0, 2),
            "os.spawn": self.executed_with(1, 3), "subprocess.Popen": self.opened_process,
            "os.putenv": self.changed_variable, "os.unsetenv": self.changed_variable,
            "socket.__new__": self.made, "socket.connect": self.maybe_connected, "socket.sendto": self.connected,
            "socket.sendmsg": self.connected, "socket.bind": self.bound,
            "socket.getaddrinfo": self.resolved, "socket.gethostbyname": self.resolved,
            "socket.gethostbyaddr": self.resolved_back, "socket.getnameinfo": self.named,
            "vsbox.guard": self.asked_for, "object.__setattr__": self.guarded, "object.__delattr__": self.guarded,
            **dict.fromkeys(SPAWNING, self.started),
        }  # fmt: skip
        return {event: answering(handle, self.tier != "none") for event, handle in table.items()}


def answering(handle, is_confined):
    """Return a handler that raises nothing but answers: what is wrong with the arguments, the call itself will say.

    What else goes wrong is nobody's business where the kernel decides; where the guard is alone, it ends the call.
    """

    def answer(args):
        try:
            handle(args)
        except (SandboxPermissionError, Present):
            raise
        except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError):
            pass
        except Exception:
            if not is_confined:
                raise

    return answer


def uri_paths(uri):
    """Return the path that SQLite takes a URI for, as a list; nothing for memory.

    Source: https://sqlite.org/uri.html
    """
    path, _, options = uri.partition("#")[0].partition("?")
    if "mode=memory" in options.split("&") and options.count("mode=") == 1 and "%" not in options:
        return []
    return [path_of_url(path).partition("\0")[0]]


def resolve_error(base):
    """Return the kind of error of a name that cannot be resolved."""
    return type("SandboxResolveError", (SandboxPermissionError, base), {"__module__": "vsbox", "plain": base})


def is_strict(frame):
    """Tell whether a call of ``shutil.rmtree`` raises what fails, rather than ignore it or give it to a function."""
    while frame is not None and frame.f_code.co_filename == OWN_FILE:
        frame = frame.f_back
    given = frame.f_locals if frame is not None and frame.f_code.co_name == "rmtree" else {"ignore_errors": True}
    return not given.get("ignore_errors") and given.get("onerror") is None and given.get("onexc") is None


def is_connect(frame):
    """Tell whether a call is surely one of ``connect``: its code names that, and ``connect_ex`` nowhere."""
    while frame is not None and frame.f_code.co_filename == OWN_FILE:
        frame = frame.f_back
    names = frame.f_code.co_names if frame is not None else ()
    return "connect" in names and "connect_ex" not in names


def handlers_for(config: "dict", learned: "set | None" = None, observed: bool = False, shown: str = "") -> "dict":
    """Return the handlers of the events that count.

    ``learned``: filled with directories that the kernel grants. ``observed``: the launcher hears of what is touched.
    ``shown``: what the launcher granted this start, which counts where no kernel limits it.
    """
    return Events(config, learned, observed, shown).handlers()


def install(config):
    """Begin to watch this process, unless a guard does so already."""
    try:
        sys.audit("vsbox.guard")
    except Exception as error:
        if type(error).__name__ == "Present":  # of this copy or another
            return
        raise
    observed = posix.access(NOTE_PREFIX.rstrip("/"), 0)
    find = handlers_for(config, None, observed, os.environ.get("VSBOX_SHOWN", "")).get

    def hook(event, args):
        handle = find(event)
        if handle is not None:
            handle(args)

    sys.addaudithook(hook)


def start():
    """Entry point of ``_sandbox.start``: the configuration lies beside this file."""
    import json

    with open(joined(holder_of(os.path.abspath(__file__)), "_sandbox.json"), encoding="utf-8") as file:
        install(json.load(file))
