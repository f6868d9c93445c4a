"""AppArmor policy as the kernel takes it, so that the machine under test needs no tool of AppArmor's.

Rules about user namespaces need AppArmor 4 and newer: its compiler is fetched from a suite that has it.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from pathlib import Path

from vm.debian import FetchError, Suite, cache

SUITE = "trixie"
PACKAGES = ("apparmor", "libc6")


def _place(suite: str = SUITE) -> Path:
    return cache() / ("apparmor" if suite == SUITE else f"apparmor-{suite}")


def is_there(suite: str = SUITE) -> bool:
    """Tell whether the compiler was fetched."""
    return _place(suite).is_dir()


def fetch(name: str = SUITE) -> None:
    """Download the compiler of policies that a suite has, with the library that it runs on."""
    if is_there(name):
        return
    cache().mkdir(parents=True, exist_ok=True)
    suite = Suite.open(name)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        for package in PACKAGES:
            suite.unpack(package, Path(scratch) / "made")
        (Path(scratch) / "made").rename(_place(name))


def _loader(suite: str) -> tuple[str | Path, ...]:
    """Return the words that start the compiler. Debian 12 has libraries in /lib."""
    place = _place(suite)
    libraries = next(found.parent for found in place.glob("**/x86_64-linux-gnu/ld-linux-x86-64.so.2"))
    (program,) = place.glob("**/sbin/apparmor_parser")
    return (libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, program)


def installation(suite: str) -> str:
    """Return what root of a machine does so that there is this compiler, as if its package were installed."""
    words = (
        *_loader(suite),
        "--base", "/etc/apparmor.d", "--skip-cache",
    )  # fmt: skip
    program = "/usr/local/sbin/apparmor_parser"
    script = f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n'
    return (
        f"rm -rf /etc/apparmor.d; cp -r {shlex.quote(str(_place(suite) / 'etc/apparmor.d'))} /etc/apparmor.d; "
        f"printf %s {shlex.quote(script)} >{program}; chmod 755 {program}"
    )


def compiled(policy: str) -> bytes:
    """Return profiles in the form of the kernel.

    Raises:
        FetchError: there is no compiler, or it takes the policy for wrong.
    """
    rules = _place() / "etc/apparmor.d"
    argv = (
        *_loader(SUITE), "--base", rules, "--kernel-features", rules / "abi/4.0",
        "--skip-cache", "--skip-kernel-load", "--stdout",
    )  # fmt: skip
    done = subprocess.run(argv, input=policy.encode(), capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise FetchError(f"cannot compile AppArmor policy: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
