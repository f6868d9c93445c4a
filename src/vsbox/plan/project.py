"""Preset ``project``: what in a project the host executes unasked, and what counts as an installation.

Code inside writes to the project, and so could leave there what the user's own tools run outside: a
``.git/config`` whose ``core.fsmonitor`` answers the next ``git status``, a task of an editor, a hook.
"""

from __future__ import annotations

from typing import Final

PROTECTED: Final = (
    # version control: hooks, and settings that name programs
    ".git", ".gitmodules", ".hg", ".hgsub", ".svn", ".bzr", ".jj", ".sl", ".fossil*",
    ".gitconfig", ".lfsconfig", ".githooks", ".husky", ".lefthook*", "lefthook.*", ".overcommit*",
    ".pre-commit-config.yaml", ".pre-commit-hooks.yaml", "prek.toml", ".lintstagedrc*", "lint-staged.config.*",
    # variables and tools that a shell takes over as it enters a directory
    ".env", ".env.*", ".envrc*", ".direnv", ".mise*", "mise.*", ".tool-versions", ".asdfrc", ".flox",
    ".python-version", ".python-versions", ".pdm-python", ".autoenv*", ".bashrc", ".zshrc", ".profile",
    ".bash_profile", ".zshenv",
    # editors and what works for them: tasks, interpreters, extensions
    ".vscode", ".idea", ".fleet", ".zed", ".vs", ".nova", ".devcontainer", ".devcontainer.json",
    ".vim", ".vimrc", ".nvimrc", ".nvim.lua", ".exrc", ".lazy.lua", ".helix", ".dir-locals.el", ".dir-locals-2.el",
    ".ycm_extra_conf.py",
    # debuggers and package managers that take commands from there
    ".pdbrc", ".gdbinit", ".npmrc", ".yarnrc*", ".cargo",
    # agents that read their orders there
    ".cursor", ".cursorrules", ".claude", ".mcp.json", ".aider*", ".gemini", ".codex", ".opencode", "opencode.json",
    ".kiro", ".roo", ".windsurf*", ".continue", "agents.md", "claude.md", "gemini.md",
    # environments of other tools; one that holds pyvenv.cfg is found whatever its name is
    ".venv", ".tox", ".nox", ".conda", ".pixi", "__pypackages__",
    # where an environment is being wrapped
    ".vsbox-*",
)  # fmt: skip
"""Names in lower case, meant in any; a trailing ``*`` makes one a prefix. ``native/project_scan.c`` adds what
is known by its content: environments, boxes, repositories without a work tree."""

INSTALLERS: Final = (
    ("pip",),
    ("pip-sync",),
    ("uv", "+pip", "+sync", "+add", "+remove", "-run", "-tool", "-x"),
    ("poetry", "+install", "+add", "+remove", "+update", "+sync", "-run", "-shell", "-env"),
    ("pdm", "+install", "+add", "+remove", "+update", "+sync", "-run", "-use", "-venv"),
    ("pipenv", "+install", "+uninstall", "+update", "+sync", "+clean", "-run", "-shell"),
    ("flit", "+install"),
)
"""Commands that install: always, or if the first of these words that stands on the command line has a ``+``."""
INSTALLER_MODULES: Final = tuple(words[0] for words in INSTALLERS if words[0].isalpha() and words[0] != "pip")
"""What ``python -m`` starts by the box's command of that name, since it would look in the working directory first."""
UNTRUSTED_VARIABLES: Final = ("LD_*", "PYTHON*")
"""Not passed to an installation, whatever the policy says: they may lead to where other code writes."""


def is_protected_name(name: str) -> bool:
    """Tell whether a file or directory of this name is protected, as the launcher does."""
    lower = name.lower()
    return any(
        lower.startswith(pattern[:-1]) if pattern.endswith("*") else lower == pattern for pattern in PROTECTED
    )


def variables(home: str, *, installing: bool, namespaces: bool) -> dict[str, str]:
    """Return the variables that keep by-products out of the project.

    An installation writes bytecode beside the modules: what other code left in ``home`` must not be
    read while packages can be written. Without namespaces nothing new can be made in the project's own
    directory, where some tools put a cache.
    """
    if installing:
        return {}
    elsewhere = {
        "PYTHONPYCACHEPREFIX": f"{home}/.cache/pycache",
        "TOX_WORK_DIR": f"{home}/.tox",
        "NOX_ENVDIR": f"{home}/.nox",
    }
    if namespaces:
        return elsewhere
    return elsewhere | {
        "RUFF_CACHE_DIR": f"{home}/.cache/ruff",
        "MYPY_CACHE_DIR": f"{home}/.cache/mypy",
        "COVERAGE_FILE": f"{home}/.cache/coverage",
    }
