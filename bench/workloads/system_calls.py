"""stat_open_close.py with nothing of Python's around the three system calls: the most that they can lose."""

import os

PATH = os.__file__
for _ in range(20_000):
    os.stat(PATH)
    os.close(os.open(PATH, os.O_RDONLY | os.O_CLOEXEC))
