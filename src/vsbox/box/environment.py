"""A new environment of a base Python, made by virtualenv in a process of its own.

virtualenv writes with threads and starts programs. A process can be killed and waited for, so whoever
takes the directory away afterwards has it to themselves.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from vsbox.errors import BoxError, InterpreterError, VsboxError
from vsbox.host.collect import user_home
from vsbox.plan.model import Interpreter
from vsbox.policy.grants import is_below

OLDEST = (3, 8)


class _Answer(msgspec.Struct, omit_defaults=True):
    """What the process says on standard output: the interpreter, or why there is none."""

    interpreter: Interpreter | None = None
    error: str = ""
    hint: str | None = None
    of_interpreter: bool = False


def grow_environment(target: Path, python: str | None, *, pip: bool) -> Interpreter:
    """Make an environment at ``target`` and return its base Python.

    Raises:
        InterpreterError: no such Python, or it cannot make an environment.
        BoxError: the directory cannot be written.
        BaseException: an interruption; no process of ours writes to ``target`` any more then.
    """
    return _ask(str(target), "pip" if pip else "", python or sys.executable)


def find_interpreter(python: str) -> Interpreter:
    """Return what virtualenv finds out about a base Python.

    Raises:
        InterpreterError: it is none, or too old.
    """
    return _ask("", "", python)


def _ask(target: str, pip: str, python: str) -> Interpreter:
    """Let a process of its own do the work.

    Security: this runs the base interpreter, which is the host's, on a directory that nobody
    inside has ever written to.
    """
    if sys.platform == "win32":
        raise BoxError("cannot make an environment: boxes need a POSIX system")
    command = [sys.executable, "-I", "-m", __name__, target, pip, python]
    # An interruption while the process starts would leave nobody who knows it.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            said, _ = process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        answer = msgspec.json.decode(said, type=_Answer)
    except msgspec.DecodeError as error:
        raise BoxError(f"cannot use {python}: virtualenv ended with {process.returncode}") from error
    if answer.interpreter is None:
        kind = InterpreterError if answer.of_interpreter else BoxError
        raise kind(answer.error, hint=answer.hint)
    return answer.interpreter


def _grow(target: Path, python: str, *, pip: bool) -> Interpreter:
    """The same, in this process.

    The base is named by its real file: alias links below a home directory stay out of the box.
    """
    import virtualenv

    def plan(candidate: str, *options: str) -> virtualenv.run.Session:
        arguments = ["--activators", "", "--no-periodic-update", "--no-vcs-ignore", "-p", candidate]
        place = str(target) if target.name else tempfile.gettempdir()  # it wants one that can be written
        return virtualenv.session_via_cli([*arguments, *options, place], setup_logging=False)

    try:
        info = _find_interpreter(python, plan)
        if not target.name:
            return _interpreter_of(info)
        real = os.path.realpath(info.system_executable or info.executable)
        seeded = pip and _can_seed(real, plan)
        plan(real, *([] if seeded else ["--no-seed"])).run()
        if pip and not seeded:
            _install_pip(target)
    except (RuntimeError, SystemExit, ValueError) as error:
        if "No space left on device" in str(error):
            raise BoxError(f"cannot write {target.parent}: No space left on device") from error
        cause = (str(error).strip().splitlines() or ["no reason given"])[-1]
        raise InterpreterError(
            f"cannot make an environment with {python}: {cause}",
            hint="name an interpreter by version, name or path: vsbox -p 3.12 DIR",
        ) from error
    return _interpreter_of(info)


def _find_interpreter(python: str, plan: Callable[..., Any]) -> Any:
    """Return virtualenv's knowledge of the base interpreter that was asked for."""
    failure: Exception | None = None
    for candidate in _candidates(python):
        try:
            info = plan(candidate, "--no-seed").interpreter
        except RuntimeError as error:
            failure = failure or error
            continue
        if tuple(info.version_info[:2]) < OLDEST:
            raise InterpreterError(
                f"cannot use {info.executable}: it is Python {info.version_str}",
                hint="boxes take Python 3.8 and newer",
            )
        return info
    raise RuntimeError(str(failure) or "no such interpreter")


def _can_seed(python: str, plan: Callable[..., Any]) -> bool:
    """Tell whether virtualenv brings pip for this Python; newer releases leave old ones out."""
    try:
        plan(python)
    except RuntimeError:
        return False
    return True


def _install_pip(target: Path) -> None:
    """Install the pip that came with the base Python; the environment is still only ours."""
    program = [str(target / "bin" / "python"), "-I", "-m", "ensurepip", "--default-pip"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"it has no pip: {done.stderr.strip().splitlines()[-1:]}")


def _candidates(python: str) -> Iterator[str]:
    """What a person may have meant: what they said, else a pyenv version that no shim answers for."""
    yield python
    if re.fullmatch(r"(python)?3(\.\d+){0,2}", python):
        versions = Path(os.environ.get("PYENV_ROOT") or Path(user_home(), ".pyenv")) / "versions"
        wanted = python.removeprefix("python")
        found = versions.glob(f"{wanted}*/bin/python") if versions.is_dir() else ()
        yield from map(str, sorted(found, key=_version_key, reverse=True))


def _version_key(path: Path) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", path.parent.parent.name)]


def _interpreter_of(info: Any) -> Interpreter:
    executable = os.path.realpath(getattr(info, "system_executable"))  # noqa: B009 - untyped library
    prefixes = {getattr(info, name, None) for name in ("system_prefix", "system_exec_prefix")}
    stdlib = {getattr(info, "system_stdlib", None), getattr(info, "system_stdlib_platform", None)}
    home = user_home()
    trees = set()
    for path in sorted(os.path.realpath(path) for path in (prefixes | stdlib) if path):
        if is_below(home, path) or path == "/":
            continue  # a prefix that is the home itself: its standard library is granted below
        trees.add(path)
    trees = {tree for tree in trees if not any(tree != other and is_below(tree, other) for other in trees)}
    if not any(is_below(executable, tree) for tree in trees):
        trees.add(executable)
    libraries = sorted(os.path.realpath(path) for path in stdlib if path)
    return Interpreter(
        executable, str(getattr(info, "version_str", "")), tuple(sorted(trees)), tuple(libraries),
        info.install_path("purelib").strip("/"),
    )  # fmt: skip


def main(argv: list[str]) -> int:
    """Make one environment and answer on standard output."""
    target, pip, python = argv
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        answer = _Answer(_grow(Path(target), python, pip=bool(pip)))
    except VsboxError as error:
        answer = _Answer(None, str(error), error.hint, isinstance(error, InterpreterError))
    except OSError as error:
        answer = _Answer(None, f"cannot write {error.filename or target}: {error.strerror or error}")
    sys.stdout.buffer.write(msgspec.json.encode(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
