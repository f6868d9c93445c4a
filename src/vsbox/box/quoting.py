"""One quote function per shell: any text in, one literal word of that shell out.

Text that came from the system carries undecodable bytes as surrogate escapes (`os.fsdecode`); the
result is to be written with `os.fsencode`, which turns them back into the bytes they were.

Every function raises `ValueError` for what its shell cannot represent, and quotes everything else:
an unquoted "harmless" word is one more case to get wrong.
"""

from __future__ import annotations

import re
from itertools import groupby

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_A_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")
"""Surrogates that `os.fsencode` cannot turn into a byte."""

_CSH_OUTSIDE_QUOTES = {"'": "\\'", "!": "\\!", "\\": "\\\\"}
_FISH_INSIDE_QUOTES = str.maketrans({"'": "\\'", "\\": "\\\\"})


def quote_posix(value: str) -> str:
    r"""Quote for sh, bash, dash, ksh and zsh.

    A single quote is the only character that single quotes do not protect. It is written `'\''`
    and never doubled, so that zsh's RC_QUOTES reads the same.
    """
    _refuse_unrepresentable(value, language="a POSIX shell")
    return "'" + value.replace("'", "'\\''") + "'"


def quote_fish(value: str) -> str:
    r"""Quote for fish, where a backslash escapes itself and the quote inside single quotes.

    Undecodable bytes are written as `\Xhh`, which means the byte in every locale.
    """
    _refuse_unrepresentable(value, language="fish")
    quoted = value.translate(_FISH_INSIDE_QUOTES)
    return "'" + _LONE_SURROGATE.sub(_fish_byte, quoted) + "'"


def quote_csh(value: str) -> str:
    """Quote for csh and tcsh.

    History expansion looks for `!` inside single quotes and in scripts too, and tcsh's
    `backslash_quote` changes what a backslash means inside quotes: both characters are therefore
    escaped outside. A newline inside quotes must follow a backslash.
    """
    _refuse_unrepresentable(value, language="csh")
    return "'" + re.sub(r"['!\\\n]", _csh_escape, value) + "'"


def quote_powershell(value: str) -> str:
    """Quote for PowerShell, as an expression of printable ASCII.

    For example `'it''s'` or `('caf' + [char]0x00E9)`.
    Windows PowerShell reads a script without a mark in the machine's own code page, and every
    PowerShell takes typographic quotes (U+2018 to U+201B) for quotes: numbers avoid both.
    """
    _refuse_unrepresentable(value, language="PowerShell")
    if _LONE_SURROGATE.search(value):
        raise ValueError(f"cannot quote {value!r} for PowerShell: it is not valid Unicode")
    terms: list[str] = []
    for is_plain, run in groupby(value, _is_printable_ascii):
        text = "".join(run)
        terms += [_powershell_literal(text)] if is_plain else _powershell_units(text)
    if not terms or not terms[0].startswith("'"):
        # `+` adds numbers or joins text according to its left side: text must come first.
        terms.insert(0, "''")
    return terms[0] if len(terms) == 1 else f"({' + '.join(terms)})"


def _refuse_unrepresentable(value: str, *, language: str) -> None:
    if "\0" in value:
        raise ValueError(f"cannot quote {value!r} for {language}: it contains a NUL character")
    if _NOT_A_BYTE.search(value):
        raise ValueError(
            f"cannot quote {value!r} for {language}: it contains half a surrogate pair"
        )


def _fish_byte(match: re.Match[str]) -> str:
    return f"'\\X{ord(match[0]) - 0xDC00:02x}'"


def _csh_escape(match: re.Match[str]) -> str:
    if match[0] == "\n":
        return "\\\n"
    return f"'{_CSH_OUTSIDE_QUOTES[match[0]]}'"


def _is_printable_ascii(character: str) -> bool:
    return " " <= character <= "~"


def _powershell_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _powershell_units(text: str) -> list[str]:
    """Return one `[char]` per UTF-16 unit: that is what a PowerShell character is."""
    data = text.encode("utf-16-be")
    return [f"[char]0x{data[i : i + 2].hex().upper()}" for i in range(0, len(data), 2)]
