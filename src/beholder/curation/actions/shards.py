"""Bytes of pictures in; a webdataset tar with a table beside, or a Parquet file with an image column, out."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

KEY, IMAGE = "key", "image"
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1000
"""Most bytes and rows of a row group of pictures."""
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})

Member = tuple[str, bytes, int]
"""Name, bytes, and time in seconds."""


class ShardWriter(Protocol):
    """A shard that is being written."""

    def add(self, key: str, members: list[Member], row: int) -> None:
        """One picture, its bytes first, and what belongs to it; `row`: of the table of what is known."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


class TarShard:
    """A tar of pictures, and a Parquet file of the same rows: `key`, `sample`, and all that is known of them.

    Args:
        paths: of the tar and the table.
        known: what is known of all pictures, `sample` first.
    """

    def __init__(self, paths: list[Path], known: pa.Table) -> None:
        self._tar = tarfile.open(paths[0], "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._table, self._known = paths[1], known
        self._rows: list[int] = []
        self._keys: list[str] = []

    def add(self, key: str, members: list[Member], row: int) -> None:
        """See `ShardWriter`."""
        for name, data, time in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), time, 0o644
            self._tar.addfile(info, io.BytesIO(data))
        self._keys.append(key)
        self._rows.append(row)

    def close(self) -> None:
        """See `ShardWriter`."""
        self._tar.close()
        table = self._known.take(pa.array(self._rows, pa.int64()))
        columns = {name: table.column(name) for name in table.column_names if name != KEY}
        pq.write_table(pa.table({KEY: pa.array(self._keys, pa.string()), **columns}), self._table, compression="zstd")


class ParquetShard:
    """A Parquet file as Hugging Face's datasets has it: `image` (struct of bytes and path), then all that is known.

    Row groups have at most 1,000 rows and about 32 MiB of pictures, so that one picture can be had without the others.
    """

    def __init__(self, path: Path, known: pa.Table) -> None:
        self._known, self._schema = known, parquet_schema(known.schema)
        light = [name for name in self._schema.names if name != IMAGE]
        self._writer = pq.ParquetWriter(path, self._schema, compression="snappy", use_dictionary=light)
        self._images: list[dict[str, Any]] = []
        self._rows: list[int] = []
        self._num_bytes = 0

    def add(self, key: str, members: list[Member], row: int) -> None:
        """See `ShardWriter`; of the members only the picture is kept, `key` is its path."""
        data = members[0][1]
        if self._rows and (self._num_bytes + len(data) > _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS):
            self._flush()
        self._images.append({"bytes": data, "path": key})
        self._rows.append(row)
        self._num_bytes += len(data)

    def _flush(self) -> None:
        if self._rows:
            table = self._known.take(pa.array(self._rows, pa.int64()))
            arrays = [pa.array(self._images, _IMAGE), *table.columns]
            self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._images, self._rows, self._num_bytes = [], [], 0

    def close(self) -> None:
        """See `ShardWriter`."""
        self._flush()
        self._writer.close()


def parquet_schema(schema: pa.Schema) -> pa.Schema:
    """`image` and the other columns, with the features that Hugging Face's datasets reads, where it has words for all."""
    fields = [field.with_name(f"source_{IMAGE}") if field.name == IMAGE else field for field in schema]
    made = pa.schema([pa.field(IMAGE, _IMAGE), *fields])
    features: dict[str, Any] = {IMAGE: {"_type": "Image"}}
    for field in fields:
        feature = _feature(field.type)
        if feature is None:
            return made
        features[field.name] = feature
    return made.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


_WORDS = {
    pa.string(): "string", pa.large_string(): "large_string", pa.bool_(): "bool", pa.null(): "null", pa.date32(): "date32",
    pa.float16(): "float16", pa.float32(): "float32", pa.float64(): "float64", pa.int8(): "int8", pa.int16(): "int16",
    pa.int32(): "int32", pa.int64(): "int64", pa.uint8(): "uint8", pa.uint16(): "uint16", pa.uint32(): "uint32",
    pa.uint64(): "uint64", pa.binary(): "binary", pa.large_binary(): "large_binary",
}  # fmt: skip


def _feature(kind: pa.DataType) -> Any:
    """A type in the words of Hugging Face's datasets; None where there are none."""
    if kind in _WORDS:
        return {"dtype": _WORDS[kind], "_type": "Value"}
    if pa.types.is_timestamp(kind):
        return {"dtype": f"timestamp[{kind.unit}{f', tz={kind.tz}' if kind.tz else ''}]", "_type": "Value"}
    if pa.types.is_list(kind):
        inside = _feature(kind.value_type)
        return {"feature": inside, "_type": "Sequence"} if inside is not None and "_type" in inside else None
    if pa.types.is_struct(kind) and kind.num_fields:
        found = {field.name: _feature(field.type) for field in kind}
        return None if any(feature is None for feature in found.values()) else found
    return None


def keys_of(table: Path) -> list[str]:
    """Keys in the table beside a tar."""
    keys: list[str] = pq.read_table(table, columns=[KEY]).column(0).to_pylist()
    return keys
