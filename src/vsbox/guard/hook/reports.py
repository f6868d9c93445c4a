"""What is told of a denial: to the launcher while it runs, and to ``vsbox report`` afterwards."""

import os
import posix
import sys

from vsbox.guard.hook.distributions import Distributions
from vsbox.guard.hook.paths import absolute, holder_of
from vsbox.guard.hook.words import OWN_FILE, quoted

MOST_RECORDS = 1000
MOST_NOTES = 50_000
NOTE_PREFIX = "/.vsbox-observer/"
MOST_NOTE_BYTES = 4000
MOST_BYTES = 1 << 20
APPENDING = posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT | posix.O_CLOEXEC | posix.O_NOFOLLOW


class Reports:
    """Whoever is at work is told once for each thing. ``observed``: the launcher hears of what is touched."""

    def __init__(self, config, observed):
        self.logs = config["mode"] == "log"
        self.records = config["records"]
        self.stdlib = (holder_of(os.__file__) + "/", "<frozen")
        self.distributions = Distributions(config["packages"])
        self.observed = observed
        self.told = set()

    def callers(self):
        """Return who is at work, innermost first: (distribution or "", file, line)."""
        found = []
        frame = sys._getframe(1)
        while frame is not None and len(found) < 50:
            filename = frame.f_code.co_filename
            if filename == "<string>":  # how setuptools runs a setup.py
                filename = frame.f_globals.get("__file__")
            if type(filename) is str and filename != OWN_FILE and not filename.startswith(self.stdlib):
                filename = absolute(filename)
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
        posix.access(os.fsencode(NOTE_PREFIX) + text + (further if len(text + further) < MOST_NOTE_BYTES else b""), 0)

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
            ("program", (program or "python").rpartition("/")[2]), ("rule", rule), ("allow", advice),
            ("layer", "guard"),
        )
        names = ", ".join(quoted(name, 200) for name in chain[:50])
        line = '{"time": %.3f, "pid": %d, "verdict": "%s", "chain": [%s], %s}\n' % (
            time.time(), posix.getpid(), "would deny" if self.logs else "denied", names,
            ", ".join("%s: %s" % (quoted(key), quoted(value)) for key, value in fields),
        )
        if self.logs:
            text = "vsbox: would deny: %s %s%s\n" % (operation, target, " by " + distribution if distribution else "")
            try:
                posix.write(2, text.encode("utf-8", "backslashreplace"))
            except OSError:
                pass
        for path in self.records:
            try:
                number = posix.open(path, APPENDING, 0o600)
            except OSError:
                continue
            try:
                if posix.fstat(number).st_size < MOST_BYTES:
                    posix.write(number, line.encode("utf-8"))
            except OSError:
                pass
            finally:
                posix.close(number)
            return
