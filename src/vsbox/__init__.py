"""A Python virtual environment that is also a sandbox.

Command line: ``vsbox --help``. Importing this package loads nothing else: commands and
modules import what they need when they need it.
"""

from __future__ import annotations

__version__ = "0.1.0"
