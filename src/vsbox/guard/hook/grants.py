"""What one box grants, and what the kernel makes of the rest."""

import posix
import stat
from errno import EACCES, ENOENT, EPERM, EROFS

from vsbox.guard.hook.paths import holder_of, is_directory, is_entry, is_pipe, is_read_only

MOST_LEARNED = 1000
LOOKING = posix.O_NONBLOCK | posix.O_CLOEXEC | posix.O_NOCTTY
CONTENT = ("write", "open", "change", "truncate")
"""Operations about a file itself; the others are about its entry in a directory."""
TAKING = ("remove", "rename")


class Grants:
    """Paths and what may be done there, as the policy says; what it does not say, the kernel is asked.

    ``learned``: takes directories that the kernel is known to grant. ``shown``: what the launcher granted this start.
    """

    def __init__(self, config, learned, shown=""):
        self.tier = config["tier"]
        self.hidden = config["hidden"]
        self.places = dict.fromkeys(self.hidden, 0)
        self.places.update(dict.fromkeys(config["read"], 1))
        self.places.update(dict.fromkeys(config["write"], 2))
        self.learned = learned
        self.first_in = {}
        if self.tier == "none":
            self.show(shown)

    def show(self, shown):
        """Take what only this start is granted: without kernel limits there is nobody else to ask."""
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
        """Tell whether it is taken away from something that is granted."""
        while path not in self.places and path != "/":
            path = holder_of(path)
        return self.places.get(path) == 0

    def is_shown(self, path):
        """Tell whether what is not there is missing in a directory that is: then it is missing outside as well."""
        there = holder_of(path)
        while not is_entry(there):
            there = holder_of(there)
        made = posix.stat("/").st_dev  # a root for the sandbox, with nothing but the way to what is granted
        return self.tier != "namespaces" or (posix.stat(there).st_dev != made and not self.is_hidden(path))

    def learn(self, path, at_once=False):
        """Have the quick half let a directory pass: one file may be granted by itself; with a second, all of it is."""
        directory = holder_of(path) + "/"
        if len(self.first_in) < MOST_LEARNED and (self.first_in.setdefault(directory, path) != path or at_once):
            if not any(hidden.startswith(directory) for hidden in self.hidden):
                self.learned.add(directory)

    def hinders_reading(self, operation, path, real, flags):
        """Return the error that the kernel gives because of the sandbox, or 0.

        It is asked, since the directory that a person stands in is granted when a command starts, not in the policy.
        """
        within = self.tier == "namespaces"
        if flags & posix.O_PATH and not within:
            return 0  # Landlock does not look
        content = self.is_hidden(real) or not (flags & posix.O_PATH or (within and operation in ("enter", "execute")))
        try:
            if is_pipe(path):
                return 0
            posix.close(posix.open(path, (posix.O_RDONLY if content else posix.O_PATH) | LOOKING))
        except OSError as error:
            number = error.errno
            if number == ENOENT and self.is_shown(real):
                if within:
                    self.learn(path, True)
                number = 0
            elif number == EACCES and not (self.is_hidden(real) if within else posix.access(path, posix.R_OK)):
                number = 0  # by its owner or mode
            return number if number in (EACCES, ENOENT) else 0
        self.learn(path)
        return 0

    def hinders_change(self, operation, path, real, flags):
        """Return the same of a change, of which nothing is done; what fails anyway for another reason, has that."""
        of_entry, holder, within = operation not in CONTENT, holder_of(real), self.tier == "namespaces"
        try:
            mode = (posix.lstat if of_entry or flags & posix.O_EXCL else posix.stat)(path).st_mode
        except OSError as error:
            if error.errno != ENOENT:
                return 0
            looks = flags & posix.O_PATH or not is_entry(holder)
            if looks or not (of_entry or flags & posix.O_CREAT):
                return 0 if self.is_shown(real) else ENOENT
            return 0 if operation in TAKING and not within else self.hinders_entries(holder)
        if operation == "connect":
            return EACCES if posix.access(path, posix.W_OK) else 0
        if operation in TAKING or operation == "replace":
            return self.hinders_entries(holder)
        if flags & posix.O_TMPFILE == posix.O_TMPFILE:
            return self.hinders_entries(real)
        if of_entry or (flags & posix.O_CREAT and flags & posix.O_EXCL):
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
        wanted = flags & posix.O_ACCMODE or posix.O_RDWR
        if not within or is_read_only(path):
            try:
                posix.close(posix.open(path, wanted | LOOKING))
            except OSError as error:
                access = posix.W_OK if wanted == posix.O_WRONLY else posix.W_OK | posix.R_OK
                if error.errno == EACCES and (self.is_hidden(real) if within else posix.access(path, access)):
                    return EACCES
                return error.errno if error.errno == EROFS else 0
        return 0

    def hinders_entries(self, directory):
        """Return the same of what is made, removed and renamed in a directory."""
        if not is_directory(directory):
            return 0
        if self.tier == "namespaces":
            return EROFS if is_read_only(directory) else 0
        while True:
            try:
                posix.close(posix.open(directory, posix.O_WRONLY | posix.O_TMPFILE | posix.O_CLOEXEC))
            except OSError as error:
                if error.errno != EACCES or directory == "/":
                    return 0
                if posix.access(directory, posix.W_OK | posix.X_OK):
                    return EACCES
                directory = holder_of(directory)  # its mode says no: what is around it tells of the sandbox
            else:
                return 0
