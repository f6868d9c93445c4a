"""A pip that code inside has never been able to change: the wheel that virtualenv brings."""

from __future__ import annotations

import secrets
import shutil
import zipfile

from vsbox.box.layout import Layout
from vsbox.plan.model import Interpreter


def provide_pip(layout: Layout, interpreter: Interpreter) -> None:
    """Unpack pip for this Python into ``sandbox/pip``, unless it is there already.

    The package alone, without its metadata: what ``pip list`` and ``pip install -U pip`` see stays the
    environment's own.
    """
    from virtualenv.seed.wheels.embed import get_embed_wheel

    place = layout.sandbox / "pip"
    minor = ".".join(interpreter.version.split(".")[:2])
    embedded = get_embed_wheel("pip", minor)
    if embedded is None or (place / embedded.path.name).exists():
        place.mkdir(exist_ok=True)
        return
    staging = layout.sandbox / f".pip-{secrets.token_hex(4)}"
    try:
        with zipfile.ZipFile(embedded.path) as wheel:
            wheel.extractall(staging, [name for name in wheel.namelist() if name.startswith("pip/")])
        (staging / embedded.path.name).touch()
        shutil.rmtree(place, ignore_errors=True)
        staging.rename(place)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
