"""Law 1: nothing that code inside can write is executed, imported, sourced or believed outside."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

VSBOX = Path(sys.executable).with_name("vsbox")
ATTACK_INTERNALS = r"""
import os, shutil, sys
root = sys.argv[1]
names = [d + "/" + n for d in ("bin", "sandbox") for n in (
    "python", "pip", "activate", "activate.fish", "activate.csh", "activate_sandboxed", "Activate.ps1", "shell", "new",
    "sandbox.json", "plan", "plan.new", "receipt.json", "summary.txt", "interpreter.json", "exec", "verify", "lock")]
names += ["pyvenv.cfg", "lib", ".gitignore", "sandbox", *sys.argv[2:]]
actions = {
    "overwrite": lambda p: open(p, "w").write("planted"),
    "chmod": lambda p: os.chmod(p, 0o777),
    "utime": lambda p: os.utime(p, (1, 1)),
    "truncate": lambda p: os.truncate(p, 0),
    "rename": lambda p: os.rename(p, p + ".moved"),
    "replace": lambda p: (open(root + "/home/planted", "w").close(), os.replace(root + "/home/planted", p)),
    "remove": lambda p: shutil.rmtree(p) if os.path.isdir(p) and not os.path.islink(p) else os.unlink(p),
    "link": lambda p: os.symlink("/etc/passwd", p),
}
for name in names:
    for action in actions.values():
        try:
            action(root + "/" + name)
        except OSError:
            pass
print("end")
"""


def content_of(path):
    if path.is_symlink():
        return str(path.readlink())
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def state_of(root):
    """What the outside half executes, sources or believes: content and kind of every entry but inside and home."""
    state = {}
    for directory, directories, files in os.walk(root):
        entries = [*files, *directories]
        if directory == str(root):
            directories[:] = [name for name in directories if name in {"bin", "sandbox"}]
        for name in entries:
            path = Path(directory, name)
            state[str(path.relative_to(root))] = (path.lstat().st_mode, content_of(path))
    return state


REMADE = {"sandbox/plan", "sandbox/receipt.json"}
"""With namespaces ``bin`` is the environment's own inside: launchers follow its names and the plan notes its time."""


@pytest.mark.parametrize("options", [["-I", "-S", "-E"]])
def test_internals_cannot_be_changed(person, backend, make_box, options):
    box = make_box(person, backend, fresh=True)
    before = state_of(box.root)
    assert {"bin/python", "bin/activate", "sandbox/plan", "pyvenv.cfg", "lib"} <= before.keys()
    whole = ["bin"] if backend == "landlock" else []
    done = person.run([box.bin / "python", *options, "-c", ATTACK_INTERNALS, box.root, *whole])
    assert done.stdout == "end\n", done.stderr
    after = state_of(box.root)
    for volatile in ("sandbox/plan", "sandbox", "bin"):
        assert after[volatile][0] == before[volatile][0]
    assert {name for name in before if after.get(name) != before[name]} <= REMADE
    found, _ = launchers(box)
    assert {name for name in after if name not in before} <= {"sandbox/lock", *(f"bin/{name}" for name in found)}


def test_the_attack_on_internals_works_outside(person, backend, make_box):
    box = make_box(person, backend, fresh=True)
    before = state_of(box.root)
    person.run([box.root / "inside" / "bin" / "python", "-c", ATTACK_INTERNALS, str(box.root)], check=True)
    assert state_of(box.root) != before


NAMES = {
    "head", "grep", "git", "sudo", "bwrap", "vsbox", "ls", "sh", "env", "activate", "deactivate", "activate.fish",
    "Activate.ps1", "two words", "two\nlines", "-dash", ".hidden", "\x1b[31mred", "quote'\"", "$(id)", "a" * 200,
    "harmless-tool",
}  # fmt: skip
PLANT = """
import os, sys
names = eval(sys.argv[1])
where = os.path.join(sys.prefix, "bin")
for name in [*map(os.fsencode, names), b"not-utf8-\\xff\\xfe"]:
    path = os.path.join(os.fsencode(where), name)
    if os.path.lexists(path): os.unlink(path)
    with open(path, "w") as file:
        file.write("#!/bin/sh\\n# wrapped by vsbox\\necho PLANTED\\n")
    os.chmod(path, 0o755)
os.mkdir(where + "/a-directory")
os.symlink("/bin/sh", where + "/link-to-sh")
os.symlink("/nonexistent", where + "/dangling")
os.symlink("../../bin", where + "/link-to-directory")
"""


def launchers(box):
    """Names in bin that are the launcher itself, and the others."""
    launcher = (box.root / "sandbox" / "exec").stat().st_ino
    names = {entry.name: entry.stat(follow_symlinks=False).st_ino for entry in os.scandir(box.bin)}
    return {name for name, inode in names.items() if inode == launcher}, {n for n, i in names.items() if i != launcher}


def test_planted_names(person, backend, make_box):
    box = make_box(person, backend, fresh=True)
    _, others = launchers(box)
    shown = {name: (box.bin / name).read_bytes() for name in others}
    search = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    fake = person.directory("escape-path")
    for name in ("git", "sudo", "bwrap"):
        person.write(fake / name, "#!/bin/sh\n", mode=0o755)
    environment = person.environment | {"PATH": f"{fake}:{search['PATH']}"}
    done = box.python(PLANT, repr(NAMES), env=environment)
    assert done.returncode == 0, done.stderr
    found, rest = launchers(box)
    assert found & (NAMES | {"a-directory", "not-utf8-\udcff\udcfe"}) == {"harmless-tool"}
    assert {name: (box.bin / name).read_bytes() for name in rest} == shown
    assert {"python", "pip", "shell"} <= found
    for name in ("head", "git", "sudo"):
        assert repr(name) in done.stderr
    assert "\x1b" not in done.stderr
    assert person.run([box.bin / "harmless-tool"]).stdout == "PLANTED\n"
    assert box.python("print(6 * 7)", env=environment).stdout == "42\n"


def test_planted_names_are_found_first_in_a_plain_environment(person, backend, make_box):
    box = make_box(person, backend, fresh=True)
    plain = box.root / "inside" / "bin"
    person.write(plain / "head", "#!/bin/sh\necho PLANTED\n", mode=0o755)
    assert person.run(["/bin/sh", "-c", "head"], env={"PATH": f"{plain}:/usr/bin:/bin"}).stdout == "PLANTED\n"
    box.python("pass")
    assert person.run(["/bin/sh", "-c", "echo 1 | head"], env={"PATH": f"{box.bin}:/usr/bin:/bin"}).stdout == "1\n"


REPLACE_BIN = """
import os, sys
where = os.path.join(sys.prefix, "bin")
os.rename(where, where + ".old")
os.symlink(sys.argv[1], where)
"""


def test_bin_replaced_by_a_link_to_the_host(person, backend, make_box):
    box = make_box(person, backend, fresh=True)
    host = person.directory("escape-host")
    for name in ("host-tool", "python"):
        person.write(host / name, "#!/bin/sh\necho HOST\n", mode=0o755)
    assert box.python(REPLACE_BIN, str(host)).returncode == 0
    for command in ([box.bin / "python", "-c", "pass"], [box.root / "sandbox" / "exec", str(host / "host-tool")]):
        assert "HOST" not in person.run(command).stdout
    found, _ = launchers(box)
    assert "host-tool" not in found


PLANTS_OF_HOME = {
    ".config/pip/pip.conf": "[global]\nindex-url = file:///etc\nfind-links = /etc\n",
    ".pip/pip.conf": "[global]\nindex-url = file:///etc\n",
    ".bashrc": 'touch "$MARK"\n', ".profile": 'touch "$MARK"\n', ".env": "LD_PRELOAD=/x\n",
    ".pydistutils.cfg": "[install]\n",
}  # fmt: skip
MODULES = ("vsbox", "json", "msgspec", "click", "encodings", "sitecustomize", "os", "pip", "virtualenv")


def plant(person, directory, mark):
    """Modules, hooks and settings that run or count for whoever is careless."""
    code = f"open({str(mark)!r}, 'w').close()\n"
    for name in MODULES:
        (directory / name).mkdir(parents=True, exist_ok=True)
        person.write(directory / name / "__init__.py", code)
    for name in ("pyvenv.cfg", "setup.cfg", "pyproject.toml", "python", "vsbox.py"):
        person.write(directory / name, code)
    person.write(directory / "planted.pth", f"import os; {code}")


def test_the_outside_half_ignores_what_was_planted(person, backend, make_box):
    project = person.directory("escape-project")
    box = make_box(person, backend, "--allow", str(project), fresh=True)
    mark = project / "mark"
    site = next((box.root / "inside" / "lib").glob("python*/site-packages"))
    for place in (project, site, box.root / "inside"):
        plant(person, place, mark)
    for name, text in PLANTS_OF_HOME.items():
        path = box.root / "home" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        person.write(path, text)
    control = person.run([sys.executable, "-c", "import msgspec"], cwd=project)
    assert mark.exists(), control.stderr
    mark.unlink()
    policy = box.root / "sandbox" / "sandbox.json"
    environment = person.environment | {"MARK": str(mark)}
    os.utime(policy, (1, 1))
    outside = (
        [box.root / "sandbox" / "exec", "/bin/true"], [VSBOX, "sync", box.root], [VSBOX, "--version"],
        [VSBOX, "allow", "--read", box.root, project],
    )  # fmt: skip
    for command in outside:
        done = person.run(command, cwd=project, env=environment)
        assert not mark.exists(), (command, done.stderr)
    person.run(["/bin/sh", "-c", f". {box.bin}/activate && deactivate"], cwd=project, env=environment, check=True)
    assert not mark.exists()
    assert "file:///etc" not in (box.root / "sandbox" / "plan").read_bytes().decode("latin-1")


def test_a_changed_bin_keeps_the_policy(canaries, person, backend, make_box):
    """HOLES 19: what was asked for when the box was made still holds after an install."""
    outside = canaries.directory()
    box = make_box(person, backend, "--network", "none", "--allow-read", str(outside), fresh=True)
    policy = (box.root / "sandbox" / "sandbox.json").read_bytes()
    box.python("import os, sys; open(os.path.join(sys.prefix, 'bin', 'installed-tool'), 'w').close()")
    assert (box.bin / "installed-tool").exists()
    assert (box.root / "sandbox" / "sandbox.json").read_bytes() == policy
    code = (
        "import socket, sys; print(open(sys.argv[1]).read())\n"
        "socket.create_connection(('127.0.0.1', int(sys.argv[2])))"
    )
    done = box.python(code, str(outside / "secret"), str(canaries.facts["tcp"]))
    assert done.stdout == f"{canaries.mark}\n"
    assert ("PermissionError" if backend == "landlock" else "ConnectionRefusedError") in done.stderr


def test_a_planted_cache_is_not_written_beside_readable_sources(person, backend, make_box):
    """HOLES 6: bytecode beside sources that are only readable."""
    project = person.directory("escape-project")
    person.write(project / "module.py", "x = 1\n")
    box = make_box(person, backend)
    done = box.python("import sys; sys.path.insert(0, '.'); import module; print(module.x)", cwd=project)
    assert done.stdout == "1\n", done.stderr
    assert sorted(path.name for path in project.iterdir()) == ["module.py"]
    person.run([sys.executable, "-c", "import sys; sys.path.insert(0, '.'); import module"], cwd=project, check=True)
    shutil.rmtree(project / "__pycache__")
