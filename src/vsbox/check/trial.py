"""Try a table of functions, each in a child of its own. Runs inside and outside: Python 3.8, standard library.

The child may be killed, hang or crash: that is an answer about its row. Answers are printed as they come, a JSON list
``[name, result, detail]`` a line; the result is ``ok``, the name of an errno or signal, ``timed out`` or ``crashed``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time


def result_of(function):
    """Return what came of a function, and what it says about that."""
    try:
        detail = function()
    except OSError as error:
        if isinstance(error, TimeoutError) and error.errno is None:  # a socket's, before Python 3.10
            return "ETIMEDOUT", str(error)
        return errno.errorcode.get(error.errno, type(error).__name__), str(error)
    except KeyError as error:
        return "ENOENT", "%s is not there" % error
    except ImportError as error:
        return "not installed", str(error)
    except BaseException as error:
        return "crashed", "%s: %s" % (type(error).__name__, error)
    return "ok", detail if isinstance(detail, str) else ""


def _child(function, writer):
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):
        os.dup2(null, descriptor)
    os.write(writer, json.dumps(result_of(function)).encode() + b"\n")


def _answer(reader, deadline):
    """Return the line that the child writes: None when it has not in time, empty when it is gone."""
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([reader], [], [], left)[0]:
            return None
        piece = os.read(reader, 1 << 16)
        if not piece:
            return b""
        data += piece
    return data


def try_aside(function, seconds):
    """Return what came of a function in a child that has so many seconds; nothing of it is left afterwards."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _child(function, writer)
        os._exit(0)
    os.close(writer)
    answer = _answer(reader, time.monotonic() + seconds)
    os.close(reader)
    if answer == b"":  # it was killed: by which signal is to be seen before we kill
        status = os.waitpid(pid, 0)[1]
    with contextlib.suppress(OSError):
        os.killpg(pid, signal.SIGKILL)
    if answer is None:
        os.kill(pid, signal.SIGKILL)
    if answer != b"":
        os.waitpid(pid, 0)
        return tuple(json.loads(answer)) if answer else ("timed out", "after %g seconds" % seconds)
    number = status & 127
    if not number:
        return "crashed", "it ended without an answer"
    name = signal.Signals(number).name
    return (name, "") if number == signal.SIGSYS else ("crashed", "killed by %s" % name)


def try_all(rows, seconds):
    """Try ``(name, function)`` pairs and print what came of each."""
    for name, function in rows:
        result, detail = try_aside(function, seconds)
        sys.stdout.write(json.dumps([name, result, detail]) + "\n")
        sys.stdout.flush()
