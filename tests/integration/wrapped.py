"""Projects with an environment to wrap: made by hand, described as trees, what must go on working, stopped commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import PLAIN

if TYPE_CHECKING:
    from harness import Person

Tree = dict[str, tuple[object, ...]]
"""Every path below a directory with its description."""
Answers = dict[str, tuple[int, str, str]]
"""Status and output of every command."""

NATIVE = ("-q", "--backend", "native")
MAKERS: dict[str, tuple[str, ...]] = {
    "venv": (PLAIN, "-m", "venv", "--without-pip", "--symlinks"),
    "venv-copies": (PLAIN, "-m", "venv", "--without-pip", "--copies"),
    "venv-system": (PLAIN, "-m", "venv", "--without-pip", "--system-site-packages"),
    "virtualenv": (sys.executable, "-m", "virtualenv", "-q", "--no-periodic-update", "-p", PLAIN),
}
SECRET = "a secret beside the project"

# Run by the person, so that everything is theirs. Times are old and odd, so that a copy that forgets them shows.
FURNISH = r"""
import json, os, pathlib, shutil, sys
root, outside = map(pathlib.Path, sys.argv[1:])
site, = root.glob("lib/python3*/site-packages")
times = iter(range(1_111_111_111_000_000_001, 1_222_222_222_000_000_000, 7_000_000_007))

def write(path, text, mode=0o644):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    os.utime(path, ns=(10**18, next(times)))

def command(name, text):
    write(root / "bin" / name, f"#!{root}/bin/python\n{text}", 0o755)

def link(path, text):
    path.symlink_to(text)
    os.utime(path, ns=(10**18, next(times)), follow_symlinks=False)

write(site / "demo" / "__init__.py", "import pathlib\nDATA = (pathlib.Path(__file__).parent / 'data.txt').read_text()\n"
      "def main():\n    import sys\n    print('demo of', sys.prefix, *sys.argv[1:])\n")
write(site / "demo" / "__main__.py", "import demo\ndemo.main()\n")
write(site / "demo" / "data.txt", "data of the package", 0o444)
write(site / "demo-1.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: demo\nVersion: 1\n")
write(site / "demo-1.dist-info" / "entry_points.txt", "[console_scripts]\ndemo = demo:main\n")
write(site / "demo-1.dist-info" / "RECORD", "demo/__init__.py,,\ndemo/__main__.py,,\ndemo/data.txt,,\n"
      "../../../bin/demo,,\n../../../share/demo/shared.txt,,\n")
command("demo", "import sys\nfrom demo import main\nsys.exit(main())\n")
command("pip-tool", "import demo, sys\nprint('pip-tool of', sys.prefix)\n")
command("pipdemo", "print('pipdemo')\n")
shutil.copyfile(os.path.realpath("/bin/bash"), root / "bin" / "tool")
(root / "bin" / "tool").chmod(0o755)
write(root / "share" / "demo" / "shared.txt", "data of the prefix", 0o600)
write(site / "started.pth", "import sys; sys.started_by_pth = True\n")
write(outside / "src" / "outer.py", "NAME = 'outer'\n")
write(site / "__editable__.outer.pth", f"{outside}/src\n")
write(site / "outer-1.dist-info" / "METADATA", "Metadata-Version: 2.1\nName: outer\nVersion: 1\n")
write(site / "outer-1.dist-info" / "direct_url.json",
      json.dumps({"url": outside.as_uri(), "dir_info": {"editable": True}}))
odd = root / "share" / "odd"
write(odd / "name with\nodd signs \udcff", "odd")
write(odd / "tight", "x", 0o400)
write(odd / "open", "x", 0o777)
write(odd / ".hidden", "")
write(odd / "big", "0123456789" * 200_000)
(odd / "empty").mkdir(mode=0o700)
(odd / "sticky").mkdir()
(odd / "sticky").chmod(0o1777)
link(odd / "relative", "../demo/shared.txt")
link(odd / "dangling", "/nonexistent/target")
link(odd / "loop", "loop")
"""


@dataclass(frozen=True)
class Project:
    """A directory of a person's with an environment in it; ``outside`` lies beside it, like ``secret``."""

    root: Path
    person: Person

    @property
    def environment(self) -> Path:
        return self.root / ".venv"

    @property
    def outside(self) -> Path:
        return self.root.parent / "outside"

    @property
    def secret(self) -> Path:
        return self.root.parent / "secret.txt"

    @property
    def site(self) -> Path:
        (found,) = self.environment.glob("lib/python3*/site-packages")
        return found

    @property
    def policy(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.environment / "sandbox" / "sandbox.json").read_text())
        return found

    def run(self, *argv: object, **options: object) -> subprocess.CompletedProcess[str]:
        """Run a command in the project; a first word without a slash is one of the environment."""
        name, *rest = map(str, argv)
        program = name if "/" in name else str(self.environment / "bin" / name)
        given: dict[str, Any] = {"cwd": self.root} | options
        return self.person.run([program, *rest], **given)

    def python(self, code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return self.run("python", "-c", code, *arguments)

    def wrap(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        return self.person.vsbox("wrap", *words, **({"cwd": self.root} | options))

    def unwrap(self, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
        return self.person.vsbox("unwrap", *words, **({"cwd": self.root} | options))

    def names(self) -> list[str]:
        """What is in the project: a staging directory that was left over would show."""
        return sorted(os.listdir(self.root))


def do(person: Person, *argv: object) -> subprocess.CompletedProcess[str]:
    """Run a command as a person; it must succeed."""
    return person.run(list(map(str, argv)), check=True)


def make_project(person: Person, place: Path, kind: str = "venv", maker: tuple[str, ...] = ()) -> Project:
    """Make a furnished environment in ``place``; ``maker`` is a command for it, the directory comes last."""
    project = Project(place / "project", person)
    do(person, "mkdir", project.root, project.outside)
    person.write(project.secret, SECRET)
    person.write(project.root / "pyproject.toml", "[project]\nname = 'demo'\nversion = '1'\n")
    do(person, *(maker or MAKERS[kind]), project.environment)
    do(person, PLAIN, "-c", FURNISH, project.environment, project.outside)
    return project


def make_wheel(person: Person, directory: Path) -> Path:
    """Make a wheel by hand."""
    path = directory / "linked-1-py3-none-any.whl"
    files = {
        "linked.py": "VALUE = 1\n",
        "linked-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: linked\nVersion: 1\n",
        "linked-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "linked-1.dist-info/RECORD": "linked.py,,\n",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    os.chown(path, person.uid, person.gid)
    return path


def describe(path: Path) -> tuple[object, ...]:
    """Return all of a file that must not change: type, mode, owner, time (of files and links), content."""
    status = path.lstat()
    who = (stat.S_IFMT(status.st_mode), oct(stat.S_IMODE(status.st_mode)), status.st_uid, status.st_gid)
    if path.is_symlink():
        return (*who, status.st_mtime_ns, os.readlink(path))
    if path.is_file():
        return (*who, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
    return who


def tree(root: Path) -> Tree:
    """Return every path below a directory with its description; links are not followed."""
    found = {".": describe(root)}
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(directory, name)
            found[str(path.relative_to(root))] = describe(path)
    return found


def differences(before: Tree, after: Tree) -> dict[str, object]:
    """Return what changed between two trees, path by path."""
    return {
        path: (before.get(path), after.get(path))
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }


INSTALLED = """
import outer, sys
from importlib.metadata import entry_points, version
print(outer.__file__, sys.started_by_pth, open(sys.prefix + "/share/demo/shared.txt").read())
print(version("demo"), version("outer"), [e.value for e in entry_points(group="console_scripts") if e.name == "demo"])
"""
CHILDREN = """
import os, subprocess, sys
subprocess.run([sys.executable, "-m", "demo"])
os.execv(sys.prefix + "/bin/demo", ["demo", "x"])
"""
COMMANDS: dict[str, tuple[str, ...]] = {
    "python": ("python", "-c", "import sys; print(sys.prefix, sys.executable, sys.base_prefix, sys.flags, sys.path)"),
    "python3 -I": ("python3", "-I", "-c", "import sys, demo; print(sys.prefix, demo.__file__, demo.DATA)"),
    "console script": ("demo", "with", "two words"),
    "module": ("python", "-m", "demo", "argument"),
    "a tool that is an ELF file": ("tool", "-c", "echo from $0 to $1", "here", "there"),
    "a tool called like pip": ("pip-tool",),
    "another tool called like pip": ("pipdemo",),
    "editable install, .pth files, data files, metadata": ("python", "-c", INSTALLED),
    "children": ("python", "-c", CHILDREN),
}
"""What must print the same before and after."""


def answers(project: Project) -> Answers:
    """Run every command; return status and output of each."""
    found = {}
    for name, argv in COMMANDS.items():
        done = project.run(*argv)
        found[name] = (done.returncode, done.stdout, done.stderr)
    return found


READ = "import sys; print(open(sys.argv[1]).read())"


def reads_the_secret(project: Project) -> bool:
    """Tell whether code of the environment reads what lies beside the project: it does unless it is confined."""
    return project.python(READ, project.secret).stdout == f"{SECRET}\n"


def is_original(project: Project, before: Tree) -> bool:
    """Tell whether the environment is as it was, and works."""
    return not differences(before, tree(project.environment)) and reads_the_secret(project)


def is_working_box(project: Project) -> bool:
    """Tell whether the environment is a box with all that belongs to one, and works confined."""
    shown = project.run("tool", "-c", 'echo tool; exec "$0"', project.environment / "bin" / "demo").stdout
    has_policy = (project.environment / "sandbox" / "sandbox.json").is_file()
    return has_policy and shown.startswith("tool\ndemo of ") and not reads_the_secret(project)


# Runs vsbox, sends itself a signal at one of its events on disk after it has begun, and tells how many there were.
STEPWISE = """
import os, sys
number, last, *words = sys.argv[1:]
left, begun = int(last), False
EVENTS = {"os.mkdir", "os.link", "os.symlink", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime",
          "shutil.copyfile", "shutil.rmtree", "ctypes.dlsym", "ctypes.get_errno", "tempfile.mkstemp",
          "subprocess.Popen", "fcntl.flock"}

def count(event, arguments):
    global begun, left
    begun = begun or (event == "os.mkdir" and ".vsbox-" in os.fsdecode(arguments[0]))
    if begun and event in EVENTS:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), int(number))

sys.addaudithook(count)
sys.argv = ["vsbox", *words]
from vsbox.cli import main
main()
sys.stdout.write("\\n%d" % (int(last) - left))
"""


WRITE_ANY = """
import sys
for path in sys.argv[1:]:
    try:
        open(path, "r+")
        print("written")
    except OSError:
        pass
"""


class Trial:
    """Stop a command again and again; each time see that nothing is broken, and that the same command completes."""

    def __init__(self, project: Project, command: str) -> None:
        self.project = project
        self.words = (command, *NATIVE) if command == "wrap" else (command,)
        self.before, self.names = tree(project.environment), project.names()
        self.problems: list[str] = []

    def prepare(self) -> None:
        """Make what the command starts from."""
        if self.words[0] == "unwrap":
            assert self.project.wrap(*NATIVE).returncode == 0

    def note(self, when: str, sound: bool, what: str) -> None:
        if not sound:
            self.problems.append(f"{when}: {what}")

    def left_over(self) -> list[Path]:
        return [self.project.root / name for name in self.project.names() if name not in self.names]

    def look(self, when: str) -> None:
        """See what is there now, run the command again, and come back to where it began."""
        project, unwraps = self.project, self.words[0] == "unwrap"
        was_plain = is_original(project, self.before)
        self.note(when, was_plain or is_working_box(project), "neither the old nor the new, or it does not work")
        again = project.person.vsbox(*self.words, cwd=project.root)
        # killed when all was done but for tidying up, unwrap may say so or find nothing to unwrap
        statuses = (0, 125) if unwraps and was_plain else (0,)
        self.note(when, again.returncode in statuses, f"again: {again.returncode} {again.stderr}")
        self.note(when, unwraps or is_working_box(project), "again: no working box")
        left = self.left_over()
        self.note(when, not left, f"left over: {[path.name for path in left]}")
        if not unwraps:
            project.unwrap()
        for path in left:
            shutil.rmtree(path)
        assert is_original(project, self.before), f"{when}: it is not as it was\n{self.problems}"

    def shared_and_writable(self) -> bool:
        """Tell whether code inside, to which packages are read-only, writes one by a second name outside the box."""
        ours = {path.stat().st_ino for path in self.project.site.rglob("*") if path.is_file()}
        left = [path for top in self.left_over() for path in top.rglob("*") if path.is_file() and not path.is_symlink()]
        shared = [path for path in left if path.stat().st_ino in ours]
        return bool(shared) and "written" in self.project.python(WRITE_ANY, *shared).stdout

    def measure(self) -> tuple[float, int]:
        """Return how long the command takes when nothing stops it, and in how many steps it goes."""
        self.prepare()
        begin = time.monotonic()
        done = self.step(signal.SIGKILL, 10**9)
        taken = time.monotonic() - begin
        assert done.returncode == 0, done.stderr
        if self.words[0] == "wrap":
            assert self.project.unwrap().returncode == 0
        return taken, int(done.stdout.split()[-1])

    def step(self, number: int, last: int) -> subprocess.CompletedProcess[str]:
        """Run the command with a signal to itself at one of its steps."""
        program = [sys.executable, "-c", STEPWISE, str(int(number)), str(last), *self.words]
        return self.project.person.run(program, cwd=self.project.root)
