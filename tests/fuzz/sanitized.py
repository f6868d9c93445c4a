"""Programs of this directory, compiled with sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness import lacking

HERE = Path(__file__).parent
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
LIBRARIES = ("-lasan", "-lubsan", "libclang_rt")
WARNINGS = ["-std=gnu11", "-Wall", "-Wextra", "-Werror"]
ENVIRONMENT = {"ASAN_OPTIONS": "abort_on_error=0:exitcode=99", "UBSAN_OPTIONS": "exitcode=98"}


def build(source: str, directory: Path, *flags: str, compiler: str = "cc") -> Path:
    """Compile one file; skip where there is no compiler or it has no sanitizers."""
    program = shutil.which(compiler)
    if program is None:
        lacking("sanitizers", f"no {compiler}")
    target = directory / Path(source).stem
    command = [program or "", *WARNINGS, "-g", "-O1", *(flags or SANITIZERS), "-o", target, HERE / source]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode and any(library in built.stderr for library in LIBRARIES):
        lacking("sanitizers", built.stderr[-300:])
    assert built.returncode == 0, built.stderr
    return target
