"""Sources read to their end as jobs read them, with every count compared with every other one."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from beholder.columns import SAMPLE
from beholder.io import locations
from beholder.kernels import ColumnBlock
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find
from beholder.sources.labels import embedding_labels_schema, join_labels, picture_labels_schema
from beholder.sources.reader import (
    Part,
    PicturePart,
    PictureRef,
    ReadOptions,
    SourceOptions,
    embedding_reader,
    picture_reader,
)
from beholder.sources.tar import TarReader

_MOST_DECODED = 12
_LIMITS = ReadLimits(max_bytes=1 << 24, timeout_s=1, num_tries=1)
_PIXELS = PixelOptions(size_px=16, max_pixels=1 << 22)


def everything(path: Path | str) -> Hashable:
    """All parts behind a source, by the readers that `score` takes for it; tells apart kinds, counts and reasons.

    Raises:
        BeholderError: as a job would end with.
        AssertionError: counts that do not add up, names that are not unique, a part of which other rows than all give other
            ones.
    """
    found = find([str(path)], SourceOptions(), ReadOptions(columns=("*",)))
    seen = [_embeddings(part, ReadOptions(columns=("*",))) for part in found.embeddings[:20]]
    if found.pictures:
        picture_labels_schema(found.pictures, SourceOptions())
    if found.embeddings:
        embedding_labels_schema(found.embeddings, ReadOptions(columns=("*",)))
    return (*seen, *(_pictures(part, SourceOptions()) for part in found.pictures[:20]))


def _embeddings(part: Part, options: ReadOptions) -> Hashable:
    rows, names, num_rejected = _rows(part, 0, None, options)
    assert part.num_rows in (None, len(rows)), f"{part.num_rows} rows are stated, {len(rows)} were read"
    assert rows.shape[1] == part.dim
    if part.num_rows is not None and len(rows) > 2 and part.cuts is None:
        some, some_names, _ = _rows(part, 1, len(rows) - 1, options)
        assert some.tobytes() == rows[1:-1].tobytes(), "other rows where a part is read"
        assert some_names is None or names is None or some_names == names[1:-1]
    return part.kind, part.dtype, min(part.dim, 30), min(len(rows), 30), min(num_rejected, 3), names is not None


def _rows(part: Part, start: int, stop: int | None, options: ReadOptions) -> tuple[Any, list[str] | None, int]:
    arrays, names, num_rejected = [np.empty((0, part.dim), part.dtype)], [], 0
    has_names = True
    for block in embedding_reader(part.kind).blocks(part, start, stop, options):
        assert block.embeddings.dtype.name in ("float16", "float32", "float64")
        rows = block.embeddings
        arrays.append(np.stack(rows.columns, axis=1) if isinstance(rows, ColumnBlock) else np.array(rows))
        has_names = has_names and block.labels is not None
        if block.labels is not None:
            assert block.labels.num_rows == rows.shape[0]
            assert block.labels.column_names[0] == SAMPLE
            block.labels.validate(full=True)
            names += block.labels.column(0).to_pylist()
        if block.statuses is not None:
            assert len(block.statuses) == rows.shape[0]
            num_rejected += int(np.count_nonzero(block.statuses))
    return np.concatenate(arrays), names if has_names else None, num_rejected


def _pictures(part: PicturePart, options: SourceOptions) -> Hashable:
    refs, names, remarks = _refs(part, 0, None, options)
    assert part.num_rows in (None, len(refs)), f"{part.num_rows} pictures are stated, {len(refs)} were read"
    assert len(set(names)) == len(names) == len(refs), "names are not unique"
    if part.num_rows is not None and len(refs) > 2 and part.cuts is None:
        some, some_names, _ = _refs(part, 1, len(refs) - 1, options)
        assert some_names == names[1:-1], "other pictures where a part is read"
        assert len(some) == len(refs) - 2
    reasons = Counter(decoded(ref) for ref in refs[:_MOST_DECODED])
    said = tuple(sorted((reason, min(count, 3)) for reason, count in reasons.items()))
    return part.kind, min(len(refs), 10), said, tuple(sorted(remarks)), min(part.num_ignored, 2)


def _refs(
    part: PicturePart, start: int, stop: int | None, options: SourceOptions
) -> tuple[list[PictureRef], list[str], dict[str, int]]:
    refs, tables, late, remarks, num_seen = [], [], [], dict[str, int](), 0
    for block in picture_reader(part.kind).blocks(part, start, stop, options):
        assert block.labels.num_rows == len(block.refs)
        refs += block.refs
        num_seen += len(block.refs)
        tables.append(block.labels)
        late += [] if block.late is None else [block.late]
        remarks |= block.remarks
    if not tables:
        return refs, [], remarks
    joined = join_labels(tables, picture_labels_schema([part], options), late=late, remarks=remarks)
    joined.validate(full=True)
    names = joined.column(0).to_pylist()
    assert all(isinstance(name, str) and name.encode() is not None for name in names)
    return refs, names, remarks


def tar_in_ranges(path: Path) -> Hashable:
    """A tar as one so large is read that it is cut into ranges: all of them together are what the whole has.

    Raises:
        BeholderError: it is no tar.
        AssertionError: other pictures, names or labels.
    """
    options = SourceOptions(block_rows=2)
    cut = TarReader(ranged_bytes=0, mark_rows=1).inspect(str(path), path.name, options)
    whole = TarReader().inspect(str(path), path.name, options)
    refs, names, rows = _tar_rows(whole, 0, None, options)
    if cut.num_rows is None:
        assert not refs
        return "none"
    assert cut.num_rows == len(refs)
    pieces = [_tar_rows(cut, low, min(low + 2, len(refs)), options) for low in range(0, len(refs), 2)]
    assert [ref for some, _, _ in pieces for ref in some] == refs, "other pictures in ranges"
    assert [name for _, some, _ in pieces for name in some] == names, "other names in ranges"
    assert [row for _, _, some in pieces for row in some] == rows, "other labels in ranges"
    return len(refs), len(cut.detail["index"].rows), len(cut.detail["index"].strays)


def _tar_rows(
    part: PicturePart, start: int, stop: int | None, options: SourceOptions
) -> tuple[list[PictureRef], list[str], list[dict[str, Any]]]:
    blocks = list(TarReader().blocks(part, start, stop, options))
    if not blocks:
        return [], [], []
    late = [block.late for block in blocks if block.late is not None]
    rows = join_labels([block.labels for block in blocks], late=late).to_pylist()
    said = [{key: str(value) for key, value in row.items() if value is not None} for row in rows]
    return [ref for block in blocks for ref in block.refs], [row["sample"] for row in rows], said


def decoded(ref: PictureRef, pixels: PixelOptions = _PIXELS) -> str:
    """What becomes of a picture: "ok", the reason of its reject, or "remote" of one that is not fetched."""
    if ref.error is not None:
        assert ref.error[1].isprintable() or ref.error[1], "a reason without words"
        return ref.error[0].value
    if ref.path is not None and not locations.is_local(ref.path):
        return "remote"
    try:
        found = prepare(ref.data if ref.data is not None else read_bytes(ref, _LIMITS), pixels)
    except PictureError as error:
        return error.reason.value
    assert found.pixels.shape == (pixels.size_px, pixels.size_px, 3)
    assert found.pixels.dtype == np.uint8
    assert found.width > 0
    assert found.height > 0
    return "ok"


def without_network() -> None:
    """From here on no name is looked up in this process, and nobody is connected to."""

    def refused(*_: object, **__: object) -> Sequence[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "no network in this test")

    def not_connected(self: socket.socket, address: object) -> None:
        raise ConnectionRefusedError(111, "no network in this test")

    socket.getaddrinfo = refused  # type: ignore[assignment]
    socket.socket.connect = not_connected  # type: ignore[method-assign]
