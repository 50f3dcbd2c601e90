"""An `.npz` archive in, blocks of its one 2-D float array out, streamed without unpacking it as a whole."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
import pyarrow as pa

from beholder import columns, storage
from beholder.embeddings.block import Block, Part, ReadOptions
from beholder.embeddings.labels import plain_labels, refuse_columns, select_labels
from beholder.embeddings.npy import check_array, read_header
from beholder.embeddings.readahead import read_ahead
from beholder.errors import InputError

_HEADER_BYTES = 1 << 16
_PREFERRED = ("embeddings", "embedding", "img_emb", "image_embeddings", "features", "arr_0")


class NpzReader:
    """Reads `.npz` files: one 2-D float array, and 1-D string arrays of the same length as labels."""

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Read the headers of the archive's arrays and choose the embeddings."""
        num_bytes = storage.size(path)
        if num_bytes == 0:
            raise InputError(f"{path} is empty (0 bytes)")
        arrays: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]] = {}
        with _open_archive(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    with _member(archive, member, path) as stream:
                        shape, fortran, dtype, _ = read_header(_read(stream, _HEADER_BYTES, path), f"{path}[{member[:-4]}]")
                    arrays[member[:-4]] = (shape, fortran, dtype)
        key = _choose(arrays, options.embedding_column, path)
        shape, fortran, dtype = arrays[key]
        where = f"{path}[{key}]"
        check_array(shape, dtype, where)
        if fortran:
            raise InputError(f"{where} is in Fortran order, which cannot be streamed from an archive; save it as .npy")
        labels = [other for other, (s, _, d) in arrays.items() if other != key and s == shape[:1] and d.kind in "USiuf"]
        detail = {"key": key, "labels": labels}
        return Part(path, name, "npz", shape[0], shape[1], dtype.name, num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop), inflated a block at a time."""
        return read_ahead(_stream(part, start, stop, options))


def _choose(arrays: dict[str, tuple[tuple[int, ...], bool, np.dtype[Any]]], wanted: str | None, path: str) -> str:
    if wanted is not None:
        if wanted not in arrays:
            raise InputError(f"{path} has no array {wanted!r}; it has: {', '.join(sorted(arrays)) or 'none'}")
        return wanted
    for key in _PREFERRED:
        if key in arrays:
            return key
    found = [key for key, (shape, _, dtype) in arrays.items() if len(shape) == 2 and dtype.kind == "f"]
    if len(found) == 1:
        return found[0]
    listing = ", ".join(f"{key} {shape} {dtype}" for key, (shape, _, dtype) in sorted(arrays.items())) or "none"
    raise InputError(f"{path}: which array holds the embeddings? Name it with --embedding-column; it has: {listing}")


def _open_archive(path: str) -> zipfile.ZipFile:
    with storage.remote_errors(path):
        try:
            return zipfile.ZipFile(storage.open_binary(path))
        except zipfile.BadZipFile as error:
            raise InputError(f"{path} is not a whole .npz archive: {error}; write it again") from None


def _member(archive: zipfile.ZipFile, name: str, path: str) -> IO[bytes]:
    try:
        return archive.open(name)
    except (NotImplementedError, RuntimeError) as error:  # an unknown compression, a password
        raise InputError(f"{path}: {name} cannot be unpacked ({error}); write it with numpy.savez") from None


def _read(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    try:
        return stream.read(num_bytes)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise InputError(f"{where} is damaged: {error}; write it again") from None


def _read_exactly(stream: IO[bytes], num_bytes: int, where: str) -> bytes:
    pieces, missing = [], num_bytes
    while missing:
        piece = _read(stream, missing, where)
        if not piece:
            raise InputError(f"{where} ends early: {missing} bytes are missing; write it again")
        pieces.append(piece)
        missing -= len(piece)
    return b"".join(pieces)


def _stream(part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
    assert part.num_rows is not None
    stop = part.num_rows if stop is None else stop
    key, dtype = str(part.detail["key"]), np.dtype(part.dtype)
    where = f"{part.path}[{key}]"
    row_bytes = part.dim * dtype.itemsize
    rows = max(1, options.block_bytes // 4 // row_bytes)
    with _open_archive(part.path) as archive, storage.remote_errors(part.path):
        labels = _labels(archive, part, options)
        with _member(archive, key + ".npy", part.path) as stream:
            head = _read(stream, _HEADER_BYTES, where)
            *_, offset = read_header(head, where)
            stream.seek(offset + start * row_bytes)
            for low in range(start, stop, rows):
                high = min(stop, low + rows)
                data = _read_exactly(stream, (high - low) * row_bytes, where)
                yield Block(np.frombuffer(data, dtype).reshape(high - low, part.dim), labels.slice(low, high - low))


def _labels(archive: zipfile.ZipFile, part: Part, options: ReadOptions) -> pa.Table:
    assert part.num_rows is not None
    arrays = {}
    for key in part.detail["labels"]:
        with _member(archive, f"{key}.npy", part.path) as stream:
            values = np.lib.format.read_array(stream, allow_pickle=False)
        arrays[key] = pa.array(
            [v.decode("utf-8", "replace") for v in values]
            if values.dtype.kind == "S"
            else values.astype(values.dtype.newbyteorder("="))
        )
    aliases = {"samples": columns.SAMPLE, "paths": "path", "ids": "id", "keys": "key", "names": columns.SAMPLE}
    for alias, usual in aliases.items():
        if alias in arrays and usual not in arrays:
            arrays[usual] = arrays.pop(alias)
    if not arrays:
        refuse_columns(part, options)
        return plain_labels(part, 0, part.num_rows)
    return select_labels(pa.table(arrays), part, 0, options)
