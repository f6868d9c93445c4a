"""20,000 x stat, open, close of one file of the standard library."""

import os

PATH = os.__file__
for _ in range(20_000):
    os.stat(PATH)  # noqa: PTH116 - one system call
    os.close(os.open(PATH, os.O_RDONLY | os.O_CLOEXEC))
