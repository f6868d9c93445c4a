"""What of the guard is there from the start: the answer to most events, which is that all is well.

Everything else is in the modules beside this one, loaded when the first event needs a closer look. Run with ``data``:
three numbers of four bytes, which say where parts begin; this code; then marshalled what is granted, the configuration,
and the code of the other modules.
"""

import marshal
import os
import sys

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def part(data, number):
    return marshal.loads(memoryview(data)[int.from_bytes(data[4 * number : 4 * number + 4], "little") :])


def load(data, learned, observed, shown):
    """Return the function of each event that counts; ``learned`` is to take directories that the kernel grants."""
    space = {"__name__": "_sandbox_hook", "__builtins__": __builtins__}
    exec(part(data, 2), space)
    return space["handlers_for"](part(data, 1), learned, observed, shown)


def install(data):
    """Begin to watch this process."""
    prefixes, events, spawning, granted, is_confined = part(data, 0)
    readable, mixed, hidden, writable, mixed_writable, protected = prefixes
    observed = os.access("/.vsbox-observer", 0)  # no such file: the launcher answers where a report is asked for
    if observed:  # then what the user grants is worth a closer look as well
        readable, writable = (tuple(p for p in paths if not p.startswith(granted)) for paths in (readable, writable))
        mixed = mixed_writable = ()
        events += spawning
    watched = frozenset(events)
    getcwd, is_ending = os.getcwd, sys.is_finalizing  # modules lose their functions then
    try:
        here = getcwd() if is_confined else None  # listed for the first import that is not built in
    except OSError:
        here = None
    passes_relative = is_confined and not observed  # the kernel sees where it leads
    common = [prefix for prefix in readable if os.__file__.startswith(prefix)]  # two comparisons are sooner done
    lowest, above = (common[0], common[0][:-1] + chr(ord("/") + 1)) if common else ("", "")
    learned = set()
    shown = "" if is_confined else os.environ.get("VSBOX_SHOWN", "")
    handlers = None
    is_loading = False
    function = type(install)

    def may_read(path):
        if path.startswith(readable) or (path.startswith(mixed) and not path.startswith(hidden)):
            return True
        return path[: path.rfind("/") + 1] in learned

    def may_open(path):
        return may_read(path) if path[:1] == "/" else passes_relative

    def may_write(path):
        if path[:1] != "/":
            path = getcwd() + "/" + path
        return path.startswith(writable) or (path.startswith(mixed_writable) and not path.startswith(protected))

    def hook(event, args, kind=type, string=str, writing=WRITING, lowest=lowest, above=above):
        try:
            if event == "open":
                path, _, flags = args
                if kind(path) is string and ".." not in path:
                    if flags & writing:
                        if may_write(path):
                            return
                    elif lowest <= path < above or path.startswith(readable) or may_open(path):
                        return
            elif event not in watched:
                return
            elif event == "import":
                path = args[1]
                if path is None or (kind(path) is string and may_read(path)):
                    return
            elif event == "os.listdir" or event == "os.scandir":
                path = args[0]
                if kind(path) is string and (path == here or (".." not in path and may_read(path + "/"))):
                    return
            elif (event == "object.__setattr__" or event == "object.__delattr__") and type(args[0]) is not function:
                return
        except (LookupError, OSError, TypeError, ValueError):
            pass  # no working directory, or an event that Python does not send
        look_closer(event, args)

    def look_closer(event, args):
        nonlocal handlers, is_loading
        if is_ending() and (is_confined or os.fspath is None):
            if is_confined:
                return  # the kernel decides
            raise PermissionError(13, "the sandbox's guard has ended")
        if handlers is None:
            if is_loading:
                return
            is_loading = True
            try:
                handlers = load(data, learned, observed, shown)
            finally:
                is_loading = False
        handlers[event](args)

    sys.addaudithook(hook)


install(data)  # noqa: F821 - given by the .pth file
