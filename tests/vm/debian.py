"""Packages of any suite of Debian, fetched and unpacked beside the system: nothing is installed.

Apt works on a state of its own for each suite, so that only the index of that one is read.
"""

from __future__ import annotations

import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


class FetchError(Exception):
    """A package could not be had."""


def cache() -> Path:
    """Return the directory where kernels are kept; it may be removed at any time."""
    named = os.environ.get("VSBOX_VM_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vsbox-vm"


def _apt(*argv: str, config: Path | None = None, cwd: Path | None = None) -> str:
    environment = os.environ | ({"APT_CONFIG": str(config)} if config else {})
    try:
        done = subprocess.run(
            [f"/usr/bin/{argv[0]}", *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True,
            env=environment, cwd=cwd, check=False,
        )  # fmt: skip
    except OSError as error:
        raise FetchError(f"cannot run {argv[0]}: {error}") from error
    if done.returncode:
        raise FetchError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout


def _mirror() -> str:
    """Return the mirror of Debian that the apt of this machine uses; ``VSBOX_VM_MIRROR`` names another."""
    named = os.environ.get("VSBOX_VM_MIRROR")
    if named:
        return named
    places = _apt("apt-get", "indextargets", "--format", "$(REPO_URI)").split()
    found = next((place for place in places if re.search(r"/debian/?$", place)), None)
    if found is None:
        raise FetchError("apt of this machine knows no mirror of Debian: set VSBOX_VM_MIRROR")
    return found


@dataclass(frozen=True)
class Suite:
    """A suite of Debian, such as ``bookworm``, whose index has been read."""

    name: str
    config: Path

    @classmethod
    def open(cls, name: str) -> Suite:
        """Read the index of a suite."""
        place = cache() / "apt" / name
        for directory in ("lists/partial", "cache/archives/partial"):
            (place / directory).mkdir(parents=True, exist_ok=True)
        suite = cls(name, place / "apt.conf")
        (place / "sources.list").write_text(f"deb [signed-by={KEYRING}] {_mirror()} {name} main\n")
        suite.config.write_text(
            f'Dir::Etc::sourcelist "{place}/sources.list";\nDir::Etc::sourceparts "-";\n'
            f'Dir::State::lists "{place}/lists";\nDir::Cache "{place}/cache";\n'
            'Acquire::Languages "none";\nAPT::Sandbox::User "";\n'
        )
        _apt("apt-get", "-qq", "update", config=suite.config)
        return suite

    def dependencies(self, package: str) -> tuple[str, ...]:
        """Return the names of the packages that one depends on."""
        text = _apt("apt-cache", "depends", package, config=self.config)
        return tuple(re.findall(r"^ +Depends: ([^<\s]+)$", text, re.MULTILINE))

    def unpack(self, package: str, into: Path, *, wanted: Callable[[str], bool] = lambda _: True) -> None:
        """Download a package and unpack of it the paths (as ``usr/bin/true``) that are wanted."""
        with tempfile.TemporaryDirectory(dir=cache()) as scratch:
            _apt("apt-get", "-qq", "download", package, config=self.config, cwd=Path(scratch))
            (archive,) = Path(scratch).glob("*.deb")
            argv = ["/usr/bin/dpkg-deb", "--fsys-tarfile", archive]
            with (
                subprocess.Popen(argv, stdout=subprocess.PIPE) as process,
                tarfile.open(fileobj=process.stdout, mode="r|") as entries,
            ):
                for entry in entries:
                    if not entry.isdir() and wanted(entry.name.removeprefix("./")):
                        entries.extract(entry, into)
        if process.returncode:
            raise FetchError(f"cannot unpack {package}: dpkg-deb ended with {process.returncode}")
