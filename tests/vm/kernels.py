"""Debian's own kernels, reduced to what a test machine needs: the image, and the modules for its file systems."""

from __future__ import annotations

import lzma
import re
import shutil
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vm.debian import FetchError, Suite, cache

SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "trixie-backports"}
"""Series of kernels, and the suite whose default kernel is of that series."""
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
WANTED = re.compile(
    r"boot/vmlinuz-[^/]+$|lib/modules/[^/]+/(vmlinuz|modules\.builtin|kernel/(drivers/virtio|fs|lib|net/9p)/.*\.ko(\.\w+)?)$"
)
"""The paths of a package that are unpacked."""


@dataclass(frozen=True)
class Kernel:
    """A kernel in the cache."""

    place: Path

    @property
    def image(self) -> Path:
        """The kernel itself, not compressed: unpacking takes seconds on an emulated processor."""
        return self.place / "vmlinux"

    @property
    def modules(self) -> tuple[Path, ...]:
        """Modules, in the order in which they must be loaded."""
        return tuple(sorted((self.place / "modules").iterdir()))

    @property
    def release(self) -> str:
        """What ``uname -r`` says there."""
        return (self.place / "release").read_text()


def find(series: str) -> Kernel | None:
    """Return the kernel of a series if it was fetched."""
    place = cache() / "kernels" / series
    return Kernel(place) if place.is_dir() else None


def fetch(series: str) -> Kernel:
    """Return the kernel of a series; download it if it was not.

    Raises:
        FetchError: it cannot be had.
    """
    found = find(series)
    if found:
        return found
    target = cache() / "kernels" / series
    target.parent.mkdir(parents=True, exist_ok=True)
    suite = Suite.open(SUITES[series])
    package = next((name for name in suite.dependencies("linux-image-amd64") if name.startswith("linux-image-")), "")
    release = package.removeprefix("linux-image-")
    if series != "newest" and not release.startswith(f"{series}."):
        raise FetchError(f"the kernel of {suite.name} is {release or 'missing'}, not of the series {series}")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        unpacked, made = Path(scratch) / "unpacked", Path(scratch) / "made"
        # From Linux 7 on image and modules are in packages that this one depends on.
        parts = [name for name in suite.dependencies(package) if name.endswith(f"-{release}")]
        for name in (package, *parts):
            suite.unpack(name, unpacked, wanted=lambda path: WANTED.search(path) is not None)
        _reduce(unpacked, made, release)
        made.rename(target)
    return Kernel(target)


def _reduce(unpacked: Path, made: Path, release: str) -> None:
    (made / "modules").mkdir(parents=True)
    (made / "release").write_text(release)
    image = next(path for path in unpacked.rglob("vmlinuz*") if path.is_file())
    (made / "vmlinux").write_bytes(_elf(image.read_bytes()))
    for number, (name, content) in enumerate(_closure(unpacked)):
        (made / "modules" / f"{number:02}-{name}.ko").write_bytes(content)


def _closure(unpacked: Path) -> Iterator[tuple[str, bytes]]:
    """Return the modules that are needed, each after those that it depends on."""
    files = {_module_name(path): path for path in unpacked.rglob("*.ko*")}
    lists = unpacked.rglob("modules.builtin")
    built_in = {_module_name(Path(line)) for path in lists for line in path.read_text().split()}
    done: set[str] = set()

    def visit(name: str) -> Iterator[tuple[str, bytes]]:
        if name in done or name in built_in:
            return
        done.add(name)
        if name not in files:
            raise FetchError(f"the kernel has no module {name}")
        content = _decompressed(files[name])
        depends = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in filter(None, (depends[1] if depends else b"").decode().split(",")):
            yield from visit(other.replace("-", "_"))
        yield name, content

    for name in MODULES:
        yield from visit(name)


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _decompressed(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".zst":
        content = _unzstd(content)
        if not content:
            raise FetchError(f"cannot decompress {path.name}")
    return content


def _unzstd(content: bytes) -> bytes:
    program = shutil.which("zstd")
    if program is None:
        raise FetchError("this kernel is compressed with zstd, which is not installed")
    return subprocess.run([program, "-dcq"], input=content, capture_output=True, check=False).stdout


def _elf(image: bytes) -> bytes:
    """Return the program that a bootable image holds in compressed form."""
    kinds = {
        b"\xfd7zXZ\x00": lambda content: lzma.LZMADecompressor().decompress(content),
        b"\x28\xb5\x2f\xfd": _unzstd,
        b"\x1f\x8b\x08": lambda content: zlib.decompressobj(31).decompress(content),
    }
    for magic, decompress in kinds.items():
        for found in re.finditer(re.escape(magic), image):
            try:
                program = decompress(image[found.start() :])
            except (lzma.LZMAError, zlib.error):
                continue
            if program.startswith(b"\x7fELF"):
                return program
    raise FetchError("the image of the kernel holds no program that we can find")
