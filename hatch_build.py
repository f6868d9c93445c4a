"""Compile native/ with the system's C compiler and put the launcher into the wheel."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion",
         "-fstack-protector-strong", "-D_FORTIFY_SOURCE=2", "-Wl,-z,relro,-z,now"]
KERNEL_HEADERS = ("/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}")
NO_COMPILER = """vsbox needs a C compiler to build its launcher, and found none.
       Debian, Ubuntu: apt-get install gcc libc6-dev
       Fedora: dnf install gcc glibc-static
       Alpine: apk add build-base linux-headers"""


def find_compiler() -> list[str]:
    """Return the C compiler to use; $CC wins. Exit with advice when there is none.

    musl comes first: a program with glibc asks the processor for its features some 40 times when it starts, and
    in a virtual machine each answer is the host's: 0.3 ms, where musl asks nothing. Its wrapper for gcc
    knows no kernel headers.
    """
    for name in filter(None, (os.environ.get("CC"), "musl-gcc", "cc", "gcc", "clang")):
        path = shutil.which(name)
        if path:
            headers = [word for place in KERNEL_HEADERS for word in ("-idirafter", place)]
            return [path, *(headers if name == "musl-gcc" else [])]
    sys.exit(NO_COMPILER)


def compile_launcher(sources: list[Path], target: Path) -> None:
    """Build the launcher: static where the C library allows, since a start then loads nothing else."""
    compiler = find_compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [*compiler, *FLAGS, "-o", str(target), *map(str, sources)]
    if subprocess.run([*command, "-static"], capture_output=True, check=False).returncode == 0:
        return
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode != 0:
        sys.exit(f"vsbox: cannot compile the launcher: {' '.join(command)}\n{built.stderr}")


class LauncherHook(BuildHookInterface[Any]):
    """Build hook of the wheel; the sdist carries the sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the compiled launcher; elsewhere than on Linux there is none."""
        if self.target_name != "wheel" or not sys.platform.startswith("linux"):
            return
        root = Path(self.root)
        in_place = root / "src" / "vsbox" / "launch"
        self.scratch = None if version == "editable" else tempfile.mkdtemp(prefix="vsbox-build-")
        launcher = Path(self.scratch or in_place) / "vsbox-launcher"
        compile_launcher(sorted((root / "native").glob("*.c")), launcher)
        build_data["pure_python"] = False
        build_data["tag"] = "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if self.scratch:
            build_data["force_include"][str(launcher)] = "vsbox/launch/vsbox-launcher"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's signature
        """Remove what was only needed to build."""
        if getattr(self, "scratch", None):
            shutil.rmtree(self.scratch, ignore_errors=True)
