"""The guard: an audit hook that says what this sandbox denies, on whose behalf, and what would allow it.

Copied into a box as ``_sandbox_hook.py`` and started by ``_sandbox.pth`` in every Python process there. A
program of its own: the standard library only, Python 3.8 and newer, little at the start.

Security: this explains; the kernel enforces. Code in the same process can get around it (``python -S``,
ctypes, its own frames), and with ``--no-os-sandbox`` that is all there is.

Source of the events: https://docs.python.org/3/library/audit_events.html
"""

import os
import stat
import sys
from _thread import get_ident
from errno import EACCES, ENETUNREACH, ENOENT, EPERM, EROFS

MOST_RECORDS = 1000
MOST_NOTES = 50_000
NOTE_PREFIX = "/.vsbox-observer/"
MOST_NOTE_BYTES = 4000
SPAWNING = ("os.fork", "os.forkpty", "os.system")
"""Events that start a process, watched where a report is asked for: the next one is on behalf of who is at work now."""
MOST_BYTES = 1 << 20
MOST_LEARNED = 1000
LOOKING = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
CONTENT = ("write", "open", "change", "truncate")
"""Operations about a file itself; the others are about its entry in a directory."""
TAKING = ("remove", "rename")


class SandboxPermissionError(PermissionError):
    """The sandbox does not grant it."""

    __module__ = "vsbox"
    plain = PermissionError

    def __reduce__(self):  # in another process there may be no such kind
        return self.plain, (self.errno, self.strerror, self.filename)


class SandboxFileNotFoundError(SandboxPermissionError, FileNotFoundError):
    """The same where what is not granted is not there: programs that look for a file catch this as ever."""

    __module__ = "vsbox"
    plain = FileNotFoundError


class Present(Exception):
    """The answer of a guard that is at work already."""


def quoted(text, most=8192):
    """Return a JSON string, no longer than ``records.py`` reads; :mod:`json` costs more than the rest of a start."""
    text = text[:most].encode("utf-8", "backslashreplace").decode()[:most]  # half a surrogate pair is no text
    units = text.encode("utf-16-be", "surrogatepass")
    codes = [units[i] << 8 | units[i + 1] for i in range(0, len(units), 2)]
    return '"%s"' % "".join(chr(c) if 32 <= c < 127 and c not in (34, 92) else "\\u%04x" % c for c in codes)


def shell_word(text):
    """Return text as a word that people can paste into a shell."""
    if text and all(character.isalnum() or character in "@%+=:,./-_" for character in text):
        return text
    return "'%s'" % text.replace("'", "'\"'\"'")


# ---- on whose behalf ----


def read_text(path):
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 22)


def name_of(metadata):
    """Return "name version" as a METADATA or PKG-INFO file says."""
    found = {}
    for line in read_text(metadata).splitlines():
        key, colon, value = line.partition(":")
        if not line:
            break
        if colon and key in ("Name", "Version"):
            found[key] = value.strip()[:100]
    return " ".join(filter(None, (found.get("Name"), found.get("Version"))))


class Distributions:
    """Maps files to the distributions installed here, by their RECORD; read when somebody asks first."""

    def __init__(self, places):
        self.places = places
        self.known = {}
        self.trees = None

    def of(self, filename):
        """Return "name version", or "" for a file that belongs to none."""
        if filename not in self.known:
            try:
                self.known[filename] = self.search(filename)
            except (OSError, ValueError):
                self.known[filename] = ""
        return self.known[filename]

    def search(self, filename):
        for place in self.places:
            if filename.startswith(place + "/"):
                return self.installed(place, filename[len(place) + 1 :])
        for tree, name in self.editable():
            if filename.startswith(tree + "/"):
                return name
        return self.being_built(filename)

    def installed(self, place, relative):
        for entry in sorted(os.listdir(place)):
            if entry.endswith(".dist-info") and os.path.exists(os.path.join(place, entry, "RECORD")):
                record = "\n" + read_text(os.path.join(place, entry, "RECORD"))
                if "\n%s," % relative in record or '\n"%s",' % relative in record:
                    return name_of(os.path.join(place, entry, "METADATA"))
        return relative.split("/")[0]

    def editable(self):
        if self.trees is None:
            self.trees = []
            for place in self.places:
                for entry in sorted(os.listdir(place)):
                    url = os.path.join(place, entry, "direct_url.json")
                    if entry.endswith(".dist-info") and os.path.exists(url):
                        text = read_text(url)
                        tree = text.partition('"file://')[2].partition('"')[0]
                        if tree and '"editable": true' in text:
                            self.trees.append((tree, name_of(os.path.join(place, entry, "METADATA"))))
        return self.trees

    def being_built(self, filename):
        """The sources of a distribution that an installer has unpacked to build it."""
        directory = os.path.dirname(filename)
        while len(directory) > 1:
            if os.path.exists(os.path.join(directory, "PKG-INFO")):
                return name_of(os.path.join(directory, "PKG-INFO"))
            directory = os.path.dirname(directory)
        return ""


# ---- what is granted ----


class Guard:
    """What one box grants, and what to do about the rest.

    ``config`` is what vsbox/plan/guard.py makes of a plan.
    """

    def __init__(self, config):
        self.root = config["root"]
        self.tier = config["tier"]
        self.logs = config["mode"] == "log"
        self.offline = config["network"] == "none"
        self.hidden = config["hidden"]
        self.places = dict.fromkeys(self.hidden, 0)
        self.places.update(dict.fromkeys(config["read"], 1))
        self.places.update(dict.fromkeys(config["write"], 2))
        self.records = config["records"]
        self.stdlib = (os.path.dirname(os.__file__) + "/", "<frozen")
        self.distributions = Distributions(config["packages"])
        self.told = set()
        self.learned = set()
        self.first_in = {}
        self.busy = set()
        self.observed = False
        self.granted = tuple(path.rstrip("/") + "/" for path in config["granted"])
        if self.tier == "none":
            self.show(os.environ.get("VSBOX_SHOWN", ""))

    def show(self, shown):
        """Take what the launcher granted this start: without kernel limits there is nobody else to ask."""
        for line in filter(None, shown.split("\n")):
            level, _, path = line.partition(" ")
            self.places.setdefault(path, 2 if level == "write" else 1)

    def level(self, path):
        """Return what the most specific grant gives: 0 nothing, 1 reading, 2 writing."""
        while path not in self.places:
            if path == "/" or not path:
                return 0
            path = path.rpartition("/")[0] or "/"
        return self.places[path]

    def is_hidden(self, path):
        """Tell whether the policy takes it away from something that it grants."""
        while path not in self.places and path != "/":
            path = os.path.dirname(path)
        return self.places.get(path) == 0

    def is_shown(self, path):
        """Tell whether what is not there is missing in a directory that is: then it is missing outside as well."""
        there = os.path.dirname(path)
        while not os.path.lexists(there):
            there = os.path.dirname(there)
        made = os.stat("/").st_dev  # a root for the sandbox, with nothing but the way to what is granted
        return self.tier != "namespaces" or (os.stat(there).st_dev != made and not self.is_hidden(path))

    def learn(self, path, at_once=False):
        """Have the quick half let a directory pass: one file may be granted by itself; with a second, all of it is."""
        directory = os.path.dirname(path) + "/"
        if len(self.first_in) < MOST_LEARNED and (self.first_in.setdefault(directory, path) != path or at_once):
            if not any(hidden.startswith(directory) for hidden in self.hidden):
                self.learned.add(directory)

    def hinders_reading(self, operation, path, real, flags):
        """Return the error that the kernel gives because of the sandbox, or 0.

        It is asked, since the directory that a person stands in is granted when a command starts, not in the policy.
        """
        within = self.tier == "namespaces"
        if flags & os.O_PATH and not within:
            return 0  # Landlock does not look
        content = self.is_hidden(real) or not (flags & os.O_PATH or (within and operation in ("enter", "execute")))
        try:
            if is_pipe(path):
                return 0
            os.close(os.open(path, (os.O_RDONLY if content else os.O_PATH) | LOOKING))
        except OSError as error:
            number = error.errno
            if number == ENOENT and self.is_shown(real):
                if within:
                    self.learn(path, True)
                number = 0
            elif number == EACCES and not (self.is_hidden(real) if within else os.access(path, os.R_OK)):
                number = 0  # by its owner or mode
            return number if number in (EACCES, ENOENT) else 0
        self.learn(path)
        return 0

    def hinders_change(self, operation, path, real, flags):
        """Return the same of a change, of which nothing is done; what fails anyway for another reason, has that."""
        of_entry, holder, within = operation not in CONTENT, os.path.dirname(real), self.tier == "namespaces"
        try:
            mode = (os.lstat if of_entry or flags & os.O_EXCL else os.stat)(path).st_mode
        except OSError as error:
            if error.errno != ENOENT:
                return 0
            if not os.path.lexists(holder) or not (of_entry or flags & os.O_CREAT):
                return 0 if self.is_shown(real) else ENOENT
            return 0 if operation in TAKING and not within else self.hinders_entries(holder)
        if operation in TAKING or operation == "replace":
            return self.hinders_entries(holder)
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            return self.hinders_entries(real)
        if of_entry or (flags & os.O_CREAT and flags & os.O_EXCL):
            return 0  # it is there already
        is_directory = stat.S_ISDIR(mode)
        if operation != "change" and (is_directory or stat.S_ISFIFO(mode)):
            return 0
        if operation in ("write", "open"):
            return self.hinders_writing(path, real, flags)
        if within:
            return EROFS if is_read_only(path) else 0
        return EPERM if self.hinders_entries(real if is_directory else holder) else 0

    def hinders_writing(self, path, real, flags):
        """Return the same of a file that is there."""
        within = self.tier == "namespaces"
        wanted = flags & os.O_ACCMODE or os.O_RDWR
        if not within or is_read_only(path):
            try:
                os.close(os.open(path, wanted | LOOKING))
            except OSError as error:
                access = os.W_OK if wanted == os.O_WRONLY else os.W_OK | os.R_OK
                if error.errno == EACCES and (self.is_hidden(real) if within else os.access(path, access)):
                    return EACCES
                return error.errno if error.errno == EROFS else 0
        return 0

    def hinders_entries(self, directory):
        """Return the same of what is made, removed and renamed in a directory."""
        if not os.path.isdir(directory):
            return 0
        if self.tier == "namespaces":
            return EROFS if is_read_only(directory) else 0
        while True:
            try:
                os.close(os.open(directory, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC))
            except OSError as error:
                if error.errno != EACCES or directory == "/":
                    return 0
                if os.access(directory, os.W_OK | os.X_OK):
                    return EACCES
                directory = os.path.dirname(directory)  # its mode says no: what is around it tells of the sandbox
            else:
                return 0

    def check(self, operation, path, level, resolve_last=True, flags=0, told_only=False, raises=True):
        """Raise, or report in mode log, unless ``path`` is granted.

        ``level``: 1 reading, 2 writing. ``resolve_last``: a link there is followed; else it is about the entry in its
        directory. ``flags``: of an open. ``told_only``: it is noted for the launcher, and that is all. ``raises``: or
        the kernel answers.
        """
        if isinstance(path, int) or get_ident() in self.busy:
            return
        given = as_text(path)
        if not given or "\0" in given:
            return
        self.busy.add(get_ident())
        try:
            self.decide(operation, given, level, resolve_last, flags, told_only, raises)
        except SandboxPermissionError:
            raise
        except Exception:
            if self.tier != "none" or self.logs:
                raise
            text = "%s (the sandbox's guard cannot tell where it leads)" % os.strerror(EACCES)
            raise SandboxPermissionError(EACCES, text, given) from None
        finally:
            self.busy.discard(get_ident())

    def asks(self, question, *arguments):
        """Return what the kernel says, where it decides; to ask is not watched."""
        if self.tier == "none" or get_ident() in self.busy:
            return False
        self.busy.add(get_ident())
        try:
            return question(*arguments)
        except OSError:
            return False
        finally:
            self.busy.discard(get_ident())

    def decide(self, operation, given, level, resolve_last, flags, told_only, raises):
        whole = given if given[0] == "/" else os.path.join(os.getcwd(), given)
        holder, last = os.path.split(whole.rstrip("/"))  # not made shorter: the kernel follows a link before it goes up
        of_entry = not resolve_last and last not in ("", ".", "..")
        real = os.path.join(os.path.realpath(holder), last) if of_entry else os.path.realpath(whole)
        granted = self.level(real) >= level
        kind = "rename" if operation == "replace" else operation
        if self.observed and (not granted or (real + "/").startswith(self.granted)):
            self.note(kind, real)
        granted = granted or (operation == "enter" and real == "/")  # it shows nothing, and many begin there
        if granted or told_only or (self.observed and self.logs):
            return
        number = EPERM if operation in ("change", "truncate") else EACCES
        if self.tier != "none":  # links of /proc lead where no path does, so it is asked by what was given
            if level == 2 and "/__pycache__" in real:
                return  # every import tries, and does without
            hinders = self.hinders_reading if level == 1 else self.hinders_change
            number = hinders(operation, whole, real, flags)
        if number:
            needs_directory = of_entry or (flags & os.O_CREAT and not os.path.lexists(real))
            self.deny(kind, given, real, level, needs_directory, number, raises)

    def refuse(self, what):
        raise SandboxPermissionError(EPERM, "%s (the sandbox does not let code %s)" % (os.strerror(EPERM), what))

    def deny(self, operation, given, real, level, needs_directory, number, raises):
        option = "" if level == 2 else "--read "
        granted = os.path.dirname(real) if needs_directory else real
        advice = "vsbox allow %s%s %s" % (option, shell_word(self.root), shell_word(granted))
        who = self.record(operation, real, "not granted in %s/sandbox/sandbox.json" % self.root, advice)
        if raises and not self.logs:
            cause = os.strerror(number)
            text = "%s (the sandbox grants no %s%s; to allow it, outside: %s)" % (cause, operation, who, advice)
            raise (SandboxFileNotFoundError if number == ENOENT else SandboxPermissionError)(number, text, given)

    def deny_network(self, operation, target, error=SandboxPermissionError, number=ENETUNREACH, cause="", raises=True):
        if get_ident() in self.busy:
            return
        self.busy.add(get_ident())
        try:
            if self.observed:  # the kernel denies what it denies
                self.note(operation, target)
                return
            advice = 'in %s/sandbox/sandbox.json: "network": "host"' % self.root
            who = self.record(operation, target, "this box has no network", advice)
        finally:
            self.busy.discard(get_ident())
        if raises and not self.logs:
            cause = cause or os.strerror(number)
            raise error(number, "%s (the sandbox has no network%s; to allow it, %s)" % (cause, who, advice), target)

    def callers(self):
        """Return who is at work, innermost first: (distribution or "", file, line)."""
        found = []
        frame = sys._getframe(1)
        while frame is not None and len(found) < 50:
            filename = frame.f_code.co_filename
            if filename == "<string>":  # how setuptools runs a setup.py
                filename = frame.f_globals.get("__file__")
            if type(filename) is str and filename != OWN_FILE and not filename.startswith(self.stdlib):
                filename = os.path.abspath(filename)
                found.append((self.distributions.of(filename), filename, frame.f_lineno))
            frame = frame.f_back
        return found

    def blame(self):
        """Return on whose behalf this is: distribution or "", file:line, every distribution at work."""
        callers = self.callers()
        blamed = next((caller for caller in callers if caller[0]), callers[0] if callers else ("", "", 0))
        chain = []
        for name, _, _ in callers:
            if name and name not in chain:
                chain.append(name)
        return blamed[0], "%s:%d" % (blamed[1], blamed[2]) if blamed[1] else "", chain

    def note(self, operation, target):
        """Tell the launcher on whose behalf it is, once for each thing: it answers to paths of this form."""
        distribution, where, chain = self.blame()
        if operation != "spawn":
            if (operation, target, distribution) in self.told or len(self.told) >= MOST_NOTES:
                return
            self.told.add((operation, target, distribution))
        text = os.fsencode("\x1f".join((operation, target, distribution, where, "")))[:MOST_NOTE_BYTES]
        further = os.fsencode("\x1e".join(chain))
        os.access(os.fsencode(NOTE_PREFIX) + text + (further if len(text + further) < MOST_NOTE_BYTES else b""), 0)

    def about_to_start(self):
        if self.observed and get_ident() not in self.busy:
            self.busy.add(get_ident())
            try:
                self.note("spawn", "")
            finally:
                self.busy.discard(get_ident())

    def record(self, operation, target, rule, advice):
        """Write one line for ``vsbox report``, once for each thing; return on whose behalf it was."""
        try:
            distribution, where, chain = self.blame()
            if not self.observed and (operation, target) not in self.told and len(self.told) < MOST_RECORDS:
                self.told.add((operation, target))
                self.write(operation, target, rule, advice, distribution, where, chain)
        except Exception:  # what code inside has made of sys and its own frames must not keep this from being refused
            return ""
        who = " to %s" % (distribution or "your code") + (" (%s)" % where if where else "")
        return who if where or distribution else ""

    def write(self, operation, target, rule, advice, distribution, where, chain):
        import time

        program = sys.argv[0] if hasattr(sys, "argv") and sys.argv and type(sys.argv[0]) is str else ""
        fields = (
            ("operation", operation), ("target", target), ("distribution", distribution[:200]), ("where", where),
            ("program", os.path.basename(program or "python")), ("rule", rule), ("allow", advice), ("layer", "guard"),
        )
        names = ", ".join(quoted(name, 200) for name in chain[:50])
        line = '{"time": %.3f, "pid": %d, "verdict": "%s", "chain": [%s], %s}\n' % (
            time.time(), os.getpid(), "would deny" if self.logs else "denied", names,
            ", ".join("%s: %s" % (quoted(key), quoted(value)) for key, value in fields),
        )
        if self.logs:
            text = "vsbox: would deny: %s %s%s\n" % (operation, target, " by " + distribution if distribution else "")
            try:
                os.write(2, text.encode("utf-8", "backslashreplace"))
            except OSError:
                pass
        for path in self.records:
            try:
                number = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except OSError:
                continue
            try:
                if os.fstat(number).st_size < MOST_BYTES:
                    os.write(number, line.encode("utf-8"))
            except OSError:
                pass
            finally:
                os.close(number)
            return


# ---- the events ----


class Events(Guard):
    """What of each event is to be checked; its arguments are those of the table in Python's documentation."""

    def opened(self, args):
        path, mode, flags = args
        if mode is None and not isinstance(path, int) and as_text(path)[:1] != "/":
            return  # os.open with dir_fd says nothing of the directory: the kernel's
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)
        if flags & os.O_CREAT and not writes:  # the guard alone does not count on that it stays there
            writes = self.tier == "none" or not os.path.exists(path)
        self.check("write" if writes else "read", path, 2 if writes else 1, flags=flags)

    def reading(self, operation):
        return lambda args: self.check(operation, args[0] if args[0] is not None else ".", 1)

    def changing(self, operation, index=0, fd_index=None, resolve_last=False):
        def handle(args):
            if fd_index is None or len(args) <= fd_index or args[fd_index] in (-1, None):
                self.check(operation, args[index], 2, resolve_last)

        return handle

    def renamed(self, args):
        old, new = (args[index] if args[index + 2] in (-1, None) else None for index in (0, 1))
        fails = old is not None and self.asks(self.fails_anyway, old, new)
        for operation, path in (("rename", old), ("replace", new)):
            if path is not None:
                self.check(operation, path, 2, False, told_only=fails)

    def fails_anyway(self, old, new):
        """Tell whether a rename is refused for what it is: across mounts, or of nothing."""
        if self.tier == "landlock":
            return not os.path.lexists(old)
        return new is not None and mount_of(os.path.dirname(old)) != mount_of(os.path.dirname(new))

    def linked(self, args):
        """The kernel asks where the new one is to be, and of the old one only whether it is there."""
        old, new = (args[index] if args[index + 2] in (-1, None) else None for index in (0, 1))
        if old is not None:
            self.check("link", old, 2 if self.tier == "none" else 1, False, os.O_PATH, self.tier == "landlock")
        if new is not None:
            fails = old is not None and self.asks(lambda: not os.path.lexists(old))
            self.check("link", new, 2, False, told_only=fails)

    def started(self, args):
        self.about_to_start()

    def executed(self, args):
        self.about_to_start()
        if args[0] and os.sep in os.fsdecode(args[0]):
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
        if directory is not None and os.sep in os.fsdecode(program):
            program = os.path.join(os.fsdecode(directory), os.fsdecode(program))
        self.executed((program,))

    def in_terminal(self, args):
        if args[0]:
            self.executed(args[0][:1])

    def loaded(self, args):
        if isinstance(args[0], (str, bytes)) and os.sep in os.fsdecode(args[0]):
            self.check("load", args[0], 1)

    def imported(self, args):
        if args[1]:
            self.check("load", args[1], 1)

    def database(self, args):
        name = as_text(args[0]) if not isinstance(args[0], int) else ""
        if not name or name == ":memory:" or name.startswith("file:"):
            return
        try:
            self.check("open", name, 1 if os.path.exists(name) else 2, flags=os.O_RDWR | os.O_CREAT)
        except SandboxPermissionError as error:
            from _sqlite3 import OperationalError

            bases = (type(error), OperationalError)  # what programs catch
            kind = type("SandboxDatabaseError", bases, {"__module__": "vsbox", "plain": OperationalError})
            raise kind(error.errno, error.strerror, error.filename) from None

    def watches_network(self):
        return self.offline or self.observed

    def connected(self, args, raises=True):
        address = bytes(args[1]) if isinstance(args[1], bytearray) else args[1]
        if isinstance(address, (str, bytes)):
            address = as_text(address)
            if address and address[0] != "\0":
                self.check("connect", address, 1, raises=raises)
        elif self.watches_network() and isinstance(address, tuple) and address:
            host = as_host(address[0])
            if not self.is_near(args[0].family, host):
                port = address[1] if len(address) > 1 else "?"
                self.deny_network("connect", "%s port %s" % (host, port), raises=raises)

    def maybe_connected(self, args):
        """``connect_ex`` has the same event, and returns what fails: so the kernel does it, unless there is only us."""
        self.connected(args, self.tier == "none" or is_connect(sys._getframe(1)))

    def is_near(self, family, host):
        if family not in (2, 10):  # AF_INET, AF_INET6
            return self.tier != "none" or family == 16  # AF_NETLINK
        if self.tier != "none" and not is_address(host):
            return True  # it has been resolved
        return is_own_host(host) or host == os.uname().nodename.lower()

    def resolved(self, args):
        host = as_host(args[0])
        if self.watches_network() and host and not is_own_host(host) and not is_address(host):
            if host != os.uname().nodename.lower() and host not in read_text("/etc/hosts").lower().split():
                from _socket import EAI_AGAIN, gaierror

                bases = (SandboxPermissionError, gaierror)  # what programs catch
                error = type("SandboxResolveError", bases, {"__module__": "vsbox", "plain": gaierror})
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
                if os.fsdecode(name) == "VSBOX_SHOWN" and os.fsdecode(value) != os.environ.get("VSBOX_SHOWN"):
                    self.refuse("change what another start is granted")

    def asked_for(self, args):
        raise Present

    def guarded(self, args):
        if type(args[0]) is type(install) and args[0].__code__.co_filename == OWN_FILE:
            raise SandboxPermissionError(EACCES, "%s (the sandbox's guard cannot be changed)" % os.strerror(EACCES))

    def handlers(self):
        """Return event -> function of its arguments; what is not in it is nobody's business here."""
        reading, changing = self.reading, self.changing
        table = {
            "open": self.opened, "os.listdir": reading("list"), "os.scandir": reading("list"),
            "os.chdir": reading("enter") if self.tier != "landlock" else lambda args: None,  # Landlock lets it pass
            "os.mkdir": changing("create", 0, 2), "os.rmdir": changing("remove", 0, 1),
            "os.remove": changing("remove", 0, 1), "os.rename": self.renamed, "os.link": self.linked,
            "os.symlink": changing("create", 1, 2), "os.truncate": changing("truncate", resolve_last=True),
            "os.chmod": changing("change", 0, 2, True), "os.chown": changing("change", 0, 3, True),
            "os.utime": changing("change", 0, 3, True), "os.setxattr": changing("change", resolve_last=True),
            "os.removexattr": changing("change", resolve_last=True), "sqlite3.connect": self.database,
            "ctypes.dlopen": self.loaded, "import": self.imported, "pty.spawn": self.in_terminal,
            "os.exec": self.executed_with(0, 2), "os.posix_spawn": self.executed_with(0, 2),
            "os.spawn": self.executed_with(1, 3), "subprocess.Popen": self.opened_process,
            "os.putenv": self.changed_variable, "os.unsetenv": self.changed_variable,
            "socket.__new__": self.made, "socket.connect": self.maybe_connected, "socket.sendto": self.connected,
            "socket.sendmsg": self.connected,
            "socket.getaddrinfo": self.resolved, "socket.gethostbyname": self.resolved,
            "vsbox.guard": self.asked_for, "object.__setattr__": self.guarded, "object.__delattr__": self.guarded,
            **dict.fromkeys(SPAWNING, self.started),
        }  # fmt: skip
        return {event: answering(handle) for event, handle in table.items()}


def answering(handle):
    """Return a handler that raises nothing but answers: what is wrong with the arguments, the call itself will say."""

    def answer(args):
        try:
            handle(args)
        except (SandboxPermissionError, Present):
            raise
        except (ArithmeticError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError):
            pass

    return answer


def as_text(path):
    """Return a path as a string that does what strings do."""
    path = os.fspath(path)
    return str.__str__(path) if isinstance(path, str) else os.fsdecode(bytes.__getitem__(path, slice(None)))


def is_pipe(path):
    """Tell whether to try it would be noticed: whoever is at the other end would take us for the reader."""
    return stat.S_ISFIFO(os.stat(path).st_mode)


def is_read_only(path):
    return os.statvfs(path).f_flag & os.ST_RDONLY


def mount_of(directory):
    """Return the number of a mount; directories of one file system may be mounted apart."""
    number = os.open(directory or ".", os.O_PATH | os.O_CLOEXEC)
    try:
        return read_text("/proc/self/fdinfo/%d" % number).partition("mnt_id:")[2].split()[0]
    finally:
        os.close(number)


def is_connect(frame):
    """Tell whether a call is surely one of ``connect``: its code names that, and ``connect_ex`` nowhere."""
    while frame is not None and frame.f_code.co_filename == OWN_FILE:
        frame = frame.f_back
    names = frame.f_code.co_names if frame is not None else ()
    return "connect" in names and "connect_ex" not in names


def as_host(host):
    """Return a host as text, "" for what is none."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    return str.__str__(host).lower() if isinstance(host, str) else ""


def is_own_host(host):
    """Tell whether a host is this one, however it is written."""
    from _socket import AF_INET6, inet_aton, inet_pton

    if host in ("", "localhost"):
        return True
    try:
        packed = inet_pton(AF_INET6, host.partition("%")[0]) if ":" in host else inet_aton(host)
    except (OSError, ValueError):
        return False
    if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff":
        packed = packed[12:]
    return not any(packed) or packed == b"\0" * 15 + b"\1" or (len(packed) == 4 and packed[0] == 127)


def is_address(host):
    return ":" in host or all(part.isdigit() for part in host.split("."))


def handlers_for(config: "dict", learned: "set | None" = None, observed: bool = False) -> "dict":
    """Return the handlers of the events that count.

    ``learned``: filled with directories that the kernel grants. ``observed``: the launcher hears of what is touched.
    """
    guard = Events(config)
    guard.observed = observed
    guard.learned = set() if learned is None or observed else learned
    return guard.handlers()


def install(config):
    """Begin to watch this process, unless a guard does so already."""
    try:
        sys.audit("vsbox.guard")
    except Exception as error:
        if type(error).__name__ == "Present":  # of this copy or another
            return
        raise
    find = handlers_for(config, None, os.access(NOTE_PREFIX.rstrip("/"), 0)).get

    def hook(event, args):
        handle = find(event)
        if handle is not None:
            handle(args)

    sys.addaudithook(hook)


OWN_FILE = install.__code__.co_filename


def start():
    """Entry point of ``_sandbox.start``: the configuration lies beside this file."""
    import json

    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "_sandbox.json"), encoding="utf-8") as file:
        install(json.load(file))
