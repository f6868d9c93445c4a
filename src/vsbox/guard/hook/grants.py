"""What one box grants, and what the kernel makes of the rest."""

import os
import stat
from errno import EACCES, ENOENT, EPERM, EROFS

MOST_LEARNED = 1000
LOOKING = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
CONTENT = ("write", "open", "change", "truncate")
"""Operations about a file itself; the others are about its entry in a directory."""
TAKING = ("remove", "rename")


class Grants:
    """Paths and what may be done there, as the policy says; what it does not say, the kernel is asked.

    ``learned``: takes directories that the kernel is known to grant.
    """

    def __init__(self, config, learned):
        self.tier = config["tier"]
        self.hidden = config["hidden"]
        self.places = dict.fromkeys(self.hidden, 0)
        self.places.update(dict.fromkeys(config["read"], 1))
        self.places.update(dict.fromkeys(config["write"], 2))
        self.learned = learned
        self.first_in = {}
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


def is_pipe(path):
    """Tell whether to try it would be noticed: whoever is at the other end would take us for the reader."""
    return stat.S_ISFIFO(os.stat(path).st_mode)


def is_read_only(path):
    return os.statvfs(path).f_flag & os.ST_RDONLY
