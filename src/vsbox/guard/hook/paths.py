"""Paths, and what the system says of them: by functions of its own, since tests inside replace those of ``os``."""

import os
import posix
import stat

from vsbox.guard.hook.words import is_own_host, read_text

MOST_LINKS = 40


def holder_of(path):
    """Return the directory that holds an entry, "" for the working directory."""
    above, slash, _ = path.rpartition("/")
    return above.rstrip("/") or slash


def joined(directory, name):
    """Return a name as seen from a directory."""
    return name if name.startswith("/") or not directory else directory.rstrip("/") + "/" + name


def absolute(path):
    """Return a path from the root on; not made shorter, since the kernel follows a link before it goes up."""
    return path if path.startswith("/") else joined(posix.getcwd(), path)


def real_path(path):
    """Return where an absolute path leads; from what is not there on, it is taken as it is written."""
    place, links, rest = "", 0, path.split("/")[::-1]
    while rest:
        part = rest.pop()
        if part == "..":
            place = place.rpartition("/")[0]
        if part in ("", ".", ".."):
            continue
        here = place + "/" + part
        try:
            target = posix.readlink(here) if links < MOST_LINKS else ""
        except (OSError, ValueError):
            target = ""
        if not target:
            place = here
            continue
        links += 1
        place = "" if target.startswith("/") else place
        rest += target.split("/")[::-1]
    return place or "/"


def path_of_url(url):
    """Return the path that a URL names, which begins with ``file:``; "" where it is another host's."""
    rest = url[5:]
    if rest[:2] == "//":
        host, slash, rest = rest[2:].partition("/")
        if not is_own_host(host.lower()):
            return ""
        rest = slash + rest
    first, *others = rest.encode("utf-8", "surrogateescape").split(b"%")
    path = first
    for part in others:
        code = part[:2]
        is_code = len(code) == 2 and not code.strip(b"0123456789abcdefABCDEF")
        path += bytes((int(code, 16),)) + part[2:] if is_code else b"%" + part
    return os.fsdecode(path)


def is_entry(path):
    """Tell whether something is there, a link that leads nowhere as well."""
    try:
        posix.lstat(path)
    except (OSError, ValueError):
        return False
    return True


def is_link(path):
    return stat.S_ISLNK(posix.lstat(path).st_mode)


def is_there(path):
    """Tell whether a path leads to something."""
    try:
        posix.stat(path)
    except (OSError, ValueError):
        return False
    return True


def is_directory(path):
    return is_there(path) and stat.S_ISDIR(posix.stat(path).st_mode)


def is_pipe(path):
    """Tell whether to try it would be noticed: whoever is at the other end would take us for the reader."""
    return stat.S_ISFIFO(posix.stat(path).st_mode)


def is_read_only(path):
    """Tell whether it is on a mount that is."""
    return posix.statvfs(path).f_flag & posix.ST_RDONLY


def mount_of(directory):
    """Return the number of a mount; directories of one file system may be mounted apart."""
    number = posix.open(directory or ".", posix.O_PATH | posix.O_CLOEXEC)
    try:
        return read_text("/proc/self/fdinfo/%d" % number).partition("mnt_id:")[2].split()[0]
    finally:
        posix.close(number)
