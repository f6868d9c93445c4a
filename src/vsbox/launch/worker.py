"""What a session runs inside: takes code through a socket, keeps its variables, gives values back as data.

A program of its own, for Python 3.8 and newer, started as ``python -c``. Security: it is inside, and so as hostile as
the code it runs. Nothing that it says is unpickled or executed outside; it is read as JSON of a known form.
"""

import ast
import base64
import json
import linecache
import os
import signal
import socket
import struct
import sys
import time
import traceback

MOST_TEXT = 1 << 16
MOST_ARTIFACTS = 32
MOST_DATA = 8 << 20
MOST_DATA_TOGETHER = 32 << 20
"""What a caller takes: see ``reply.py``."""
READY = {"id": 0, "kind": "ready"}
SECONDS_TO_COME = 0.2
"""For SIGINT, from the caller through the launcher."""


def plain(text):
    """Return text that is no more than text: half a surrogate pair has no place in JSON."""
    return text.encode("utf-8", "backslashreplace").decode()


def shown(value):
    """Return what is told of a value: its type, its text, and itself if JSON can hold it."""
    told = {"type": plain(type(value).__name__)[:MOST_TEXT]}
    try:
        text = repr(value)
    except Exception as error:
        text = "<repr failed: %s>" % type(error).__name__
    told["text"] = plain(text[:MOST_TEXT])[:MOST_TEXT]
    try:
        data = json.dumps(value, allow_nan=False)
        if len(data) <= MOST_DATA and json.loads(data) == value:
            told["json"] = data
    except Exception:
        pass
    return told


def artifacts(value):
    """Yield (name, media type, bytes) of what can be looked at: rich forms of the value, figures that are open."""
    for method, media in (("_repr_html_", "text/html"), ("_repr_png_", "image/png"), ("_repr_svg_", "image/svg+xml")):
        make = getattr(type(value), method, None)
        if make is None:
            continue
        try:
            data = make(value)
        except Exception:
            continue
        if isinstance(data, str):
            data = data.encode("utf-8", "replace")
        if isinstance(data, bytes):
            yield type(value).__name__, media, data
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is None:
        return
    import io

    for number in pyplot.get_fignums():
        buffer = io.BytesIO()
        try:
            pyplot.figure(number).savefig(buffer, format="png")
        except Exception:
            continue
        yield "figure %d" % number, "image/png", buffer.getvalue()
    pyplot.close("all")


class Interrupts:
    """SIGINT: KeyboardInterrupt while code inside runs, else kept for the request that has begun to come.

    Where none has, it came too late for the one that it was meant for.
    """

    def __init__(self, channel):
        """Keep them from now on."""
        self.channel = channel
        self.handler = signal.default_int_handler
        self.forget()
        self.keep()

    def forget(self):
        """Forget what was kept: the request is answered."""
        self.has_begun = self.is_kept = self.is_dropped = False

    def note(self, *_):
        """Take one while no code inside runs."""
        if not self.has_begun:
            try:
                self.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except OSError:
                self.is_dropped = True
                return
        self.is_kept = True

    def keep(self):
        """Keep them; what code inside has set to handle them waits until it runs again."""
        handler = signal.getsignal(signal.SIGINT)
        if handler is not None and handler != self.note:
            self.handler = handler
        signal.signal(signal.SIGINT, self.note)

    def drop_late(self):
        """Drop one that was sent for the request before, when it comes; code may have taken it, so not for long."""
        end = time.monotonic() + SECONDS_TO_COME
        while not (self.is_dropped or self.is_kept) and time.monotonic() < end:
            time.sleep(0.001)
        self.is_kept = False

    def allow(self):
        """Let them come, one that is kept at once."""
        signal.signal(signal.SIGINT, self.handler)
        if self.is_kept:
            raise KeyboardInterrupt


def perform(code, name, space, interrupts):
    """Run code; return the answer. The value is that of a last line that is an expression, as at a prompt."""
    value = None
    try:
        interrupts.allow()
        linecache.cache[name] = (len(code), None, code.splitlines(True), name)
        tree = ast.parse(code, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        exec(compile(tree, name, "exec"), space)
        if last is not None:
            value = eval(compile(last, name, "eval"), space)
        found = []
        room = MOST_DATA_TOGETHER
        for label, media, data in artifacts(value):
            if len(found) < MOST_ARTIFACTS and len(data) <= min(MOST_DATA, room):
                room -= len(data)
                encoded = base64.b64encode(data).decode("ascii")
                found.append({"name": plain(label)[:200], "media": media, "data": encoded})
        return {"kind": "value", "value": None if value is None else shown(value), "artifacts": found}
    except SystemExit as error:
        return {"kind": "exit", "status": error.code if isinstance(error.code, int) else 0 if error.code is None else 1}
    except KeyboardInterrupt:
        return {"kind": "interrupted"}
    except BaseException as error:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != name:  # this function, and the parser
            frames = frames.tb_next
        text = plain("".join(traceback.format_exception(type(error), error, frames)))
        return {"kind": "error", "type": plain(type(error).__name__)[:MOST_TEXT], "text": text[-MOST_TEXT:]}


def receive(channel, interrupts):
    """Return the next request; None at the end."""
    head = b""
    while len(head) < 4:
        piece = channel.recv(4 - len(head))
        if not piece:
            return None
        head += piece
        interrupts.has_begun = True
    (size,) = struct.unpack("<I", head)
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), 1 << 16))
        if not piece:
            return None
        data += piece
    return json.loads(bytes(data))


def send(channel, answer):
    """Send an answer."""
    data = json.dumps(answer).encode("utf-8", "replace")
    channel.sendall(struct.pack("<I", len(data)) + data)


def main(channel):
    """Answer requests until there are no more."""
    own = sys.modules["__main__"]
    module = sys.modules["__main__"] = type(own)("__main__")  # where pickle looks for what the code defines
    space = module.__dict__
    space["__builtins__"] = __builtins__
    number = 0
    pid = os.getpid()
    interrupts = Interrupts(channel)
    send(channel, READY)  # SIGINT would have ended it before
    while True:
        request = receive(channel, interrupts)
        if request is None:
            return
        number += 1
        if request.get("late"):
            interrupts.drop_late()
            send(channel, READY)
        try:
            try:
                answer = perform(request["code"], "<call %d>" % number, space, interrupts)
            finally:
                interrupts.keep()
        except KeyboardInterrupt:  # between the last line and here
            interrupts.keep()
            answer = {"kind": "interrupted"}
        if os.getpid() != pid:  # code inside has forked, and this is the child
            os._exit(0)
        for stream in (sys.stdout, sys.stderr):
            try:  # noqa: SIM105 - contextlib is not imported before code inside is
                stream.flush()
            except Exception:
                pass
        answer["id"] = request["id"]
        interrupts.forget()
        send(channel, answer)
        if answer["kind"] == "exit":
            return


if __name__ == "__main__":
    sys.argv = [""]
    main(socket.socket(fileno=int(os.environ.pop("VSBOX_SESSION"))))
