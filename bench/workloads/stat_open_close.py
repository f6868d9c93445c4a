"""20,000 x stat, open, close of one file of the standard library, as Python programs call them."""

import os

PATH = os.__file__
for _ in range(20_000):
    os.stat(PATH)  # what is measured, without pathlib
    open(PATH).close()
