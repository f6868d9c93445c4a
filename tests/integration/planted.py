"""Packages that do what packages should not, made by hand."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import shutil
import subprocess
import sysconfig
import zipfile
from pathlib import Path

from harness import Person, lacking


def wheel(person: Person, directory: Path, name: str, version: str, source: str, **others: bytes) -> Path:
    """Make a wheel of a package with this ``__init__.py``, and others beside it (``__`` in a name is ``.``)."""
    about = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nSome words.\nName: other\n"
    files = {
        f"{name}/__init__.py": source.encode(),
        **{f"{name}/{other.replace('__', '.')}": data for other, data in others.items()},
        f"{about}/METADATA": metadata.encode(),
        f"{about}/WHEEL": b"Wheel-Version: 1.0\nGenerator: by hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = io.StringIO()
    for path, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
        csv.writer(lines, lineterminator="\n").writerow((path, f"sha256={digest}", len(data)))
    files[f"{about}/RECORD"] = (lines.getvalue() + f"{about}/RECORD,,\n").encode()
    made = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(made, "w") as archive:
        for path, data in files.items():
            archive.writestr(path, data)
    os.chown(made, person.uid, person.gid)
    return made


EXTENSION = """
#include <Python.h>
#include <fcntl.h>
#include <unistd.h>
static PyObject *look(PyObject *self, PyObject *args)
{
    const char *path;
    if (!PyArg_ParseTuple(args, "s", &path))
        return NULL;
    int fd = open(path, O_RDONLY);
    if (fd >= 0)
        close(fd);
    return PyBool_FromLong(fd >= 0);
}
static PyMethodDef methods[] = {{"look", look, METH_VARARGS, ""}, {0}};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "quiet", "", -1, methods};
PyMODINIT_FUNC PyInit_quiet(void) { return PyModule_Create(&module); }
"""


def extension(place: Path) -> bytes:
    """Return an extension module ``quiet`` for the Python of the tests, whose ``look`` opens a file below Python."""
    headers = Path(sysconfig.get_paths()["include"])
    if not (headers / "Python.h").exists() or not shutil.which("cc"):
        lacking("python-headers", "no C compiler or no Python.h: apt-get install gcc python3-dev")
    (place / "quiet.c").write_text(EXTENSION)
    built = place / "quiet.so"
    command = ["cc", "-shared", "-fPIC", "-O1", f"-I{headers}", "-o", str(built), str(place / "quiet.c")]
    subprocess.run(command, check=True)
    return built.read_bytes()
