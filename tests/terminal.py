"""A bash that believes it sits at a terminal, and what it has shown so far."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from pathlib import Path

from harness import Person
from processes import SECONDS, are_idle, descendants, group_members, wait_until

PROMPT = "@ready@ "


class Terminal:
    """What a person at a terminal does: type, press keys, change its size, wait, read."""

    def __init__(self, person: Person, cwd: Path) -> None:
        self.master, slave = pty.openpty()
        if person.uid != os.geteuid():
            os.fchown(slave, person.uid, person.gid)
        self.shown = ""
        environment = person.environment | {"PS1": PROMPT, "HISTFILE": "", "INPUTRC": os.devnull}
        command = ["setsid", "--ctty", "bash", "--norc", "--noprofile", "--noediting", "-i"]
        streams = {"stdin": slave, "stdout": slave, "stderr": slave}
        self.bash = person.popen(command, env=environment, cwd=cwd, **streams)
        os.close(slave)
        self.expect(re.escape(PROMPT))
        self.run("stty -echo")

    def _read(self, seconds: float) -> None:
        if not select.select([self.master], [], [], seconds)[0]:
            raise AssertionError(f"nothing came; shown so far: {self.shown!r}")
        try:
            self.shown += os.read(self.master, 65536).decode(errors="replace")
        except OSError:
            raise AssertionError(f"the terminal was closed; shown so far: {self.shown!r}") from None

    def expect(self, pattern: str) -> str:
        """Return what was shown up to and with the pattern, which must come."""
        end = time.monotonic() + SECONDS
        while not (found := re.search(pattern, self.shown, re.DOTALL)):
            self._read(max(0, end - time.monotonic()))
        text, self.shown = self.shown[: found.end()], self.shown[found.end() :]
        return text.replace("\r\n", "\n")

    def _foreground(self) -> set[int]:
        members = group_members(os.tcgetpgrp(self.master))
        return {*members, *(below for pid in members for below in descendants(pid))}

    def settle(self) -> str:
        """Return what is shown once nobody of the foreground job, or behind it, has anything left to do."""
        assert wait_until(lambda: are_idle(self._foreground)), f"it never rests; shown so far: {self.shown!r}"
        while select.select([self.master], [], [], 0)[0]:
            self._read(0)
        return self.shown

    def send(self, text: str) -> None:
        os.write(self.master, text.encode())

    def press(self, key: str) -> None:
        """Send a control key as a person does: not in the midst of what the last one has started."""
        self.settle()
        self.send(key)

    def start(self, command: str) -> None:
        self.send(command + "\n")

    def prompt(self) -> str:
        """Return what was shown before the next prompt."""
        return self.expect(re.escape(PROMPT)).removesuffix(PROMPT)

    def run(self, command: str) -> str:
        self.start(command)
        return self.prompt()

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def hang_up(self) -> None:
        os.close(self.master)
        self.bash.wait(SECONDS)

    def close(self) -> None:
        self.bash.kill()
        os.close(self.master)
        self.bash.wait()
