"""What of the guard is there from the start: the answer to most events, which is that all is well.

Everything else is in ``hook.py``, loaded when the first event needs a closer look. A program of its own, for
Python 3.8 and newer, run with ``data``: three numbers of four bytes, which say where parts begin; this code; then
marshalled what is granted, the configuration, and the code of ``hook.py``.
"""

import marshal
import os
import sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def part(data, number):
    return marshal.loads(data[int.from_bytes(data[4 * number : 4 * number + 4], "little") :])


def load(data):
    """Return the function of each event that counts."""
    space = {"__name__": "_sandbox_hook", "__builtins__": __builtins__}
    exec(part(data, 2), space)
    return space["handlers_for"](part(data, 1))


def install(data):
    """Begin to watch this process."""
    (readable, writable, less_readable, less_writable), events = part(data, 0)
    watched = frozenset(events)
    try:
        here = os.getcwd()
    except OSError:
        here = "/"
    if here != "/":  # a command starts where it may read
        readable += (here + "/",)
    handlers = None
    is_loading = False
    function = type(install)

    def hook(event, args):
        nonlocal handlers, is_loading
        if event not in watched:
            return
        if event == "open":
            path, _, flags = args
            if path.__class__ is str and ".." not in path:
                if flags & WRITING:
                    if path.startswith(writable) and not path.startswith(less_writable):
                        return
                elif path[:1] != "/" or (path.startswith(readable) and not path.startswith(less_readable)):
                    return
        elif event == "import":
            if args[1] is None or (args[1].startswith(readable) and not args[1].startswith(less_readable)):
                return
        elif event == "os.listdir" or event == "os.scandir":
            path = args[0]
            if path.__class__ is str and ".." not in path:
                path += "/"
                if path.startswith(readable) and not path.startswith(less_readable):
                    return
        elif (event == "object.__setattr__" or event == "object.__delattr__") and type(args[0]) is not function:
            return
        if handlers is None:
            if is_loading:
                return
            is_loading = True
            handlers = load(data)
        handlers[event](args)

    sys.addaudithook(hook)


install(data)  # noqa: F821 - given by the .pth file
