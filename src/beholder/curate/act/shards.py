"""The two kinds of shards: a webdataset tar with a table beside, and a Parquet file with an image column."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.columns import source_names

KEY, IMAGE = "key", "image"
CAPTION, TEXT = "caption", "text"
"""Columns that hold captions: in the table beside a tar, and in Parquet as Hugging Face's trainers have it."""
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1000
"""Most bytes and rows of a row group of pictures."""
_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})

Member = tuple[str, bytes, int]
"""Name, bytes, and time in seconds."""


class TarShard:
    """A tar of pictures, and a Parquet file of the same rows: `key`, `sample`, and all that is known of them.

    Args:
        tar, table: where they are written.
        known: what is known of all pictures, `sample` first.
        captions: the column that captions are of. Then the column `caption` of the table has those that are in the tar; another
            one of that name becomes `source_caption`.
    """

    def __init__(self, tar: Path, table: Path, known: pa.Table, captions: str | None = None) -> None:
        self._tar = tarfile.open(tar, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._table, self._known = table, known
        self._rows: list[int] = []
        self._keys: list[str] = []
        self._names = {name: name for name in known.column_names if name not in (KEY, CAPTION if captions == CAPTION else KEY)}
        if captions is not None:
            self._names = source_names(self._names, [CAPTION])
        self._captions: list[str | None] | None = [] if captions is not None else None

    def add(self, key: str, members: list[Member], row: int, caption: str | None = None) -> None:
        """One picture, its bytes first, and what belongs to it; `row`: of the table of what is known."""
        for name, data, time in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(data), time, 0o644
            self._tar.addfile(info, io.BytesIO(data))
        self._keys.append(key)
        self._rows.append(row)
        if self._captions is not None:
            self._captions.append(caption)

    def close(self) -> None:
        """Finish the files."""
        self._tar.close()
        table = self._known.take(pa.array(self._rows, pa.int64()))
        columns = {new: table.column(name) for name, new in self._names.items()}
        if self._captions is not None:
            columns[CAPTION] = pa.array(self._captions, pa.string())
        made = pa.table({KEY: pa.array(self._keys, pa.string()), **columns})
        pq.write_table(made, self._table, compression="zstd", write_page_checksum=True)


class ParquetShard:
    """A Parquet file as Hugging Face's datasets has it: `image` (struct of bytes and path), then all that is known.

    Where captions are of a column, those that are not empty stand in `text`; another column of that name becomes `source_text`.
    Row groups have at most 1,000 rows and about 32 MiB of pictures, so that one picture can be had without the others.
    """

    def __init__(self, path: Path, known: pa.Table, captions: str | None = None) -> None:
        if captions == TEXT:
            known = known.drop_columns([TEXT])
        self._known, self._schema = known, parquet_schema(known.schema, has_captions=captions is not None)
        self._captions: list[str | None] | None = [] if captions is not None else None
        light = [name for name in self._schema.names if name != IMAGE]
        self._writer = pq.ParquetWriter(
            path, self._schema, compression="snappy", use_dictionary=light, write_page_checksum=True
        )
        self._images: list[dict[str, Any]] = []
        self._rows: list[int] = []
        self._num_bytes = 0

    def add(self, key: str, members: list[Member], row: int, caption: str | None = None) -> None:
        """One picture, the first of the members, which alone is kept; `key`: its path, `row`: of the table of what is known."""
        data = members[0][1]
        if self._rows and (self._num_bytes + len(data) > _GROUP_BYTES or len(self._rows) >= _GROUP_ROWS):
            self._flush()
        self._images.append({"bytes": data, "path": key})
        self._rows.append(row)
        if self._captions is not None:
            self._captions.append(caption)
        self._num_bytes += len(data)

    def _flush(self) -> None:
        if self._rows:
            table = self._known.take(pa.array(self._rows, pa.int64()))
            first: list[pa.Array] = [pa.array(self._images, _IMAGE)]
            if self._captions is not None:
                first.append(pa.array(self._captions, pa.string()))
                self._captions = []
            kinds = self._schema.types[len(first) :]
            columns = [column.cast(kind) for column, kind in zip(table.columns, kinds, strict=True)]
            self._writer.write_table(pa.table([*first, *columns], schema=self._schema))
        self._images, self._rows, self._num_bytes = [], [], 0

    def close(self) -> None:
        """Finish the files."""
        self._flush()
        self._writer.close()


def parquet_schema(schema: pa.Schema, *, has_captions: bool = False) -> pa.Schema:
    """`image`, captions as `text`, and the other columns, in types of Hugging Face's datasets, its features in the metadata.

    A column for which it has no words is left out of the features: it takes that from its Arrow type, and `image` stays one.
    """
    names = source_names(schema.names, [IMAGE, TEXT] if has_captions else [IMAGE])
    fields = [pa.field(TEXT, pa.string())] if has_captions else []
    fields += [pa.field(names[field.name], _plain(field.type)) for field in schema]
    features: dict[str, Any] = {IMAGE: {"_type": "Image"}}
    for field in fields:
        if (feature := _feature(field.type)) is not None:
            features[field.name] = feature
    made = pa.schema([pa.field(IMAGE, _IMAGE), *fields])
    return made.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _plain(kind: pa.DataType) -> pa.DataType:
    """The type itself, or what holds the same values where datasets cannot read it.

    Maps become lists of `key` and `value`, extension types (uuid, json) what they are stored as.
    """
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(kind.storage_type)
    if pa.types.is_map(kind):
        return pa.list_(pa.struct([("key", _plain(kind.key_type)), ("value", _plain(kind.item_type))]))
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        return kind
    inside = kind.value_field.with_type(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(inside)
    return pa.list_(inside, kind.list_size if pa.types.is_fixed_size_list(kind) else -1)


_WORDS = {"halffloat": "float16", "float": "float32", "double": "float64", "date32[day]": "date32", "date64[ms]": "date64"}
"""Types that datasets calls by other names than Arrow does."""


def _feature(kind: pa.DataType) -> Any:
    """A type in the words of Hugging Face's datasets; None where there are none that all its versions know."""
    if pa.types.is_dictionary(kind):
        return _feature(kind.value_type)
    if pa.types.is_struct(kind) and kind.num_fields:
        found = {field.name: _feature(field.type) for field in kind}
        return None if any(feature is None for feature in found.values()) else found
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inside = _feature(kind.value_type)
        if inside is None:
            return None
        if pa.types.is_struct(kind.value_type):  # its Sequence of a struct is a struct of lists
            return [inside] if pa.types.is_list(kind) else None
        length = {"length": kind.list_size} if pa.types.is_fixed_size_list(kind) else {}
        return {"feature": inside, **length, "_type": "LargeList" if pa.types.is_large_list(kind) else "Sequence"}
    if pa.types.is_nested(kind):
        return None
    return {"dtype": _WORDS.get(str(kind), str(kind)), "_type": "Value"}
