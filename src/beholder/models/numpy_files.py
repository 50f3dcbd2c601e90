"""A `.npy` or `.npz` file in, its arrays and texts by name out; objects in it are never unpickled."""

from __future__ import annotations

import io
import math
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, damaged

_MAGIC = b"\x93NUMPY"
_MOST_BYTES = 256 << 20
"""Of all arrays of a file, unpacked; a head has a few million at most."""


def is_npy(start: bytes) -> bool:
    """Whether a file that starts with these bytes is meant as `.npy`."""
    return start.startswith(_MAGIC)


def is_npz(path: Path) -> bool:
    """Whether the file is a zip of `.npy` members alone, as `numpy.savez` writes it. Raises OSError."""
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return False  # who reads zips of torch says what is wrong
    return bool(names) and all(name.endswith(".npy") for name in names)


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a `.npy` file. Raises HeadError, and OSError."""
    num_bytes = path.stat().st_size
    if num_bytes > _MOST_BYTES:
        raise HeadError(f"{path} has {num_bytes:,} bytes; a head has a few million at most, so this is something else")
    return _array(path.read_bytes(), str(path))


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz` archive by name. Raises HeadError, and OSError."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    with damaged(lambda why: HeadError(f"{path} is damaged: {why}; write it again")), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        num_bytes = sum(info.file_size for info in infos)
        if num_bytes > _MOST_BYTES:
            raise HeadError(f"{path} unpacks to {num_bytes:,} bytes; a head has a few million at most")
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise HeadError(f"{path} has two arrays called {name}; save it again under two names")
            with archive.open(info) as member:
                arrays[name] = _array(member.read(info.file_size + 1), f"{path}[{name}]")
    return arrays


def _array(data: bytes, where: str) -> npt.NDArray[Any]:
    """The array of an `.npy` file's bytes; its header is believed only as far as there are bytes."""
    stream = io.BytesIO(data)
    with damaged(lambda why: HeadError(f"{where} is damaged: {why}; write it again")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and Python remark on odd headers; what matters is raised
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        if dtype.hasobject:
            raise HeadError(
                f"{where} is refused: it holds Python objects, which could run code; save plain numbers, "
                "for example numpy.savez('head.npz', coef_=model.coef_, intercept_=model.intercept_)"
            )
        num_bytes = math.prod(shape) * dtype.itemsize
        found = len(data) - stream.tell()
        if min((0, *shape)) < 0 or found != num_bytes:
            raise HeadError(f"{where} is damaged: its header promises {num_bytes:,} bytes of numbers, and it has {found:,}")
        if not num_bytes:
            return np.empty(shape, dtype)
        return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")
