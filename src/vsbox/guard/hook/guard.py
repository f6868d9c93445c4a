"""The decision about one path or host: it passes, or an exception says why not."""

import posix
from _thread import get_ident
from errno import EACCES, ENETUNREACH, ENOENT, EPERM

from vsbox.guard.hook.grants import Grants
from vsbox.guard.hook.paths import absolute, holder_of, is_entry, joined, real_path
from vsbox.guard.hook.reports import Reports
from vsbox.guard.hook.words import as_text, shell_word


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


class Guard:
    """What one box grants, and what to do about the rest.

    ``config`` is what vsbox/plan/guard.py makes of a plan. ``learned``: filled with directories that the kernel grants.
    ``observed``: the launcher hears of what is touched. ``shown``: what the launcher granted this start.
    """

    def __init__(self, config, learned=None, observed=False, shown=""):
        self.root = config["root"]
        self.tier = config["tier"]
        self.logs = config["mode"] == "log"
        self.offline = config["network"] == "none"
        self.granted = tuple(path.rstrip("/") + "/" for path in config["granted"])
        self.withheld = config["withheld"]
        self.observed = observed
        self.shown = shown
        self.grants = Grants(config, set() if learned is None or observed else learned, shown)
        self.reports = Reports(config, observed)
        self.busy = set()

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
            text = "%s (the sandbox's guard cannot tell where it leads)" % posix.strerror(EACCES)
            raise SandboxPermissionError(EACCES, text, given) from None
        finally:
            self.busy.discard(get_ident())

    def asks(self, question, *arguments):
        """Return what the kernel says, where it decides; to ask is not watched."""
        return self.tier != "none" and self.unwatched(question, *arguments)

    def unwatched(self, question, *arguments):
        """Return what a function returns, False where it fails; what it does is not watched."""
        if get_ident() in self.busy:
            return False
        self.busy.add(get_ident())
        try:
            return question(*arguments)
        except OSError:
            return False
        finally:
            self.busy.discard(get_ident())

    def decide(self, operation, given, level, resolve_last, flags, told_only, raises):
        whole = absolute(given)
        entry = whole.rstrip("/")
        last = entry.rpartition("/")[2]
        of_entry = not resolve_last and last not in ("", ".", "..")
        real = joined(real_path(holder_of(entry)), last) if of_entry else real_path(whole)
        granted = self.grants.level(real) >= level
        kind = "rename" if operation == "replace" else operation
        if self.observed and (not granted or (real + "/").startswith(self.granted)):
            self.reports.note(kind, real)
        granted = granted or (operation == "enter" and real == "/")  # it shows nothing, and many begin there
        if granted or told_only or (self.observed and self.logs):
            return
        number = EPERM if operation in ("change", "truncate") else EACCES
        if self.tier != "none":  # links of /proc lead where no path does, so it is asked by what was given
            if level == 2 and "/__pycache__" in real:
                return  # every import tries, and does without
            hinders = self.grants.hinders_reading if level == 1 else self.grants.hinders_change
            number = hinders(operation, whole, real, flags)
        if number:
            needs_directory = of_entry or (flags & posix.O_CREAT and not is_entry(real))
            self.deny(kind, given, real, level, needs_directory, number, raises)

    def refuse(self, what):
        raise SandboxPermissionError(EPERM, "%s (the sandbox does not let code %s)" % (posix.strerror(EPERM), what))

    def deny(self, operation, given, real, level, needs_directory, number, raises):
        option = "" if level == 2 else "--read "
        granted = holder_of(real) if needs_directory and holder_of(real) != "/" else real
        settings = "%s/sandbox/sandbox.json" % self.root
        advice = "vsbox allow %s%s %s" % (option, shell_word(self.root), shell_word(granted))
        rule = "not granted in %s" % settings
        for hidden in self.withheld:
            if not (real + "/").startswith(hidden + "/"):
                continue
            rule, advice = "hidden_paths: %s" % hidden, "take %s out of hidden_paths in %s" % (hidden, settings)
        who = self.reports.record(operation, real, rule, advice)
        if raises and not self.logs:
            cause = posix.strerror(number)
            text = "%s (the sandbox grants no %s%s; to allow it, outside: %s)" % (cause, operation, who, advice)
            raise (SandboxFileNotFoundError if number == ENOENT else SandboxPermissionError)(number, text, given)

    def deny_network(self, operation, target, error=SandboxPermissionError, number=ENETUNREACH, cause="", raises=True):
        if get_ident() in self.busy:
            return
        self.busy.add(get_ident())
        try:
            if self.observed:  # the kernel denies what it denies
                self.reports.note(operation, target)
                return
            advice = 'in %s/sandbox/sandbox.json: "network": "host"' % self.root
            who = self.reports.record(operation, target, "this box has no network", advice)
        finally:
            self.busy.discard(get_ident())
        if raises and not self.logs:
            cause = cause or posix.strerror(number)
            raise error(number, "%s (the sandbox has no network%s; to allow it, %s)" % (cause, who, advice), target)

    def about_to_start(self):
        if self.observed and get_ident() not in self.busy:
            self.busy.add(get_ident())
            try:
                self.reports.note("spawn", "")
            finally:
                self.busy.discard(get_ident())
