"""What talks to a box from outside: an editor's side of the debug protocol, a notebook's side of a kernel."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence

    from harness import Person

SECONDS = 40


def free_port() -> int:
    """Return a TCP port of localhost that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def connect(port: int) -> socket.socket:
    """Connect to localhost as soon as somebody listens there."""
    end = time.monotonic() + SECONDS
    while True:
        client = socket.socket()
        client.settimeout(SECONDS)
        if client.connect_ex(("127.0.0.1", port)) == 0:
            return client
        client.close()
        assert time.monotonic() < end, f"nobody listens on port {port}"
        time.sleep(0.05)


class DebugClient:
    """The client of the debug adapter protocol in an editor: requests, answers, events."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self.reader, self.writer = reader, writer
        self.count = 0
        self.seen: list[dict[str, Any]] = []

    def send(self, command: str, **arguments: object) -> int:
        self.count += 1
        message = {"seq": self.count, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        self.writer.flush()
        return self.count

    def _read(self) -> dict[str, Any]:
        length = 0
        while (line := self.reader.readline()) != b"\r\n":
            assert line, f"the adapter is gone after {[m.get('event', m.get('command')) for m in self.seen]}"
            name, _, value = line.partition(b":")
            length = int(value) if name == b"Content-Length" else length
        message: dict[str, Any] = json.loads(self.reader.read(length))
        self.seen.append(message)
        return message

    def event(self, name: str) -> dict[str, Any]:
        """Wait for an event that was not asked for yet; return its body."""
        known = [m for m in self.seen if m.get("event") == name]
        message = known[0] if known else self._read()
        while message.get("event") != name:
            message = self._read()
        self.seen.remove(message)
        return dict(message.get("body") or {})

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for the answer to a request; return its body."""
        known = [m for m in self.seen if m.get("request_seq") == number]
        message = known[0] if known else self._read()
        while message.get("request_seq") != number:
            message = self._read()
        assert message["success"], message
        return dict(message.get("body") or {})

    def ask(self, command: str, **arguments: object) -> dict[str, Any]:
        return self.answer(self.send(command, **arguments))


def value_at_breakpoint(
    client: DebugClient, request: str, how: dict[str, object], program: Path, line: int, name: str
) -> str:
    """Start or attach as an editor does, stop at a line, return the value of an expression there, go on."""
    client.ask("initialize", adapterID="python", linesStartAt1=True, pathFormat="path")
    started = client.send(request, justMyCode=True, **how)
    client.event("initialized")
    client.ask("setBreakpoints", source={"path": str(program)}, breakpoints=[{"line": line}])
    client.ask("configurationDone")
    client.answer(started)
    thread = client.event("stopped")["threadId"]
    frame = client.ask("stackTrace", threadId=thread)["stackFrames"][0]
    assert frame["line"] == line
    found = client.ask("evaluate", expression=name, frameId=frame["id"])["result"]
    client.ask("continue", threadId=thread)
    return str(found)


# Run outside, by an ordinary interpreter with jupyter_client: what a notebook server or an editor does.
NOTEBOOK = r"""
import json, sys, uuid
from pathlib import Path
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

argv, runtime, code = json.loads(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
runtime.mkdir(parents=True, exist_ok=True)
manager = KernelManager(connection_file=str(runtime / f"kernel-{uuid.uuid4()}.json"))
manager._kernel_spec = KernelSpec(argv=argv, display_name="box", language="python")
manager.start_kernel(stdout=sys.stderr, stderr=sys.stderr)
client = manager.client()
client.start_channels()
try:
    client.wait_for_ready(timeout=float(sys.argv[4]))
    def show(message):
        content = message["content"]
        print(content.get("text") or content.get("ename") or "", end="", flush=True)
        if content.get("text") == "sleeping\n":
            manager.interrupt_kernel()
    client.execute_interactive(code, timeout=30, output_hook=show)
    client.execute_interactive("import time; print('sleeping'); time.sleep(60)", timeout=30, output_hook=show)
except RuntimeError as error:
    print(error)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""


def run_notebook(
    person: Person, python: Sequence[str], runtime: Path, code: str, kernel: Sequence[str], *, seconds: int = SECONDS
) -> subprocess.CompletedProcess[str]:
    """Run code in a kernel that is started from outside, interrupt a second one, end it."""
    words = [*python, "-c", NOTEBOOK, json.dumps([*kernel]), str(runtime), code, str(seconds)]
    return person.run(words, timeout=3 * SECONDS)
