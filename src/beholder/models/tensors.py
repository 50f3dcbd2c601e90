"""Files of weights that are read without torch: which kind a file is, safetensors (local or by URL), `.npy` and `.npz`.

Nothing in a file is run, and no size that it claims is believed unchecked. Of safetensors
(https://github.com/huggingface/safetensors#format: 8 bytes little-endian length, that many bytes of JSON, then the tensors'
bytes) only the header and the asked-for tensors are read; bfloat16, which NumPy has not, is understood. They are written here
because the same tensors must give the same bytes, and so the same sha256, every time.
"""

from __future__ import annotations

import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, InputError, damaged, reason_of
from beholder.io import storage

Kind = Literal["safetensors", "npy", "npz", "torchscript", "torch archive", "other"]
Shapes = Mapping[str, tuple[int, ...]]

_MAX_HEADER_BYTES = 16 << 20
"""Published models have under 1 MB; a header of this size takes about 1 GB to take apart."""
_MAX_HEAD_BYTES = 256 << 20
"""Of all layers of a head, unpacked; a published one has 3.7 MB."""
_MAX_SPAN_BYTES = 16 << 20
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def look_at(path: Path) -> tuple[Kind, bytes]:
    """Which kind a local file of weights seems to be, and its first 4096 bytes. Raises HeadError where it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error
    if len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors", start
    if not start.startswith(b"PK\3\4"):
        return "npy" if start.startswith(b"\x93NUMPY") else "other", start
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged zip can raise nearly anything; who reads archives of torch says what is wrong
        return "torch archive", start
    if names and all(name.endswith(".npy") for name in names):
        return "npz", start
    return "torchscript" if any("/code/" in name for name in names) else "torch archive", start


def refuse_no_weights(path: Path, start: bytes, what: str) -> None:
    """Raise HeadError for files that come instead of the wanted one (`what`: "a head", say), told by how they start."""
    if not start:
        raise HeadError(f"{path} is empty; get the file again")
    if start.lstrip().startswith(b"<"):
        raise HeadError(f"{path} is a web page, not {what}; the download went wrong, get the file again")
    if start.startswith(b"version https://git-lfs"):
        raise HeadError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def listed(names: Sequence[str]) -> str:
    """Up to four names, and how many more there are, for messages."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its dtype word, its shape, and its bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_exactly(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of `path`. Raises HeadError when it is shorter or cannot be read.

    A web server may ignore the range and send everything; the part is then cut out here.
    """
    try:
        data = storage.read_range(path, start, stop)
    except InputError as error:
        raise HeadError(str(error)) from error
    if len(data) > stop - start:
        data = data[start:stop]
    if len(data) < stop - start:
        raise HeadError(f"{path} is cut short: bytes {start} to {stop} are not all there; get the file again")
    return data


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file.

    Attributes:
        path: local path or URL.
        tensors: what it holds, by name.
        metadata: the header's free texts.
        num_bytes: size that the header promises for the whole file.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    num_bytes: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by name."""
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The named tensors of a head as float64, exactly; neighbours of up to 16 MiB are read at once.

        Raises HeadError for tensors that are too large, or no floats.
        """
        wanted = sorted(names, key=lambda name: self.tensors[name].start)
        num_bytes = sum(self.tensors[name].stop - self.tensors[name].start for name in wanted)
        if num_bytes > _MAX_HEAD_BYTES:
            raise HeadError(f"{self.path}: its layers have {num_bytes:,} bytes; a head has a few million at most")
        runs: list[list[str]] = []
        for name in wanted:
            if not runs or self.tensors[name].stop - self.tensors[runs[-1][0]].start > _MAX_SPAN_BYTES:
                runs.append([])
            runs[-1].append(name)
        found: dict[str, npt.NDArray[np.float64]] = {}
        for run in runs:
            first, stop = self.tensors[run[0]].start, max(self.tensors[name].stop for name in run)
            data = read_exactly(self.path, first, stop)
            for name in run:
                info = self.tensors[name]
                found[name] = self._decoded(name, data[info.start - first : info.stop - first])
        return found

    def _decoded(self, name: str, data: bytes) -> npt.NDArray[np.float64]:
        info = self.tensors[name]
        if info.dtype not in (*_FLOATS, "BF16"):
            raise HeadError(f"{self.path}: tensor {name} holds {info.dtype}, not floating-point weights")
        with damaged(lambda why: HeadError(f"{self.path} is damaged: tensor {name}: {why}")):
            if info.dtype == "BF16":
                upper_halves = np.frombuffer(data, "<u2").astype(np.uint32) << 16
                return upper_halves.view(np.float32).astype(np.float64).reshape(info.shape)
            return np.frombuffer(data, _FLOATS[info.dtype]).astype(np.float64).reshape(info.shape)


def open_tensors(path: str) -> TensorFile:
    """Read the header of the safetensors file at `path`, a local path or a URL.

    Raises HeadError when it cannot be reached, is no safetensors file, or is shorter than it promises.
    """
    header_bytes = int.from_bytes(read_exactly(path, 0, 8), "little")
    if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
        raise HeadError(f"{path} is not a safetensors file: it does not begin with the length of a header")
    text, data_start = read_exactly(path, 8, 8 + header_bytes), 8 + header_bytes
    try:
        header = json.loads(text, object_pairs_hook=_each_once)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
            raise ValueError("metadata that is not text")
        tensors = {name: _tensor_info(name, record, data_start) for name, record in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = reason_of(error)
        raise HeadError(f"{path} is not a sound safetensors file: its header does not make sense ({reason})") from None
    end = max((info.stop for info in tensors.values()), default=data_start)
    found = storage.local_path(path).stat().st_size if storage.is_local(path) else end
    if found < end:
        raise HeadError(f"{path} is cut short: its header promises {end} bytes; get the file again")
    if found > end:
        raise HeadError(f"{path} has {found - end} bytes after the {end} that its header promises; get the file again")
    return TensorFile(path, tensors, dict(metadata), end)


def _tensor_info(name: str, record: Any, data_start: int) -> TensorInfo:
    start, stop = _whole_numbers(record["data_offsets"])
    shape, dtype = _whole_numbers(record["shape"]), record["dtype"]
    is_as_long = dtype not in _ITEM_BYTES or stop - start == math.prod(shape) * _ITEM_BYTES[dtype]
    if min((0, *shape)) < 0 or not 0 <= start <= stop or not is_as_long:
        raise ValueError(f"tensor {name} and its bytes do not agree")
    return TensorInfo(dtype, shape, data_start + start, data_start + stop)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names something twice")
    return found


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{str(values)[:50]} where whole numbers belong")
    return tuple(values)


def pack_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file with these tensors, one behind the other in this order wherever they lie now."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, info in tensors.items():
        stop = at + info.stop - info.start
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pack_tensors(tensors: Mapping[str, npt.NDArray[np.float64]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of float64 tensors, in the order of their names; the same input gives the same bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name], "<f8") for name in sorted(tensors)}
    infos = {name: TensorInfo("F64", array.shape, 0, array.nbytes) for name, array in arrays.items()}
    return pack_header(infos, dict(sorted(metadata.items()))) + b"".join(array.tobytes() for array in arrays.values())


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a `.npy` file. Raises HeadError, and OSError."""
    num_bytes = path.stat().st_size
    if num_bytes > _MAX_HEAD_BYTES:
        raise HeadError(f"{path} has {num_bytes:,} bytes; a head has a few million at most, so this is something else")
    return _array(path.read_bytes(), str(path))


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz` archive by name. Raises HeadError, and OSError."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    with damaged(lambda why: HeadError(f"{path} is damaged: {why}; write it again")), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        num_bytes = sum(info.file_size for info in infos)
        if num_bytes > _MAX_HEAD_BYTES:
            raise HeadError(f"{path} unpacks to {num_bytes:,} bytes; a head has a few million at most")
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise HeadError(f"{path} has two arrays called {name}; save it again under two names")
            with archive.open(info) as member:
                arrays[name] = _array(member.read(info.file_size + 1), f"{path}[{name}]")
    return arrays


def _array(data: bytes, where: str) -> npt.NDArray[Any]:
    """The array of an `.npy` file's bytes; its header is believed only as far as there are bytes, and objects are refused."""
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
