"""Quoting is tested by asking: what does the shell itself take the word for?"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from harness import require_program
from vsbox.box.quoting import quote_csh, quote_fish, quote_posix, quote_powershell

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOSTILE = (
    "",
    " ",
    "two words",
    "it's",
    "'",
    "''",
    "'\\''",
    "\\",
    "\\'",
    "a\\",
    "!",
    "a!b!!",
    "!'\\\n!",
    "'!'",
    "\n",
    "a\nb\n",
    "\\\n",
    "a\r\nb",
    "$HOME ${HOME} $(id) `id`",
    '"',
    "%s %n %% ^a^b^",
    "*?[a-z]{b,c}~",
    "~root",
    "-n",
    "--",
    "#comment",
    "; id & id | id > /dev/null",
    "@ROOT@",
    "é中\U0001f40d",
    "\u2018\u2019\u201a\u201b\u201c\u201d",
    "\ufdd0\uf600\ue000",
    "\udce9",
    "a\udcff\udc80'\udcc3",
    "\x01\x07\x1b[31m\t\x7f",
)

ENCODED_TEXT = st.text(
    alphabet=st.one_of(
        st.sampled_from("'\\!\n\"$`% *?~^#;&|<>(){}[]=-\r\t"),
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"),
        # What os.fsdecode makes of a byte that is not UTF-8.
        st.integers(0x80, 0xFF).map(lambda byte: chr(0xDC00 + byte)),
    )
)


class Shell(NamedTuple):
    name: str
    argv: tuple[str, ...]
    quote: Callable[[str], str]
    setup: str = ""
    always_tested: bool = True


KNOWN_SHELLS = (
    Shell("bash", ("bash", "--norc"), quote_posix),
    Shell("bash-posix", ("bash", "--posix"), quote_posix),
    Shell("dash", ("dash",), quote_posix),
    Shell("zsh", ("zsh", "-f"), quote_posix),
    Shell("zsh-rcquotes", ("zsh", "-f"), quote_posix, "setopt rcquotes promptsubst globsubst"),
    Shell("fish", ("fish", "--no-config"), quote_fish),
    Shell("tcsh", ("tcsh", "-f"), quote_csh),
    Shell("tcsh-backslash_quote", ("tcsh", "-f"), quote_csh, "set backslash_quote"),
    Shell("bsd-csh", ("bsd-csh", "-f"), quote_csh, always_tested=False),
)
LOCALES = ("C.UTF-8", "C")

SHELLS = tuple(shell for shell in KNOWN_SHELLS if shell.always_tested or shutil.which(shell.argv[0]))
each_shell = pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell.name)


def read_back(shell: Shell, values: list[str], directory: Path, locale: str) -> list[str]:
    """Return what the shell passes to a program for the quoted values."""
    words = " ".join(shell.quote(value) for value in values)
    # printf prints once even without arguments: `first` keeps no value apart from an empty one.
    script = f"{shell.setup}\n{require_program('printf')} '%s\\0' first {words}\n"
    file = directory / "script"
    file.write_bytes(os.fsencode(script))
    result = subprocess.run(
        [require_program(shell.argv[0]), *shell.argv[1:], str(file)],
        env={"PATH": "/nonexistent", "HOME": str(directory), "LC_ALL": locale},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert result.stderr == b""
    return [os.fsdecode(word) for word in result.stdout.split(b"\0")][1:-1]


@each_shell
@pytest.mark.parametrize("locale", LOCALES)
def test_hostile_values_arrive_unchanged(shell: Shell, locale: str, tmp_path: Path) -> None:
    assert read_back(shell, list(HOSTILE), tmp_path, locale) == list(HOSTILE)


@each_shell
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(values=st.lists(ENCODED_TEXT, min_size=1, max_size=20))
def test_any_value_arrives_unchanged(shell: Shell, values: list[str], tmp_path: Path) -> None:
    # Sequences of escaped bytes that together are valid UTF-8 come back as the character.
    values = [os.fsdecode(os.fsencode(value)) for value in values]
    assert read_back(shell, values, tmp_path, "C.UTF-8") == values


@pytest.mark.parametrize("quote", [quote_posix, quote_fish, quote_csh, quote_powershell])
@pytest.mark.parametrize("value", ["a\0b", chr(0xD800), chr(0xDFFF)])
def test_unrepresentable_values_are_refused(quote: Callable[[str], str], value: str) -> None:
    with pytest.raises(ValueError, match=r"cannot quote .* for .*: it contains"):
        quote(value)


POWERSHELL_LITERAL = re.compile(r"'((?:[ -&(-~]|'')*)'")
POWERSHELL_CHAR = re.compile(r"\[char\]0x([0-9A-F]{4})")


def powershell_value(expression: str) -> str:
    """Evaluate the part of PowerShell's grammar that the quoting may use, and nothing beyond."""
    if whole := POWERSHELL_LITERAL.fullmatch(expression):
        return whole[1].replace("''", "'")
    assert (expression[0], expression[-1]) == ("(", ")")
    position, units = 1, b""
    while position < len(expression):
        if literal := POWERSHELL_LITERAL.match(expression, position):
            units += literal[1].replace("''", "'").encode("utf-16-be")
            position = literal.end()
        else:
            assert position > 1, "text must come first, or + adds numbers"
            char = POWERSHELL_CHAR.match(expression, position)
            assert char is not None
            units += bytes.fromhex(char[1])
            position = char.end()
        assert expression[position:] == ")" or expression.startswith(" + ", position)
        position += len(" + ")
    return units.decode("utf-16-be")


@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")))
@example("it's")
@example("\n")
@example("\u2019; id; \u2018")
@example("é'\U0001f40d'")
def test_powershell_expression_means_the_value(value: str) -> None:
    assert powershell_value(quote_powershell(value)) == value


@pytest.mark.parametrize(
    ("value", "expression"),
    [
        ("", "''"),
        ("/home/me/$x`y", "'/home/me/$x`y'"),
        ("it's", "'it''s'"),
        ("café 1", "('caf' + [char]0x00E9 + ' 1')"),
        ("\n", "('' + [char]0x000A)"),
        ("\U0001f40d", "('' + [char]0xD83D + [char]0xDC0D)"),
        ("a\u2019b", "('a' + [char]0x2019 + 'b')"),
    ],
)
def test_powershell_golden(value: str, expression: str) -> None:
    assert quote_powershell(value) == expression


def test_powershell_refuses_bytes_that_are_not_unicode() -> None:
    with pytest.raises(ValueError, match="for PowerShell: it is not valid Unicode"):
        quote_powershell("caf\udce9")
