"""Text of and for code inside, which may be anything."""

import _io
import os
import posix


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


def read_text(path):
    with _io.open(path, encoding="utf-8", errors="replace") as file:
        return file.read(1 << 22)


def as_text(path):
    """Return a path as a string that does what strings do."""
    path = posix.fspath(path)
    return str.__str__(path) if isinstance(path, str) else os.fsdecode(bytes.__getitem__(path, slice(None)))


def as_host(host):
    """Return a host as text, "" for what is none."""
    if isinstance(host, (bytes, bytearray)):
        host = bytes(host).decode("ascii", "replace")
    return str.__str__(host).lower() if isinstance(host, str) else ""


def packed_address(host):
    """Return an address as bytes, however it is written, and one of version 4 in version 6 as itself; b"" for none."""
    from _socket import AF_INET6, inet_aton, inet_pton

    try:
        packed = inet_pton(AF_INET6, host.partition("%")[0]) if ":" in host else inet_aton(host)
    except (OSError, ValueError):
        return b""
    return packed[12:] if len(packed) == 16 and packed[:12] == b"\0" * 10 + b"\xff\xff" else packed


def is_own_host(host):
    """Tell whether a host is this one, however it is written."""
    if host in ("", "localhost"):
        return True
    packed = packed_address(host)
    own = not any(packed) or packed == b"\0" * 15 + b"\1" or (len(packed) == 4 and packed[0] == 127)
    return bool(packed) and own


def is_address(host):
    """Tell what is an address, or would be one with other numbers."""
    return ":" in host or all(part.isdigit() for part in host.split(".")) or bool(packed_address(host))


OWN_FILE = quoted.__code__.co_filename
"""Of every function here: the modules are one program."""
