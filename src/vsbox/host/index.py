"""The user's package index settings: read outside, passed inside deliberately.

Without them ``pip`` inside would silently ask the public index for private names (dependency
confusion). Files read are the user's and the machine's, never the environment's own: code inside
could have written that one.

Source of the places: https://pip.pypa.io/en/stable/topics/configuration/
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote, urlsplit

from vsbox.host.facts import IndexSettings
from vsbox.policy.grants import is_below

PATH_OPTIONS: Final = frozenset(
    {"cert", "client-cert", "constraint", "extra-index-url", "find-links", "index-url", "trusted-ca"}
)
PATH_VARIABLES: Final = (
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "PIP_CLIENT_CERT",
    "PIP_CONSTRAINT",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_INDEX_URL",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX_URL",
)


def _user_config_files(home: str) -> tuple[str, ...]:
    config_home = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    return (f"{config_home}/pip/pip.conf", f"{home}/.pip/pip.conf")


def _config_files(home: str) -> tuple[str, ...]:
    named = os.environ.get("PIP_CONFIG_FILE", "")
    machine = ("/etc/pip.conf", "/etc/xdg/pip/pip.conf")
    return (*machine, *_user_config_files(home), *([named] if named.startswith("/") else []))


def _values(path: str) -> Iterator[str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")
    except (configparser.Error, UnicodeDecodeError, OSError):
        return
    for section in parser.sections():
        for option, value in parser.items(section):
            if option.replace("_", "-") in PATH_OPTIONS:
                yield value


def _local_paths(value: str, home: str) -> Iterator[str]:
    for word in value.split():
        is_url = word.startswith("file:")
        try:
            path = unquote(urlsplit(word).path) if is_url else word
        except ValueError:  # not a URL: pip will say so
            continue
        if not path.startswith("/") or "\0" in path:
            continue
        real = os.path.realpath(path)
        # A mirror on disk keeps its files beside the index of names: ROOT/simple, ROOT/packages.
        if is_url and os.path.basename(real) == "simple":
            real = os.path.dirname(real)
        if not is_below(home, real):
            yield real


def _pip_cache(home: str) -> str | None:
    cache_home = os.environ.get("XDG_CACHE_HOME") or f"{home}/.cache"
    place = os.path.realpath(os.environ.get("PIP_CACHE_DIR") or f"{cache_home}/pip")
    return place if os.path.isdir(place) else None


def index_settings(home: str) -> tuple[IndexSettings, tuple[str, ...]]:
    """Return the settings and the files they come from (present or not, to be watched)."""
    files = _config_files(home)
    chosen = os.environ.get("PIP_CONFIG_FILE") or next(
        (path for path in _user_config_files(home) if os.path.isfile(path)),
        None,
    )
    if chosen and not chosen.startswith("/"):
        chosen = None
    values = [value for path in files for value in _values(path)]
    values += [os.environ.get(name, "") for name in PATH_VARIABLES]
    paths = {path for value in values for path in _local_paths(value, home)}
    if chosen:
        chosen = os.path.realpath(chosen)
        paths.add(chosen)
    return IndexSettings(chosen, tuple(sorted(paths)), _pip_cache(home)), files
