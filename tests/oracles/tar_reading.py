"""Tars in; all that our reader gives of them out. And a tar as img2dataset writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from beholder.sources.labels import join_labels
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions
from beholder.sources.tar import TarReader
from oracles.tar_making import png, tar


def part_of(path: Path | str, **options: Any) -> PicturePart:
    """What the reader finds out about a tar."""
    return TarReader().inspect(str(path), Path(path).name, SourceOptions(**options))


def read(
    path: Path | str, start: int = 0, stop: int | None = None, **options: Any
) -> tuple[list[PictureRef], list[dict[str, Any]], pa.Table]:
    """Refs, rows and joined labels of a tar."""
    chosen = SourceOptions(**options)
    blocks = list(TarReader().blocks(part_of(path, **options), start, stop, chosen))
    if not blocks:
        return [], [], pa.table({})
    assert all(len(block.refs) == block.labels.num_rows <= chosen.block_rows for block in blocks)
    assert all(block.labels.column_names[0] == "sample" for block in blocks)
    labels = join_labels([block.labels for block in blocks])
    return [ref for block in blocks for ref in block.refs], labels.to_pylist(), labels


def data_of(ref: PictureRef) -> bytes:
    """The bytes at a place in a local file, or those that came along."""
    if ref.data is not None:
        return ref.data
    assert ref.path is not None
    assert ref.offset is not None
    assert ref.length is not None
    return Path(ref.path).read_bytes()[ref.offset : ref.offset + ref.length]


def samples(rows: list[dict[str, Any]]) -> list[str]:
    """The samples of rows."""
    return [row["sample"] for row in rows]


def write(path: Path, data: bytes) -> Path:
    """Write a file; its path."""
    path.write_bytes(data)
    return path


def img2dataset_tar(folder: Path, shard: int = 0, count: int = 20, *, failed: tuple[int, ...] = (3, 7)) -> Path:
    """A shard as img2dataset writes it: failed rows are in the Parquet file and not in the tar."""
    members, rows = [], []
    for i in range(count):
        key = f"{shard:05d}{i:04d}"
        row = {
            "url": f"http://x/{i}.jpg", "caption": f"of {i}", "key": key,
            "status": "failed_to_download" if i in failed else "success",
            "error_message": "404" if i in failed else None, "width": None if i in failed else 256 + i,
        }  # fmt: skip
        rows.append(row)
        if i not in failed:
            members += [(f"{key}.jpg", png(i)), (f"{key}.json", json.dumps(row).encode()), (f"{key}.txt", f"of {i}".encode())]
    schema = pa.schema([("url", pa.string()), ("caption", pa.string()), ("key", pa.string()), ("status", pa.string()),
                        ("error_message", pa.string()), ("width", pa.int32())])  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema), folder / f"{shard:05d}.parquet")
    return write(folder / f"{shard:05d}.tar", tar(members))
