"""A safetensors file in, from disk or by URL, and only the asked-for tensors out; also writes such files.

Format: 8 bytes little-endian length, that many bytes of JSON, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). Reading needs no torch and understands bfloat16, which NumPy has not.
Writing is done here because the same tensors must give the same bytes, and so the same sha256, every time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, InputError, damaged, reason_of
from beholder.io import storage

_MAX_HEADER_BYTES = 16 << 20
"""Published models have under 1 MB; a header of this size takes about 1 GB to take apart."""
_MAX_HEAD_BYTES = 256 << 20
_MAX_SPAN_BYTES = 16 << 20
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


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

    def read_bytes(self, names: Iterable[str]) -> dict[str, bytes]:
        """Raw bytes of the named tensors, with one read per run of neighbours of at most 16 MiB."""
        wanted = sorted(names, key=lambda name: self.tensors[name].start)
        found: dict[str, bytes] = {}
        while wanted:
            first = self.tensors[wanted[0]].start
            run = [wanted[0]]
            for name in wanted[1:]:
                if self.tensors[name].stop - first > _MAX_SPAN_BYTES:
                    break
                run.append(name)
            data = read_exactly(self.path, first, max(self.tensors[name].stop for name in run))
            for name in run:
                info = self.tensors[name]
                found[name] = data[info.start - first : info.stop - first]
            wanted = wanted[len(run) :]
        return found

    def read(self, names: Iterable[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The named tensors of a head as float64, exactly. Raises HeadError for tensors that are too large, or no floats."""
        names = list(names)
        num_bytes = sum(self.tensors[name].stop - self.tensors[name].start for name in names)
        if num_bytes > _MAX_HEAD_BYTES:
            raise HeadError(f"{self.path}: its layers have {num_bytes:,} bytes; a head has a few million at most")
        return {name: self._decoded(name, data) for name, data in self.read_bytes(names).items()}

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
    text = read_exactly(path, 8, 8 + header_bytes)
    try:
        return _parsed(path, json.loads(text, object_pairs_hook=_each_once), 8 + header_bytes)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = reason_of(error)
        raise HeadError(f"{path} is not a sound safetensors file: its header does not make sense ({reason})") from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names something twice")
    return found


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{str(values)[:50]} where whole numbers belong")
    return tuple(values)


def _parsed(path: str, header: Any, data_start: int) -> TensorFile:
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
        raise ValueError("metadata that is not text")
    tensors: dict[str, TensorInfo] = {}
    for name, record in header.items():
        start, stop = _whole_numbers(record["data_offsets"])
        shape = _whole_numbers(record["shape"])
        num_bytes = math.prod(shape) * _ITEM_BYTES.get(record["dtype"], 0)
        known = record["dtype"] in _ITEM_BYTES
        if min((0, *shape)) < 0 or not 0 <= start <= stop or (known and stop - start != num_bytes):
            raise ValueError(f"tensor {name} and its bytes do not agree")
        tensors[name] = TensorInfo(record["dtype"], shape, data_start + start, data_start + stop)
    end = max((info.stop for info in tensors.values()), default=data_start)
    found = storage.local_path(path).stat().st_size if storage.is_local(path) else end
    if found < end:
        raise HeadError(f"{path} is cut short: its header promises {end} bytes; get the file again")
    if found > end:
        raise HeadError(f"{path} has {found - end} bytes after the {end} that its header promises; get the file again")
    return TensorFile(path, tensors, dict(metadata), end)


def pack_tensors(tensors: Mapping[str, npt.NDArray[np.float64]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of float64 tensors, in the order of their names; the same input gives the same bytes."""
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    chunks: list[bytes] = []
    at = 0
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name], "<f8").tobytes()
        header[name] = {"dtype": "F64", "shape": list(tensors[name].shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
        chunks.append(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(chunks)
