"""Where things are in a box: the two faces of DESIGN §3.

::

    bin/        OUTSIDE  launchers and activation scripts
    sandbox/    OUTSIDE  sandbox.json, plan, receipt.json, summary.txt, interpreter.json, launchers exec, verify, tidy
    inside/     INSIDE   the environment, which code inside sees as the box
    home/       INSIDE   $HOME
    installs/   INSIDE   $HOME while packages are installed, where they are read-only at other times

Law 1: nothing below ``inside`` or ``home`` is ever read by this package; of ``inside/bin`` it takes
names only.
"""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vsbox.errors import BoxError, UsageError

TASKS: Final = ("verify", "tidy", "inner")
"""Names in ``sandbox`` under which the launcher does something else than start a command."""
BAD_IN_SCRIPTS: Final = re.compile(r'[\x00-\x1f\x7f:"\\$`]')
"""What a ``#!`` line, $PATH or the quoting of installed scripts cannot carry."""


@dataclass(frozen=True)
class Layout:
    """The paths of one box; ``root`` is absolute and free of symbolic links."""

    root: Path

    @property
    def bin(self) -> Path:
        """Launchers, outside."""
        return self.root / "bin"

    @property
    def sandbox(self) -> Path:
        """Policy and plan, outside."""
        return self.root / "sandbox"

    @property
    def inside(self) -> Path:
        """The environment that code inside sees."""
        return self.root / "inside"

    @property
    def home(self) -> Path:
        """``$HOME`` inside."""
        return self.root / "home"

    @property
    def installs(self) -> Path:
        """``$HOME`` while packages are installed."""
        return self.root / "installs"

    @property
    def policy(self) -> Path:
        """``sandbox.json``."""
        return self.sandbox / "sandbox.json"

    @property
    def plan(self) -> Path:
        """The compiled plan."""
        return self.sandbox / "plan"

    @property
    def runs(self) -> Path:
        """Reports of the last runs that were watched."""
        return self.sandbox / "runs"

    @property
    def launcher(self) -> Path:
        """The copy of the native launcher that all others are hard links of."""
        return self.sandbox / "exec"

    def is_box(self) -> bool:
        """Tell whether a box is here."""
        return self.launcher.is_file()


def made_anew(root: Path) -> str:
    """Return the next step where a box cannot be used any more, with what it costs."""
    return f"make the box anew, without its packages and what is in its $HOME: vsbox --clear {shlex.quote(str(root))}"


def _way_to_one(directory: str | os.PathLike[str], root: Path) -> str:
    try:
        is_free = not os.path.lexists(root) or not os.listdir(root)
    except OSError:
        is_free = False
    place = shlex.quote(os.fspath(directory)) if is_free else "NEW_DIRECTORY"
    return f"make one: vsbox {place}"


def open_box(directory: str | os.PathLike[str]) -> Layout:
    """Return the layout of an existing box.

    Raises:
        BoxError: there is none.
    """
    layout = Layout(Path(os.path.realpath(directory)))
    if not layout.is_box():
        what = "it is not a box" if layout.root.exists() else "it does not exist"
        raise BoxError(f"cannot use {directory}: {what}", hint=_way_to_one(directory, layout.root))
    if layout.launcher.stat().st_uid != os.geteuid():  # type: ignore[attr-defined,unused-ignore]
        raise BoxError(
            f"cannot use {directory}: it belongs to uid {layout.launcher.stat().st_uid}",
            hint="a box is for the user who made it: make your own",
        )
    return layout


def check_name(root: Path) -> None:
    """Refuse a place whose name scripts, $PATH or JSON could not carry.

    Raises:
        UsageError: naming the character.
    """
    bad = BAD_IN_SCRIPTS.search(str(root))
    if bad:
        raise UsageError(
            f"cannot make a box at {str(root)!r}: its path holds {bad[0]!r}, which scripts cannot name",
            hint="choose a path without control characters and without : \" \\ $ `",
        )
    try:
        str(root).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            f"cannot make a box at {str(root)!r}: its path is not UTF-8, which sandbox.json cannot hold",
            hint="choose a path in UTF-8",
        ) from None
