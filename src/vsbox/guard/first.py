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


def load(data, learned, observed):
    """Return the function of each event that counts; ``learned`` is to take directories that the kernel grants."""
    space = {"__name__": "_sandbox_hook", "__builtins__": __builtins__}
    exec(part(data, 2), space)
    return space["handlers_for"](part(data, 1), learned, observed)


def install(data):
    """Begin to watch this process."""
    (readable, mixed, hidden, writable, mixed_writable, protected), events, spawning, granted = part(data, 0)
    observed = os.access("/.vsbox-observer", 0)  # no such file: the launcher answers where a report is asked for
    if observed:  # then what the user grants is worth a closer look as well
        readable, writable = (tuple(p for p in paths if not p.startswith(granted)) for paths in (readable, writable))
        mixed = mixed_writable = ()
        events += spawning
    watched = frozenset(events)
    try:
        here = os.getcwd()  # listed for the first import that is not built in: not worth a closer look
    except OSError:
        here = None
    learned = set()
    handlers = None
    is_loading = False
    function = type(install)

    def may_read(path):
        if path.startswith(readable) or (path.startswith(mixed) and not path.startswith(hidden)):
            return True
        return path[: path.rfind("/") + 1] in learned

    def hook(event, args, string=str, writing=WRITING):
        nonlocal handlers, is_loading
        if event == "open":
            path, _, flags = args
            if path.__class__ is string and ".." not in path:
                if flags & writing:
                    if path[:1] != "/":
                        path = os.getcwd() + "/" + path
                    if path.startswith(writable):
                        return
                    if path.startswith(mixed_writable) and not path.startswith(protected):
                        return
                elif path.startswith(readable) or (path[:1] != "/" and not observed) or may_read(path):
                    return
        elif event not in watched:
            return
        elif event == "import":
            if args[1] is None or may_read(args[1]):
                return
        elif event == "os.listdir" or event == "os.scandir":
            path = args[0]
            if path.__class__ is string and (path == here or (".." not in path and may_read(path + "/"))):
                return
        elif (event == "object.__setattr__" or event == "object.__delattr__") and type(args[0]) is not function:
            return
        if handlers is None:
            if is_loading:
                return
            is_loading = True
            handlers = load(data, learned, observed)
        handlers[event](args)

    sys.addaudithook(hook)


install(data)  # noqa: F821 - given by the .pth file
