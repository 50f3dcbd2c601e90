"""A folder, Parquet file, table or zip of pictures in; the rows of wanted samples, and where their bytes are, out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.io import storage
from beholder.pixels.picture import PicturePart, PictureRef, SourceOptions
from beholder.sources.pictures import parquet as packed
from beholder.sources.pictures.parts import reader_of

_KEPT_NAMES_BYTES = 64 << 20
"""Names of a part that take more bytes are read again for every question."""
_NEAR_ROWS = 64
"""Wanted rows with fewer rows between them are read together."""


@dataclass
class NamedRows:
    """The pictures of one part of kind "files", "parquet", "table" or "zip", by their samples.

    Attributes:
        part: as `find_pictures` gives it.
    """

    part: PicturePart
    _names: pa.Array | None = field(default=None, repr=False)

    def find(self, samples: pa.Array) -> list[int | None]:
        """Row of each of `samples` (large_string); None where this part has none of that name. Raises InputError."""
        names = self._names
        if names is None:
            names = self._read_names()
            if names.nbytes <= _KEPT_NAMES_BYTES:
                self._names = names
        if len(samples) * 4 < len(names):  # a hash table of the wanted ones, and one pass over the names
            hits = np.flatnonzero(pc.is_in(names, value_set=samples).to_numpy(zero_copy_only=False))
            inside: list[int | None] = pc.index_in(samples, value_set=names.take(pa.array(hits))).to_pylist()
            return [None if at is None else int(hits[at]) for at in inside]
        found: list[int | None] = pc.index_in(samples, value_set=names).to_pylist()
        return found

    def refs(self, rows: Iterable[int]) -> dict[int, PictureRef]:
        """Where the pictures of these rows are; bytes that have no place of their own are read. Raises InputError."""
        found: dict[int, PictureRef] = {}
        for stretch in _stretches(sorted(set(rows)), self.part.cuts or ()):
            wanted, at = set(stretch), stretch[0]
            for block in reader_of(self.part.kind).blocks(self.part, at, stretch[-1] + 1, SourceOptions(columns=())):
                found |= {at + i: ref for i, ref in enumerate(block.refs) if at + i in wanted}
                at += len(block.refs)
        return found

    def _read_names(self) -> pa.Array:
        if self.part.kind == "zip":
            names: pa.Array = self.part.detail["members"].samples
            return names
        if self.part.kind == "parquet":
            return self._parquet_names()
        options = SourceOptions(columns=(), block_rows=1 << 16)
        blocks = reader_of(self.part.kind).blocks(self.part, 0, None, options)
        return _joined(chunk for block in blocks for chunk in block.labels.column(0).chunks)

    def _parquet_names(self) -> pa.Array:
        """The samples without reading any picture."""
        part = self.part
        with storage.remote_errors(part.path), storage.open_parquet(part.path) as file:
            renamed = packed.sample_names(part, file)
            given = packed.own_names(part, file)
        if given is None:
            return pa.array([packed.row_name(part, row) for row in range(part.num_rows or 0)], pa.large_string())
        names = _joined(given.chunks)
        if not renamed:
            return names
        rows = sorted(renamed)
        mask = np.zeros(len(names), bool)
        mask[rows] = True
        return pc.replace_with_mask(names, pa.array(mask), pa.array([renamed[row] for row in rows], pa.large_string()))


def _joined(chunks: Iterable[pa.Array]) -> pa.Array:
    pieces = list(chunks)
    return pa.concat_arrays(pieces) if pieces else pa.array([], pa.large_string())


def _stretches(rows: Sequence[int], cuts: Sequence[int]) -> Iterator[list[int]]:
    """Rows that are read together: of one row group, or near to each other."""
    groups = np.searchsorted(np.array(cuts, np.int64), np.array(rows, np.int64), side="right") if cuts else None
    stretch: list[int] = []
    for i, row in enumerate(rows):
        near = stretch and (groups[i] == groups[i - 1] if groups is not None else row - stretch[-1] <= _NEAR_ROWS)
        if stretch and not near:
            yield stretch
            stretch = []
        stretch.append(row)
    if stretch:
        yield stretch
