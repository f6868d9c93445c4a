"""People, boxes and the vocabulary that tests share.

``VSBOX_MUST_WORK`` (names separated by commas: root, user, namespaces, landlock, seccomp, shells, index, libseccomp,
sanitizers, python, bubblewrap, vm) turns a skip for want of that thing into a failure.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest

VSBOX = [sys.executable, "-m", "vsbox"]
TEST_USER = "vsbox-test"
ROOT_BY_BWRAP = "bubblewrap-root"
"""The backend bubblewrap where bwrap makes the new root as well, as where what it starts may not mount."""
BACKENDS = tuple(os.environ.get("VSBOX_TEST_BACKENDS", "native,bubblewrap,landlock").split(","))
PLAIN = os.path.realpath(sys.executable)
"""The interpreter without a box: the control."""
MUST_WORK = frozenset(filter(None, os.environ.get("VSBOX_MUST_WORK", "").split(",")))
PASSED = ("PATH", "LANG", "PIP_", "SSL_CERT", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")


def lacking(what: str, reason: str) -> None:
    """Skip for want of ``what``, or fail where it must work."""
    if what in MUST_WORK:
        pytest.fail(f"{what} must work here: {reason}")
    pytest.skip(reason)


def require_program(name: str) -> str:
    """Return the path of a shell, or of a tool that a test in a shell needs."""
    path = shutil.which(name)
    if path is None:
        lacking("shells", f"{name} is not installed")
    return path or ""


@dataclass(frozen=True)
class Person:
    """Who runs vsbox: root, or a user with nothing special."""

    name: str
    uid: int
    gid: int
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        passed = {k: v for k, v in os.environ.items() if k.startswith(PASSED)}
        return passed | {"HOME": str(self.home), "USER": self.name, "TERM": "xterm"}

    @property
    def credentials(self) -> dict[str, object]:
        """What subprocess needs to become this person."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def popen(self, argv: list[str], **options: object) -> subprocess.Popen[str]:
        given = {"text": True, "errors": "surrogateescape", "cwd": self.home, "env": self.environment}
        return subprocess.Popen([os.fspath(a) for a in argv], **(given | self.credentials | options))  # type: ignore[call-overload]

    def start(self, argv: list[str], **options: object) -> subprocess.Popen[str]:
        """Start a command and return it once it has printed ``started``; what follows is still in its pipe."""
        process = self.popen(argv, **({"stdout": subprocess.PIPE} | options))
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        return process

    def run(self, argv: list[str], *, check: bool = False, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command as this person; output is captured, standard input is empty."""
        given = {
            "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE,
            "text": True, "errors": "surrogateescape", "timeout": 300, "cwd": self.home, "env": self.environment,
        }  # fmt: skip
        if "input" in options:
            del given["stdin"]
        done = subprocess.run([os.fspath(a) for a in argv], check=False, **(given | self.credentials | options))  # type: ignore[call-overload]
        if check and done.returncode:
            pytest.fail(f"{argv} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def vsbox(self, *arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run the command line as this person."""
        return self.run([*VSBOX, *map(str, arguments)], **options)

    def directory(self, name: str = "d") -> Path:
        """Return a new directory of this person's, below their home and outside of /tmp."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-{os.getpid()}-", dir=self.home / "t"))
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)
        return path

    def write(self, path: Path, text: str, *, mode: int = 0o644) -> Path:
        """Write a file that belongs to this person."""
        path.write_text(text)
        path.chmod(mode)
        if self.uid != os.geteuid():
            os.chown(path, self.uid, self.gid)
        return path


@dataclass(frozen=True)
class Box:
    """A box on disk and the person it belongs to."""

    root: Path
    person: Person
    backend: str
    options: tuple[str, ...] = field(default=())

    def edit_policy(self, **keys: object) -> None:
        """Set keys of its sandbox.json."""
        path = self.root / "sandbox" / "sandbox.json"
        self.person.write(path, json.dumps(json.loads(path.read_text()) | keys))

    def let_bwrap_make_the_root(self, program: str | Path) -> None:
        """Change the plan, until the policy changes: this bwrap makes namespaces and root."""
        code = (
            "import sys\nsys.path[:] = sys.argv[3].split(':')\n"
            "from pathlib import Path\nfrom vsbox.box.layout import Layout\n"
            "from vsbox.box.store import load_policy, plan_and_facts\nfrom vsbox.plan import steps\n"
            "from vsbox.plan.encode import encode\nlayout = Layout(Path(sys.argv[1]))\n"
            "plan = plan_and_facts(layout, load_policy(layout)).plan\n"
            "new = steps.Bubblewrap(sys.argv[2], 1)\n"
            "changed = tuple(new if isinstance(s, steps.Bubblewrap) else s for s in plan.steps)\n"
            "assert changed != plan.steps\nlayout.plan.write_bytes(encode(changed))\n"
        )
        self.person.run([sys.executable, "-c", code, str(self.root), str(program), ":".join(sys.path)], check=True)

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def python(self, code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run Python code in the box."""
        return self.person.run([str(self.bin / "python"), "-c", code, *arguments], **options)

    def start(self, code: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Start Python code in the box and return it once it has printed ``started``."""
        return self.person.start([str(self.bin / "python"), "-c", code, *arguments], **options)

    def exec(self, *argv: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run any command in the box."""
        return self.person.run([str(self.root / "sandbox" / "exec"), *argv], **options)
