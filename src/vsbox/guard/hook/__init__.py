"""The guard: an audit hook that says what this sandbox denies, on whose behalf, and what would allow it.

A program of its own in every Python process of a box: the standard library only, Python 3.8 and newer, little at the
start. ``first.py`` answers most events; the other modules are joined into one, ``_sandbox_hook.py``.

Security: this explains; the kernel enforces. Code in the same process can get around it (``python -S``,
ctypes, its own frames), and with ``--no-os-sandbox`` that is all there is.
"""
