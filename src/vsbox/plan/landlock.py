"""Landlock's rights as cumulative tables: what each ABI added, never "all bits".

Source: include/uapi/linux/landlock.h of Linux 7.2 and landlock(7).
"""

from __future__ import annotations

from typing import Final

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
REMOVE_DIR: Final = 1 << 4
REMOVE_FILE: Final = 1 << 5
MAKE_CHAR: Final = 1 << 6
MAKE_DIR: Final = 1 << 7
MAKE_REG: Final = 1 << 8
MAKE_SOCK: Final = 1 << 9
MAKE_FIFO: Final = 1 << 10
MAKE_BLOCK: Final = 1 << 11
MAKE_SYM: Final = 1 << 12
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15
RESOLVE_UNIX: Final = 1 << 16

BIND_TCP: Final = 1 << 0
CONNECT_TCP: Final = 1 << 1
BIND_UDP: Final = 1 << 2
CONNECT_SEND_UDP: Final = 1 << 3

SCOPE_ABSTRACT_UNIX_SOCKET: Final = 1 << 0
SCOPE_SIGNAL: Final = 1 << 1

FS_BY_ABI: Final = (
    (1, (1 << 13) - 1),
    (2, REFER),
    (3, TRUNCATE),
    (5, IOCTL_DEV),
    (9, RESOLVE_UNIX),
)
NET_BY_ABI: Final = ((4, BIND_TCP | CONNECT_TCP), (10, BIND_UDP | CONNECT_SEND_UDP))
SCOPES_BY_ABI: Final = ((6, SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL),)

NEWEST_ABI: Final = 10

READ: Final = EXECUTE | READ_FILE | READ_DIR
WRITE: Final = (
    READ
    | WRITE_FILE
    | REMOVE_DIR
    | REMOVE_FILE
    | MAKE_DIR
    | MAKE_REG
    | MAKE_SOCK
    | MAKE_FIFO
    | MAKE_SYM
    | REFER
    | TRUNCATE
)
FILE: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
"""Rights that mean something for a file; the kernel refuses others there."""
DEVICE: Final = READ_FILE | WRITE_FILE | READ_DIR | TRUNCATE | IOCTL_DEV


def _sum(table: tuple[tuple[int, int], ...], abi: int) -> int:
    return sum(bits for since, bits in table if abi >= since)


def known_fs(abi: int) -> int:
    """Return every filesystem right that an ABI knows."""
    return _sum(FS_BY_ABI, abi)


def known_net(abi: int) -> int:
    """Return every network right that an ABI knows."""
    return _sum(NET_BY_ABI, abi)


def known_scopes(abi: int) -> int:
    """Return every scope that an ABI knows."""
    return _sum(SCOPES_BY_ABI, abi)
