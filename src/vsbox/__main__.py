"""Run the command line: ``python -m vsbox``."""

from __future__ import annotations

from vsbox.cli import main

if __name__ == "__main__":
    main()
