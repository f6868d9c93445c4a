"""One command in a machine of its own, with a kernel of choice: QEMU in software emulation, which needs no privilege.

The root of the host is the root of the machine: what is installed here is installed there. Changes stay in its memory.
"""

from __future__ import annotations

import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from vm.kernels import Kernel

INIT = Path(__file__).with_name("init.sh")
QEMU = "qemu-system-x86_64"
USER, UID = "ordinary", 4321
HOME = f"/home/{USER}"
PARAMETERS = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off tsc=reliable"
DELEGATED = "/sys/fs/cgroup/delegated"
CONTROL = "/run/control"
"""Where the machine finds what it is to do, and leaves what came of it."""
PYTHON = "/usr/bin/python3"
SYSTEMD = Path("/lib/systemd/systemd")
SUDO = "/run/sudo"
SUDO_PROGRAM = f"""#!{PYTHON} -IS
import shlex, sys, time
from pathlib import Path
place = Path("{SUDO}")
(place / "input").write_bytes(sys.stdin.buffer.read())
(place / "command").write_text(shlex.join(sys.argv[1:]))
(place / "asked").touch()
while not (place / "answered").exists():
    time.sleep(0.05)
sys.stdout.write((place / "output").read_text())
(place / "answered").unlink()
sys.exit(int((place / "status").read_text()))
"""
"""For the ordinary user: what root of the machine does in its place, one thing after the other."""
BY_ROOT = f"""(umask 0; mkdir {SUDO}; cd {SUDO}; while sleep 0.1; do
    [ -e asked ] || continue
    rm asked; sh ./command <input >output 2>&1; echo $? >status; touch answered
done) </dev/null >/dev/null 2>&1 &
printf '%s' "$SUDO" >/usr/local/bin/sudo; chmod 755 /usr/local/bin/sudo"""
BY_SYSTEMD = f"""mkdir -p /run/systemd/system; cd /run/systemd/system
printf '[Unit]\\nRequires=basic.target\\nWants=work.service\\n' >vm.target
printf '[Unit]\\nWants=dbus.service systemd-logind.service\\n' >work.service
printf 'After=dbus.service systemd-logind.service systemd-user-sessions.service\\n' >>work.service
printf '[Service]\\nType=oneshot\\nExecStart=/bin/sh {CONTROL}/work\\n' >>work.service
exec {SYSTEMD} --unit=vm.target --show-status=0
"""


class MachineError(Exception):
    """The machine did not get so far as to run the command."""


@dataclass(frozen=True)
class Setting:
    """What is particular about a machine, beside its kernel.

    ``profiles``: AppArmor policy in the form of the kernel; ``profile``: the one under which the command starts.
    ``delegated``: the command is in a cgroup that belongs to its user; ``systemd``: systemd runs the machine, with a
    manager of the user's.
    ``root``: what root does first; ``sudo``: the user may ask root for more.
    """

    parameters: str = ""
    sysctls: Mapping[str, str] = field(default_factory=dict)
    profiles: bytes = b""
    profile: str = ""
    delegated: bool = False
    systemd: bool = False
    root: str = ""
    sudo: bool = False


def lacks() -> str:
    """Return what is not here and without which there is no machine."""
    if platform.machine() != "x86_64":
        return f"a processor x86_64 (this is {platform.machine()})"
    return ", ".join(name for name in (QEMU, "busybox") if shutil.which(name) is None)


def run(
    kernel: Kernel, setting: Setting, argv: Sequence[str], *,
    files: Mapping[str, bytes] = MappingProxyType({}), seconds: float = 300, memory_mb: int = 1024,
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command as an ordinary user of the machine; its output and status come back.

    ``files`` are put into the directory ``CONTROL`` of the machine.

    Raises:
        MachineError: the machine did not start, or the command did not end in time; with what the kernel said.
    """
    with tempfile.TemporaryDirectory(prefix="vsbox-vm-", dir="/var/tmp") as scratch:
        control = Path(scratch) / "control"
        control.mkdir()
        for name, content in files.items():
            (control / name).write_bytes(content)
        (control / "profiles").write_bytes(setting.profiles)
        (control / "work").write_text("\n".join(_script(setting, argv)) + "\n")
        (control / "boot").write_text(BY_SYSTEMD if setting.systemd else f"exec /bin/sh {CONTROL}/work\n")
        initramfs, console = Path(scratch) / "initramfs", Path(scratch) / "console"
        initramfs.write_bytes(b"".join(_archive(_initramfs(kernel))))
        command = [
            *_qemu(memory_mb), "-kernel", kernel.image, "-initrd", initramfs, "-serial", f"file:{console}",
            *_share("root", Path("/"), ",readonly=on"), *_share("control", control),
            "-append", f"{PARAMETERS} {setting.parameters}",
        ]  # fmt: skip
        said = _start(command, seconds)
        status = control / "status"
        if not status.is_file() or not status.read_text().strip():
            log = console.read_text(errors="replace")[-4000:] if console.is_file() else ""
            raise MachineError(f"the machine with Linux {kernel.release} did not run the command: {said}\n{log}")
        output, errors = ((control / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return subprocess.CompletedProcess(list(argv), int(status.read_text()), output, errors)


def _start(command: Sequence[str | Path], seconds: float) -> str:
    """Run QEMU to its end; return what it said."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not end within {seconds:.0f} s"
    return done.stderr.strip() or f"QEMU ended with {done.returncode}"


def _qemu(memory_mb: int) -> tuple[str, ...]:
    # One processor: with two, emulation stops both whenever the host has less than two to give, and takes three times
    # as long. A plain model: what a newer one offers (wide vectors, SMAP) costs more to emulate than it saves.
    return (
        shutil.which(QEMU) or QEMU, "-accel", "tcg,tb-size=512", "-cpu", "Nehalem,+rdrand", "-smp", "1",
        "-m", str(memory_mb), "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
    )  # fmt: skip


def _share(tag: str, place: Path, options: str = "") -> tuple[str, ...]:
    backend = f"local,id={tag},path={place},security_model=none,multidevs=remap{options}"
    return ("-fsdev", backend, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _script(setting: Setting, argv: Sequence[str]) -> Iterator[str]:
    """Return what the machine's first process does, or the one service of systemd, line by line."""
    yield "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8"
    yield f"exec </dev/null >>{CONTROL}/stdout 2>>{CONTROL}/stderr"
    yield f"echo '{USER}:x:{UID}:{UID}::{HOME}:/bin/sh' >>/etc/passwd; echo '{USER}:x:{UID}:' >>/etc/group"
    yield f"mkdir -p -m 700 {HOME}; chown {UID}:{UID} {HOME}; export HOME={HOME} USER={USER}; cd {HOME}"
    for name, value in setting.sysctls.items():
        yield f"echo {shlex.quote(value)} >/proc/sys/{name.replace('.', '/')}"
    if setting.profiles:
        yield f"cat {CONTROL}/profiles >/sys/kernel/security/apparmor/.replace"
    yield setting.root
    if setting.sudo:
        yield f"SUDO={shlex.quote(SUDO_PROGRAM)}"
        yield BY_ROOT
    yield from _delegate() if setting.delegated else ()
    # The profile is entered last, since it may forbid what becoming the user takes.
    confined = ("sh", "-c", f'echo exec {setting.profile} >/proc/self/attr/apparmor/exec && exec "$@"', "sh")
    command = [*(confined if setting.profile else ()), *argv]
    if setting.systemd:
        yield "printf 'account required pam_permit.so\\nsession required pam_systemd.so\\n' >/etc/pam.d/systemd-user"
        yield f"loginctl enable-linger {UID}; export XDG_RUNTIME_DIR=/run/user/{UID}"
        yield "export DBUS_SESSION_BUS_ADDRESS=unix:path=$XDG_RUNTIME_DIR/bus"
        yield "for try in $(seq 300); do [ -S $XDG_RUNTIME_DIR/bus ] && break; sleep 0.2; done"
    as_user = f"exec setpriv --reuid {UID} --regid {UID} --clear-groups -- {shlex.join(command)}"
    enter = f"echo 0 >{DELEGATED}/start/cgroup.procs && " if setting.delegated else ""
    yield f"sh -c {shlex.quote(enter + as_user)}"
    yield f"echo $? >{CONTROL}/status; sync; echo o >/proc/sysrq-trigger; sleep 60"


def _delegate() -> Iterator[str]:
    """Return the lines that make a cgroup with a subtree of the user's, as systemd does (``Delegate=yes``)."""
    yield "echo +memory +pids +cpu >/sys/fs/cgroup/cgroup.subtree_control"
    yield f"mkdir -p {DELEGATED}/start; echo +memory +pids +cpu >{DELEGATED}/cgroup.subtree_control"
    yield f"chown -R {UID}:{UID} {DELEGATED}/start; cd {DELEGATED}"
    yield f"chown {UID}:{UID} . cgroup.procs cgroup.subtree_control cgroup.threads; cd {HOME}"


def _initramfs(kernel: Kernel) -> Iterator[tuple[str, int, bytes]]:
    """Return the files of the first file system: path, mode, content."""
    yield "bin", 0o40755, b""
    yield "modules", 0o40755, b""
    yield "init", 0o100755, INIT.read_bytes()
    yield "bin/busybox", 0o100755, Path(shutil.which("busybox") or "busybox").read_bytes()
    for module in kernel.modules:
        yield f"modules/{module.name}", 0o100644, module.read_bytes()


def _archive(files: Iterator[tuple[str, int, bytes]]) -> Iterator[bytes]:
    """Write files as the kernel unpacks them. Source: buffer-format.rst of its documentation (``newc``)."""
    number = 0
    for number, (path, mode, content) in enumerate([*files, ("TRAILER!!!", 0, b"")], start=1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)
