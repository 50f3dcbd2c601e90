"""The embeddings that a head is trained on: a set of embeddings, those that a score set kept, or pictures, embedded first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import SCORE_SET_FORMAT, SIDECAR_SUFFIX, STAMP_FILE
from beholder.errors import InputError
from beholder.io import storage
from beholder.notices import doing
from beholder.scoreset.score_set import open_scores
from beholder.scoreset.vectors import MatrixFile, pieces_of, stored
from beholder.sources.detect import detect
from beholder.sources.find import find_parts
from beholder.sources.reader import Part, ReadOptions, SourceOptions
from beholder.sources.stamp import find_stamps, read_stamp
from beholder.train.rows import Rows

Pieces = Generator[tuple[Part, pa.Array, npt.NDArray[Any], npt.NDArray[np.bool_]]]
"""A few rows at a time, as `pieces_of` gives them."""


@dataclass(frozen=True)
class EmbeddingSource:
    """A set of embeddings, of which some rows are wanted.

    Attributes:
        place: where it is, as messages name it.
        parts, options: how it is read.
        dim: numbers of an embedding.
        backbone: the tower by its stamp; None where nobody says.
    """

    place: str
    parts: Sequence[Part]
    options: ReadOptions
    dim: int
    backbone: str | None

    def names(self) -> Iterator[pa.Array]:
        """Names of all rows in order, a piece at a time (`train.ratings.match.NameReader`)."""
        with self._pieces() as pieces:
            for _, names, _, _ in pieces:
                yield names

    def _pieces(self) -> contextlib.closing[Pieces]:
        return contextlib.closing(pieces_of(self.parts, self.options, 0, None))

    def read(self, rows: Rows, scratch: Path) -> RatedRows:
        """Rows of these numbers (ascending, each once), in that order; memory does not grow with them.

        Args:
            rows: (M,) their numbers.
            scratch: a folder with room for 2 (float16) or 4 bytes a number.
        """
        is_half = all(part.dtype == "float16" for part in self.parts)
        at = 0
        names: list[str] = []
        with MatrixFile(scratch, self.dim, np.dtype(np.float16 if is_half else np.float32)) as out:
            with self._pieces() as pieces:
                for _, some, block, is_whole in pieces:
                    low, high = np.searchsorted(rows, [at, at + len(some)])
                    inside = rows[low:high] - at
                    chosen = block[inside]
                    chosen = np.where(is_whole[inside][:, None], chosen, np.asarray(np.nan, chosen.dtype))
                    out.add(stored(chosen, out.dtype))
                    names += some.take(pa.array(inside)).to_pylist()
                    at += len(some)
            return RatedRows(out.matrix()[:, : self.dim], names)


@dataclass(frozen=True)
class RatedRows:
    """The embeddings of rated rows: (M, D) float16 or float32, mapped, NaN where a row has none; and the rows' names."""

    matrix: npt.NDArray[Any]
    names: list[str]


def open_source(sources: Sequence[str], embed: Callable[[], str]) -> EmbeddingSource:
    """Find the embeddings behind `sources`.

    Args:
        sources: embeddings in any layout that `beholder score` reads, a score set with kept embeddings, or pictures.
        embed: makes embeddings of the sources, which are pictures, and says where they are.

    Raises:
        InputError: there is nothing, embeddings of different lengths or towers, a score set that kept none.
    """
    kept = _kept_beside(sources)
    if kept is not None:
        return _opened([kept])
    with doing("looking at the sources"):
        is_pictures = detect(sources, SourceOptions(), None) == "pictures"
    return _opened([embed()] if is_pictures else list(sources))


def _kept_beside(sources: Sequence[str]) -> str | None:
    """Where a score set keeps its embeddings; None where the source is none. Raises InputError where it keeps none."""
    base = sources[0].rstrip("/")
    record = f"{base}/{STAMP_FILE}" if storage.is_folder(base) else base + SIDECAR_SUFFIX
    if len(sources) != 1 or not storage.exists(record) or read_stamp(record).record.get("format") != SCORE_SET_FORMAT:
        return None
    with open_scores(sources[0]) as scores:
        if scores.embeddings is None:
            raise InputError(
                f"{sources[0]} holds scores without embeddings; give its pictures to beholder score again with "
                "--keep-embeddings, or name embeddings"
            )
        return scores.embeddings


def _opened(sources: Sequence[str]) -> EmbeddingSource:
    options = ReadOptions()
    parts = find_parts(sources, options)
    odd = next((part for part in parts if part.dim != parts[0].dim), None)
    if odd is not None:
        raise InputError(f"{odd.path} has embeddings of {odd.dim} numbers and {parts[0].path} of {parts[0].dim}; name one set")
    towers = {stamp.backbone for stamp in find_stamps(parts)[0] if stamp.backbone}
    if len(towers) > 1:
        raise InputError(f"the embeddings are of several towers ({', '.join(sorted(towers))}); name one set")
    return EmbeddingSource(", ".join(sources), parts, options, parts[0].dim, next(iter(towers), None))
