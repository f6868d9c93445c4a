"""No power inside: capabilities, privileges, terminal, environment, standard streams."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import sys
from pathlib import Path

import pytest

STATUS = """
import contextlib
import json
fields = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
print(json.dumps({n: int(fields[n], 16) for n in names} | {n: int(fields[n]) for n in ("NoNewPrivs", "Seccomp")}))
"""


def status_of(person, python, *options):
    return json.loads(person.run([python, *options, "-c", STATUS], check=True).stdout)


def test_capabilities_and_privileges(box):
    outside = status_of(box.person, box.root / "inside" / "bin" / "python")
    assert outside["CapBnd"]
    assert outside["NoNewPrivs"] == outside["Seccomp"] == 0
    if box.person.uid == 0:
        assert outside["CapEff"]
    for options in ([], ["-I", "-S", "-E"]):
        inside = status_of(box.person, box.bin / "python", *options)
        # Without namespaces an ordinary user cannot empty the bounding set; no_new_privs makes it moot.
        bound = inside.pop("CapBnd")
        assert bound == 0 or (box.backend == "landlock" and box.person.uid != 0)
        assert inside == {"CapInh": 0, "CapPrm": 0, "CapEff": 0, "CapAmb": 0, "NoNewPrivs": 1, "Seccomp": 2}


def test_a_set_uid_program_gives_nothing(person, backend, make_box):
    """A set-uid root program that an administrator left in a granted directory."""
    place = person.directory("escape-setuid")
    program = place / "id"
    program.write_bytes(Path("/usr/bin/id").read_bytes())
    if os.geteuid() == 0:
        os.chown(program, 0, 0)
    program.chmod(0o4755)
    if os.geteuid() == 0:  # the control; an ordinary user can only make it set-uid to themselves
        assert person.run([program, "-u"]).stdout == "0\n"
    box = make_box(person, backend, "--allow-read", str(place))
    assert box.exec(str(program), "-u").stdout == f"{person.uid}\n"


INJECT = """
import fcntl, os, sys, termios
for request in (termios.TIOCSTI, termios.TIOCSTI | 1 << 32, 0x541C):
    for byte in b"echo INJECTED\\n":
        try:
            import ctypes
            ctypes.CDLL(None).ioctl(0, ctypes.c_ulong(request), ctypes.byref(ctypes.c_char(byte)))
        except OSError:
            pass
print("end")
"""
ON_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def drain(master):
    """What the terminal shows, with what is typed into it echoed."""
    text = b""
    with contextlib.suppress(OSError):
        while select.select([master], [], [], 0.3)[0]:
            text += os.read(master, 4096)
    return text


def inject(person, python):
    master, terminal = pty.openpty()
    os.chown(os.ttyname(terminal), person.uid, person.gid)
    argv = [sys.executable, "-c", ON_TERMINAL, python, "-c", INJECT]
    process = person.popen(argv, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True)
    process.wait(timeout=60)
    shown = drain(master)
    os.close(terminal)
    os.close(master)
    assert b"end" in shown
    return b"INJECTED" in shown


def test_nothing_is_typed_into_the_terminal(box):
    if box.person.uid == 0:
        assert inject(box.person, box.root / "inside" / "bin" / "python")
    assert not inject(box.person, box.bin / "python")


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "s3", "GITHUB_TOKEN": "s3", "SSH_AUTH_SOCK": "/s3", "DBUS_SESSION_BUS_ADDRESS": "s3",
    "DISPLAY": "s3", "DOCKER_HOST": "s3", "KUBECONFIG": "s3", "PYTHONSTARTUP": "/s3", "BASH_ENV": "/s3", "ENV": "/s3",
    "LD_LIBRARY_PATH": "/s3", "LD_AUDIT": "/s3", "LD_PRELOAD": "/s3", "GCONV_PATH": "/s3", "XDG_RUNTIME_DIR": "/s3",
    "PYTHONHOME": "/s3", "TWINE_PASSWORD": "s3", "_": "s3", "BASH_FUNC_ls%%": "() { echo s3; }",
}  # fmt: skip


@pytest.mark.parametrize("options", [[], ["-I", "-S", "-E"]])
def test_environment_is_an_allow_list(box, options):
    environment = box.person.environment | SECRETS
    code = "import os; print(sorted(n for n, v in os.environ.items() if 's3' in v))"
    done = box.person.run([box.bin / "python", *options, "-c", code], env=environment, check=True)
    assert done.stdout == "[]\n"
    shown = box.person.run([box.root / "sandbox" / "exec", "/usr/bin/env"], env=environment, check=True).stdout
    assert "s3" not in shown
    assert "PATH=" in shown
    control = box.person.run(["/usr/bin/env"], env={"GITHUB_TOKEN": "s3"}).stdout
    assert "s3" in control


def test_variables_of_python_change_nothing(canaries, box):
    outside = canaries.directory()
    given = {"PYTHONHOME": "/nonexistent", "PYTHONPATH": str(outside), "PYTHONINSPECT": ""}
    environment = box.person.environment | given
    done = box.python("print(open(__import__('sys').argv[1]).read())", str(outside / "secret"), env=environment)
    assert done.returncode == 1
    assert ("PermissionError" if box.backend == "landlock" else "FileNotFoundError") in done.stderr


REOPEN = "import os, sys; os.write(os.open(sys.argv[1], os.O_WRONLY), b'CHANGED')"


@pytest.mark.parametrize("name", ["/proc/self/fd/0", "/dev/stdin", "/dev/fd/0"])
def test_standard_input_is_not_reopened_for_writing(canaries, box, name):
    outside = canaries.directory()
    with (outside / "victim").open() as stdin:
        done = box.python(REOPEN, name, stdin=stdin)
    assert done.returncode == 1
    assert "PermissionError" in done.stderr
    assert (outside / "victim").read_text() == canaries.mark
    with (outside / "victim").open() as stdin:
        box.person.run([box.root / "inside" / "bin" / "python", "-c", REOPEN, name], stdin=stdin, check=True)
    assert (outside / "victim").read_text().startswith("CHANGED")


def test_standard_streams_may_be_reopened_as_they_are(canaries, box):
    outside = canaries.directory()
    with (outside / "secret").open() as stdin, (outside / "victim").open("w") as stdout:
        done = box.python("open('/dev/stdout', 'w').write(open('/dev/stdin').read())", stdin=stdin, stdout=stdout)
    assert done.returncode == 0, done.stderr
    assert (outside / "victim").read_text() == canaries.mark


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_PATH])
def test_a_directory_as_standard_stream_is_refused(canaries, box, stream, flags):
    outside = canaries.directory()
    number = {"stdin": 0, "stdout": 1, "stderr": 2}[stream]
    command = ["/bin/sh", "-c", f"exec 9<&{number}; cat /proc/self/fd/9/secret >&{2 if number == 1 else 1}"]
    descriptor = os.open(outside, flags)
    try:
        control = box.person.run(command, **{stream: descriptor})
        inside = box.exec(*command, **{stream: descriptor})
    finally:
        os.close(descriptor)
    assert canaries.mark in f"{control.stdout}{control.stderr}"
    assert canaries.mark not in f"{inside.stdout}{inside.stderr}"
    assert inside.returncode == 125
