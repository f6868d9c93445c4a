"""Projects with a wrapped environment, and what code inside tries so that the host executes something in them."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import PLAIN, Box, Person

GIT_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@b",
}  # fmt: skip
SOURCES = {"pyproject.toml": "", ".gitignore": "__pycache__/\n", "docs/a.txt": "a\n", "demo/__init__.py": "X = 1\n"}

PRELUDE = """
import os, sys, shutil
canary = sys.argv[1]
def write(path, text="", mode=0o644):
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)
def repository(path, worktree=""):
    for name in ("objects", "refs/heads"):
        os.makedirs(path + "/" + name)
    write(path + "/HEAD", "ref: refs/heads/main\\n")
    config = '[core]\\nrepositoryformatversion = 0\\nbare = false\\nfsmonitor = "touch ' + canary + '; false"\\n'
    write(path + "/config", config + ("worktree = " + worktree + "\\n" if worktree else ""))
"""
"""What attacks have at hand: ``repository`` makes one that runs a command at the next ``git status``."""


@dataclass(frozen=True)
class Project:
    """A directory with a repository and, unless it is a control, a wrapped environment."""

    root: Path
    person: Person
    box: Box | None = None

    @property
    def canary(self) -> Path:
        """The file that a successful attack makes, outside of what code inside may write."""
        return self.root.with_name(f"{self.root.name}-canary")

    @property
    def python(self) -> str:
        return str(self.box.bin / "python") if self.box else PLAIN

    @property
    def environment(self) -> Path:
        assert self.box
        return self.box.root

    @property
    def sandbox(self) -> Path:
        return self.environment / "sandbox"

    def attack(self, code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        """Run an attack as code inside, or unconfined where this is a control."""
        argv = [self.python, "-c", PRELUDE + code, str(self.canary), *arguments]
        return self.person.run(argv, **{"cwd": self.root, **options})  # type: ignore[arg-type]

    def start(self, code: str, **options: object) -> subprocess.Popen[str]:
        """Start an attack that prints ``started`` and then waits for lines on its standard input."""
        argv = [self.python, "-c", PRELUDE + code, str(self.canary)]
        given = {"cwd": self.root, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return self.person.start(argv, **(given | options))

    def git(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the host's git."""
        environment = self.person.environment | GIT_ENVIRONMENT
        return self.person.run(["git", *arguments], cwd=cwd or self.root, env=environment)

    def executes(self, place: str = ".") -> bool:
        """Tell whether the host's ``git status`` runs the attacker's command in a place."""
        self.canary.unlink(missing_ok=True)
        below = self.root / place
        if not os.path.isdir(below):
            return False
        line = 'import os, sys; os.chdir(sys.argv[1]); [os.chdir(part) for part in sys.argv[2].split("/")]; '
        line += 'os.execvp("git", ["git", "status", "-s"])'
        environment = self.person.environment | GIT_ENVIRONMENT
        self.person.run([PLAIN, "-c", line, str(self.root), place], env=environment)
        return self.canary.exists()

    def write(self, name: str, text: str = "") -> Path:
        """Write a file as the project's owner, with the directories that it takes."""
        path = self.root / name
        for parent in reversed(path.relative_to(self.root).parents):
            if not (self.root / parent).exists():
                (self.root / parent).mkdir()
                os.chown(self.root / parent, self.person.uid, self.person.gid)
        return self.person.write(path, text)

    def quarantined(self) -> list[Path]:
        """Return what quarantine holds: for each run, the things at the ends of the ways to them."""
        return sorted((self.sandbox / "quarantine").glob("*/*"))

    def reset(self) -> None:
        """Make it what it was before any attack."""
        subprocess.run(["chmod", "-R", "u+rwX", self.root], check=False)
        for name in ("quarantine", "runs"):
            if self.box:
                shutil.rmtree(self.sandbox / name, ignore_errors=True)
        others = [path for path in self.root.iterdir() if path.name not in {".venv", ".git"}]
        subprocess.run(["rm", "-rf", "--", *others], check=True)
        self.git("checkout", "-q", "--", ".")
        self.canary.unlink(missing_ok=True)


def make_control(person: Person) -> Project:
    """Return a project without an environment: what an attack does where nobody confines it."""
    root = person.directory("wrapped") / "project"
    root.mkdir()
    os.chown(root, person.uid, person.gid)
    project = Project(root, person)
    for name, text in SOURCES.items():
        project.write(name, text)
    assert project.git("init", "-q").returncode == 0
    project.git("add", "-A")
    assert project.git("commit", "-qm", "x").returncode == 0
    return project


def shared(projects: dict[tuple[int, str], Project], person: Person, backend: str) -> Iterator[Project]:
    """Lend out the project of a person and a backend, made when first asked for; ``plain`` is a control."""
    key = (person.uid, backend)
    if key not in projects:
        project = make_control(person)
        projects[key] = project if backend == "plain" else wrap(project, backend)
    yield projects[key]
    projects[key].reset()


def remove(projects: Iterable[Project]) -> None:
    """Remove projects with what is beside them."""
    for project in projects:
        project.reset()
        shutil.rmtree(project.root.parent)


def make_environment(person: Person, place: Path) -> Path:
    """Make a virtual environment without pip."""
    person.run([PLAIN, "-m", "venv", "--without-pip", str(place)], check=True)
    return place


def wrap(project: Project, backend: str, environment: str = ".venv", *options: str) -> Project:
    """Return the project with an environment in it that is wrapped."""
    root = project.root / environment
    if not root.exists():
        make_environment(project.person, root)
    answer = project.person.vsbox("wrap", root, "--backend", backend, *options, cwd=project.root)
    assert answer.returncode == 0, answer.stderr
    return Project(project.root, project.person, Box(root, project.person, backend))


def names_below(root: Path) -> Iterator[Path]:
    """Return every entry below a directory apart from its ``.venv``, as root could list them."""
    for directory, directories, files in os.walk(root):
        if Path(directory) == root:
            directories[:] = [name for name in directories if name != ".venv"]
        for name in (*directories, *files):
            yield Path(directory) / name


def fingerprint(root: Path) -> dict[str, tuple[str, int, str]]:
    """Return name, kind, mode and content of everything below a directory apart from its ``.venv``."""
    found = {}
    for path in names_below(root):
        status = path.lstat()
        text = os.readlink(path) if path.is_symlink() else ""
        if stat.S_ISREG(status.st_mode):
            text = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(root))] = (stat.filemode(status.st_mode), status.st_uid, text)
    return found


# ---- what git executes: the code, and where to stand ----

NESTED = "os.mkdir('docs/new'); repository('docs/new/.git')"
STUBBORN_BYTECODE = """
repository('docs/z/.git')
for path in [f'docs/{n}/__pycache__/x' for n in 'abcdef']:
    os.makedirs(path + '/y')
    os.chmod(path, 0o555)
"""
GIT_ATTACKS = {
    "nested": (NESTED, "docs/new"),
    "in an existing directory": ("repository('docs/.git')", "docs"),
    "changed where it is": ("repository('docs/r'); shutil.copy('docs/r/config', '.git/config')", "."),
    "a file that names a directory": ("repository('docs/data'); write('docs/.git', 'gitdir: data')", "docs"),
    "a link": ("repository('docs/data'); os.symlink('data', 'docs/.git')", "docs"),
    "renamed into place": (
        "repository('docs/x/git'); os.rename('docs/x/git', 'docs/x/.git'); os.rename('docs/x', 'docs/y')", "docs/y"),
    "bare": ("repository('docs/bare', '..')", "docs/bare"),
    "bare in an existing directory": (
        "repository('docs/r', '.'); [os.rename('docs/r/' + n, 'docs/' + n) for n in os.listdir('docs/r')]", "docs"),
    "in a directory that nobody lists": (NESTED + "; os.chmod('docs/new', 0o311)", "docs/new"),
    "below a directory that nobody lists": (
        "repository('docs/x/new/.git'); os.chmod('docs/x', 0o311)", "docs/x/new"),
    "in a project that nobody lists": ("repository('docs/.git'); os.chmod('.', 0o311)", "docs"),
    "itself read-only": (NESTED + "; os.chmod('docs/new/.git', 0o555)", "docs/new"),
    "in a read-only directory": (NESTED + "; os.chmod('docs/new', 0o555)", "docs/new"),
    "beside what cannot be moved": (
        "[(os.makedirs(f'docs/{n}/.git'), os.chmod(f'docs/{n}', 0o555)) for n in range(9)]; repository('docs/z/.git')",
        "docs/z"),
    "beside bytecode that cannot be removed": (STUBBORN_BYTECODE, "docs/z"),
    "deeper than anybody looks": ("os.makedirs('docs' + '/d' * 120); repository('docs' + '/d' * 120 + '/.git')",
                                  "docs" + "/d" * 120),
    "in bytecode": ("repository('docs/__pycache__/.git')", "docs/__pycache__"),
    "below a name with a newline": ("os.mkdir('docs/a\\nb'); repository('docs/a\\nb/.git')", "docs/a\nb"),
    "below a name that is no text": (
        "os.mkdir(b'docs/\\xff'); os.chdir(b'docs/\\xff'); repository('.git')", "docs/\udcff"),
}  # fmt: skip
LONG = """
name = "d" * 200
os.chdir("docs")
while len(os.getcwd()) + 201 + len("/.git/refs/heads") < 4090:
    os.mkdir(name); os.chdir(name)
rest = 4090 - len(os.getcwd()) - len("/.git/refs/heads") - 1
if rest > 0:
    os.mkdir("e" * rest); os.chdir("e" * rest)
repository(".git"); print(os.path.relpath(os.getcwd(), sys.argv[2]))
"""

# ---- names, what is there already, bytecode ----

KINDS = {
    "fifo": "os.mkfifo('docs/new/.git')",
    "socket": "import socket; s = socket.socket(socket.AF_UNIX); s.bind('docs/new/.git')",
    "dangling link": "os.symlink('nowhere', 'docs/new/.git')",
    "link to itself": "os.symlink('.git', 'docs/new/.git')",
    "hard link": "os.link('docs/a.txt', 'docs/new/.git')",
    "unreadable directory": "os.mkdir('docs/new/.git', 0)",
    "unreadable file": "write('docs/new/.git', '', 0)",
}
TRY = """
import json
done = []
for name, path in json.loads(sys.argv[2]):
    other = os.path.dirname(path) + "/other" if "/" in path else "docs/other"
    tries = {
        "write": lambda: write(path, "x") if not os.path.isdir(path) else write(path + "/x", "x"),
        "append": lambda: open(path, "a").close(),
        "truncate": lambda: os.truncate(path, 0),
        "rename away": lambda: os.rename(path, other),
        "rename over": lambda: (write(other, "x"), os.rename(other, path)),
        "unlink": lambda: os.unlink(path),
        "remove": lambda: shutil.rmtree(path),
        "hard link": lambda: os.link(path, "docs/hard"),
        "mode": lambda: os.chmod(path, 0o777),
        "times": lambda: os.utime(path, (1, 1)),
        "move the parent": lambda: os.rename(os.path.dirname(path), "docs/elsewhere"),
        "exchange": lambda: (os.makedirs("docs/swap", exist_ok=True), exchange("docs/swap", path)),
        "through the descriptor": lambda: os.close(os.open("/proc/self/fd/%d" % os.open(path, os.O_PATH), os.O_RDWR)),
    }
    def exchange(one, two):
        if __import__("ctypes").CDLL(None).renameat2(-100, one.encode(), -100, two.encode(), 2) != 0:
            raise OSError
    try:
        tries[name]()
    except OSError:
        continue
    done.append((name, path))
print(json.dumps(done))
"""
PRESENT = (".envrc", "docs/.env", "docs/sub/.vscode/tasks.json", "docs/sub/repo/.git/config", "docs/sub/env/bin/python")
WAYS = ("hard link", "mode", "times", "append", "write", "truncate", "through the descriptor", "rename over",
        "rename away", "unlink", "exchange", "move the parent")  # fmt: skip
POISON = """
import importlib.util, marshal
code = marshal.dumps(compile("open(%r, 'w')" % canary, "x", "exec"))
header = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # PEP 552: hash-based, unchecked
place = importlib.util.cache_from_source("demo/__init__.py", optimization="")
place = "demo/__pycache__/" + os.path.basename(place)
os.makedirs("demo/__pycache__", exist_ok=True)
with open(place, "wb") as file:
    file.write(header + code)
"""
BYTECODE = {
    "written": POISON,
    "in a directory that nobody lists": POISON + "os.chmod('demo/__pycache__', 0o311)",
    "in a read-only directory": POISON + "os.chmod('demo/__pycache__', 0o555)",
    "below a read-only directory": POISON + "os.chmod('demo', 0o555)",
    "renamed into place": POISON + "os.rename('demo/__pycache__', 'demo/c'); os.rename('demo/c', 'demo/__pycache__')",
    "with old times": POISON + "os.utime(place, (1, 1)); os.utime('demo/__pycache__', (1, 1))",
    "behind a link": POISON + "os.rename('demo/__pycache__', 'docs/c'); os.symlink('../docs/c', 'demo/__pycache__')",
    "beside a directory that cannot be removed": POISON
    + "os.makedirs('demo/__pycache__/x/y'); os.chmod('demo/__pycache__/x', 0o555)",
}  # fmt: skip
