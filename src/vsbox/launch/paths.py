"""Paths that a caller names, followed to where they lead, and never through a link that code inside may have made."""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from vsbox.errors import PolicyError, UsageError
from vsbox.launch.files import DIRECTORY, READ, opened_directory

MOST_REMEMBERED: Final = 10_000
MOST_LINKS: Final = 40
WRITTEN: Final[OrderedDict[str, None]] = OrderedDict()
"""Directories that code inside could write to since this process started: it may have made links there."""


def remember_written(paths: Iterable[str]) -> None:
    """Note directories as such that code inside may write to."""
    for path in paths:
        WRITTEN[path] = None
        WRITTEN.move_to_end(path)
    while len(WRITTEN) > MOST_REMEMBERED:
        WRITTEN.popitem(last=False)


def follow(path: str | os.PathLike[str]) -> tuple[str, tuple[str, ...]]:
    """Return where a path leads at this moment, and the links on the way.

    Raises:
        UsageError: it is empty, or they lead in a circle.
    """
    given = os.path.expanduser(os.fspath(path))
    if not given:
        raise UsageError("cannot use an empty path", hint="a dot is the working directory")
    if not given.startswith("/"):
        try:
            given = os.path.join(os.getcwd(), given)
        except OSError as error:
            raise UsageError(f"cannot use {given}: the working directory is gone", hint="name all of it") from error
    place, links = "/", []
    rest = [*reversed(given.split("/"))]
    while rest:
        part = rest.pop()
        if part == "..":
            place = os.path.dirname(place)
        if part in {"", ".", ".."}:
            continue
        here = os.path.join(place, part)
        try:
            target = os.readlink(here)
        except OSError:
            place = here
            continue
        links.append(here)
        if len(links) > MOST_LINKS:
            raise UsageError(f"cannot use {os.fspath(path)}: too many links")
        place = "/" if target.startswith("/") else place
        rest += reversed(target.split("/"))
    return place, tuple(links)


def refuse_links(path: str | os.PathLike[str], links: Iterable[str], written: Collection[str]) -> None:
    """Refuse a path that leads through a link which code inside could have made.

    Raises:
        PolicyError: there is such a link.
    """
    for link in links:
        if any(str(parent) in written for parent in Path(link).parents):
            raise PolicyError(
                f"cannot use {os.fspath(path)}: {link} is a link that code inside could have made",
                hint="name what it leads to, if that is what you mean",
            )


def resolve(path: str | os.PathLike[str], written: Iterable[str] = ()) -> str:
    """Return where a path that the caller names leads at this moment.

    Security: code inside that may write to a directory may make a link there, and wait for the next run that is given
    it. So none is followed in what was granted for writing since this process started, or is in ``written``.

    Raises:
        UsageError: nothing is there.
        PolicyError: it leads through a link that code inside could have made.
    """
    real, links = follow(path)
    if not os.path.exists(real):
        raise UsageError(f"cannot use {os.fspath(path)}: it does not exist")
    refuse_links(path, links, {*WRITTEN, *written} if links else ())
    return real


def open_resolved(path: str, flags: int) -> int:
    """Open a resolved path; a link that has come into the way since is not followed."""
    root = os.open("/", DIRECTORY)
    try:
        with opened_directory(root, Path(path).parts[1:-1], search=True) as directory:
            return os.open(os.path.basename(path) or ".", flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666, dir_fd=directory)  # type: ignore[attr-defined,unused-ignore]
    finally:
        os.close(root)


def read_file(path: str | os.PathLike[str], written: Iterable[str] = ()) -> bytes:
    """Return what a regular file of the caller's holds; one that code inside has swapped for something else is refused.

    Raises:
        UsageError: there is no regular file.
        PolicyError: it leads through a link that code inside could have made.
    """
    descriptor = open_resolved(resolve(path, written), READ)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"cannot use {os.fspath(path)}: it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        return bytes(file.read())
