"""AppArmor policy as the kernel takes it, so that the machine under test needs no tool of AppArmor's.

Rules about user namespaces need AppArmor 4 and newer: its compiler is fetched from a suite that has it.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from vm.debian import FetchError, Suite, cache

SUITE = "trixie"
PACKAGES = ("apparmor", "libc6")


def _place() -> Path:
    return cache() / "apparmor"


def is_there() -> bool:
    """Tell whether the compiler was fetched."""
    return _place().is_dir()


def fetch() -> None:
    """Download the compiler of policies, with the library that it runs on."""
    if is_there():
        return
    cache().mkdir(parents=True, exist_ok=True)
    suite = Suite.open(SUITE)
    with tempfile.TemporaryDirectory(dir=cache()) as scratch:
        for package in PACKAGES:
            suite.unpack(package, Path(scratch) / "made")
        (Path(scratch) / "made").rename(_place())


def compiled(policy: str) -> bytes:
    """Return profiles in the form of the kernel.

    Raises:
        FetchError: there is no compiler, or it takes the policy for wrong.
    """
    libraries = _place() / "usr/lib/x86_64-linux-gnu"
    rules = _place() / "etc/apparmor.d"
    argv = (
        libraries / "ld-linux-x86-64.so.2", "--library-path", libraries, _place() / "usr/sbin/apparmor_parser",
        "--base", rules, "--kernel-features", rules / "abi/4.0", "--skip-cache", "--skip-kernel-load", "--stdout",
    )  # fmt: skip
    done = subprocess.run(argv, input=policy.encode(), capture_output=True, check=False)
    if done.returncode or not done.stdout:
        raise FetchError(f"cannot compile AppArmor policy: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
