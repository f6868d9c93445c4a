"""What the user's own tools would execute unasked, in a tree of paths: by name, or by what a directory holds.

As the launcher tells it in projects (``native/project_scan.c``): environments, boxes, and repositories without a work
tree, which git takes for one wherever they lie, are protected as a whole.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Final

from vsbox.plan.project import is_protected_name
from vsbox.policy.grants import is_below

ENVIRONMENT: Final = "pyvenv.cfg"
BOX: Final = "sandbox/sandbox.json"
OF_REPOSITORY: Final = frozenset({"HEAD", "config", "hooks", "commondir"})
"""What makes the uppermost directory a repository, or git execute something there: it is not protected as a whole."""


def linked_place(root: int, path: str) -> str | None:
    """Return where a link of a protected name leads in a tree, which is what is executed; None: to nothing of it."""
    if not is_protected_name(os.path.basename(path)):
        return None
    base = os.path.realpath(f"/proc/self/fd/{root}")
    real = os.path.realpath(f"{base}/{path}")
    return real[len(base) + 1 :] if is_below(real, base) and real not in {base, f"{base}/{path}"} else None


class Protected:
    """Tells it of paths of a tree; ``is_there`` says what else is in it, ``linked`` where protected links lead."""

    def __init__(self, is_there: Callable[[str], bool], linked: Collection[str] = ()) -> None:
        self._is_there = is_there
        self._linked = linked
        self._known: dict[str, bool] = {}

    def __contains__(self, path: str) -> bool:
        """Tell whether the user's own tools would execute what is at a path."""
        above, _, name = path.rpartition("/")
        if above not in self._known:
            self._known[above] = bool(above) and above in self
        if self._known[above] or path in self._linked:
            return True
        return name == ENVIRONMENT or is_protected_name(name) or self._is_place(path)

    def _is_place(self, path: str) -> bool:
        if path in OF_REPOSITORY and self._is_repository(""):
            return True
        has = self._is_there
        return has(f"{path}/{ENVIRONMENT}") or has(f"{path}/{BOX}") or self._is_repository(f"{path}/")

    def _is_repository(self, prefix: str) -> bool:
        """Tell what git asks of a directory (setup.c, is_git_directory); not whether HEAD makes sense."""
        head, objects, refs, common = (f"{prefix}{name}" for name in ("HEAD", "objects", "refs", "commondir"))
        has = self._is_there
        return has(head) and ((has(objects) and has(refs)) or has(common))
