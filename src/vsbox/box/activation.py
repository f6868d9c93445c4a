"""Write the scripts that `source BOX/bin/activate` and its relatives run.

The scripts themselves are in `templates/`, in the language of their shell; what is decided here is
which values go in, and that each goes in as a literal.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vsbox.box.quoting import quote_csh, quote_fish, quote_posix, quote_powershell

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TEMPLATES = Path(__file__).with_name("templates")
_PLACEHOLDER = re.compile(r"@([A-Z]+)@")
_ACTIVE_IN_PROMPTS = frozenset("$`\\%!")
"""What some shell expands when it draws its prompt: in bash, `$(command)` in PS1 is executed."""


class _Shell(NamedTuple):
    """The scripts for one shell language."""

    activate: str
    """File that activates; also the name of its template."""
    sandboxed: str
    """Its twin, which then prints what code inside may touch."""
    summary: str
    """Template of what the twin has on top."""
    quote: Callable[[str], str]


_SHELLS = (
    _Shell("activate", "activate_sandboxed", "summary.sh", quote_posix),
    _Shell("activate.fish", "activate_sandboxed.fish", "summary.fish", quote_fish),
    _Shell("activate.csh", "activate_sandboxed.csh", "summary.csh", quote_csh),
)
_POWERSHELL = _Shell("Activate.ps1", "Activate_sandboxed.ps1", "summary.ps1", quote_powershell)


def render_activation(root: str | os.PathLike[str], *, prompt: str) -> dict[str, bytes]:
    """Return the activation scripts of the box at `root`: file name in `bin` to content.

    `prompt` is what VIRTUAL_ENV_PROMPT becomes, and what the shell's prompt shows in parentheses,
    there with a question mark for each character that a prompt could act on.

    Raises ValueError where no shell could do it: `root` is relative or holds a colon, or a value
    holds what cannot be in an environment variable. A root that only PowerShell cannot name
    (not valid Unicode) gets PowerShell scripts that say so and change nothing.

    Security: the scripts run in the user's own shell, unconfined, and confine nothing themselves:
    that is the launchers' work. They use builtins only (csh also /bin/cat), look up no command on
    PATH, and read one file, `sandbox/summary.txt`, which code inside cannot write. Its text goes to
    the terminal as it is: whoever writes it keeps control characters out.
    """
    path = os.fspath(root)
    _refuse_unusable_root(path)
    values = {"ROOT": path, "PROMPT": prompt, "SHOWN": f"({_displayable(prompt)}) "}
    scripts: dict[str, bytes] = {}
    for shell in _SHELLS:
        scripts |= _render_shell(shell, values)
    return scripts | _render_powershell(values)


def _refuse_unusable_root(root: str) -> None:
    if ":" in root:
        raise ValueError(f"cannot activate {root}: a colon in its path breaks PATH")
    if not Path(root).is_absolute():
        # A relative entry in PATH finds other programs in every directory the user enters.
        raise ValueError(f"cannot activate {root}: its path is not absolute")


def _displayable(prompt: str) -> str:
    return "".join(c if c.isprintable() and c not in _ACTIVE_IN_PROMPTS else "?" for c in prompt)


def _render_shell(shell: _Shell, values: Mapping[str, str]) -> dict[str, bytes]:
    quoted = {name: shell.quote(value) for name, value in values.items()}
    script = _fill(shell.activate, quoted)
    return {
        shell.activate: os.fsencode(script),
        shell.sandboxed: os.fsencode(script + "\n" + _fill(shell.summary, quoted)),
    }


def _render_powershell(values: Mapping[str, str]) -> dict[str, bytes]:
    try:
        return _render_shell(_POWERSHELL, values)
    except ValueError:
        # What no shell can represent was refused by the others. The rest is not valid Unicode,
        # which .NET cannot hold: no reason to withhold the box from every other shell.
        refusal = b"throw 'cannot activate: the path of this box is not valid Unicode'\n"
        return dict.fromkeys((_POWERSHELL.activate, _POWERSHELL.sandboxed), refusal)


def _fill(template: str, quoted: Mapping[str, str]) -> str:
    """Replace all placeholders in one pass: a value that contains one stays as it is."""
    text = (_TEMPLATES / template).read_text(encoding="ascii")
    return _PLACEHOLDER.sub(lambda match: quoted[match[1]], text)
