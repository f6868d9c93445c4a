"""Files that a caller gives to a run: what they hold, and putting them into its working directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from vsbox.errors import UsageError
from vsbox.launch import paths
from vsbox.launch.arguments import bytes_of, path_of
from vsbox.launch.files import Content, put_file


def content_of(name: str, given: Content, written: Iterable[str]) -> bytes:
    """Return what is to be in a file: bytes, text, or what a file of the caller's holds.

    Raises:
        UsageError: it is none of these, or cannot be read.
        PolicyError: it is named through a link in what is ``written``, which code inside could have made.
    """
    if not isinstance(given, os.PathLike):
        return bytes_of(f"content of {name}", given)
    path_of("files", given)
    try:
        return paths.read_file(given, written)
    except OSError as error:
        raise UsageError(f"cannot use {os.fspath(given)}: {error.strerror}") from error


def put_content(directory: int, name: str, data: bytes) -> None:
    """Write a file below a directory; what is there under that name is replaced.

    Raises:
        UsageError: that cannot be done.
    """
    try:
        put_file(directory, name, data)
    except OSError as error:
        hint = "raise limits.disk_bytes" if error.errno == errno.ENOSPC else None
        raise UsageError(f"cannot put {name[:99]!r} in: {error.strerror}", hint=hint) from error
