"""Beside a box: where it is made before it takes its place, and what was in that place until it is removed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from vsbox.box.layout import Layout
from vsbox.box.store import load_policy
from vsbox.errors import BoxError, VsboxError
from vsbox.host.running import running
from vsbox.policy.grants import Access, grants_of, is_below

PREFIX: Final = ".vsbox-"
"""Of a name that code inside cannot touch in a project (``plan/project.py``)."""


@contextlib.contextmanager
def staging_beside(root: Path) -> Iterator[Path]:
    """An empty directory for what is to change places with ``root``; removed in the end, with what is then in it.

    What a killed command left here is removed first.
    """
    root.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(root.parent)
    with contextlib.ExitStack() as stack:
        holder = _make_holder(root.parent, stack)
        tree = holder / root.name  # what is made in it looks at the name: one with blanks has other scripts
        tree.mkdir()
        yield tree


def _make_holder(directory: Path, stack: contextlib.ExitStack) -> Path:
    """Make a directory that is in use; another command may take it for stale before it is locked."""
    while True:
        holder = directory / f"{PREFIX}{secrets.token_hex(8)}"
        stack.callback(remove_tree, holder)  # first: a signal may come right after it is made
        holder.mkdir(mode=0o700)
        with contextlib.suppress(FileNotFoundError, BlockingIOError):
            stack.enter_context(_locked(holder))
            return holder


@contextlib.contextmanager
def _locked(holder: Path) -> Iterator[None]:
    """Hold the lock that says that a directory is in use.

    Raises:
        BlockingIOError: it is.
        FileNotFoundError: it was removed meanwhile.
    """
    descriptor = os.open(holder, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)  # type: ignore[attr-defined,unused-ignore]
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[attr-defined,unused-ignore]
        holder.lstat()
        yield
    finally:
        os.close(descriptor)


def remove_stale(directory: Path) -> tuple[Path, ...]:
    """Remove what killed commands left in a directory; return the places of the boxes that were among it."""
    boxes = []
    for holder in directory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), _locked(holder):
            for tree in holder.iterdir():
                with contextlib.suppress(VsboxError):
                    boxes.append(Path(load_policy(Layout(tree)).venv_root))
            remove_tree(holder)
    return tuple(boxes)


def remove_tree(path: Path) -> None:
    """Remove a directory with all in it, also what its owner may not change as it is."""
    with contextlib.suppress(OSError):
        shutil.rmtree(path)
        return
    for directory, _, _ in os.walk(path):
        with contextlib.suppress(OSError):
            os.chmod(directory, 0o700)  # os.walk enters no link
    shutil.rmtree(path, ignore_errors=True)


def refuse_while_others_write(root: Path) -> None:
    """Refuse to make or replace a box where code inside another one could change it meanwhile.

    Raises:
        BoxError: such a box runs.
    """
    for run in running():
        with contextlib.suppress(VsboxError):
            grants = grants_of(load_policy(Layout(Path(run.box))))
            if any(grant.access is Access.WRITE and is_below(str(root.parent), grant.path) for grant in grants):
                raise BoxError(
                    f"cannot change {root}: {run.box} runs, and code inside it may write in {root.parent}",
                    hint=f"end it: vsbox kill {run.box}",
                )
