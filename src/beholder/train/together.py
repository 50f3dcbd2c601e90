"""Which pictures belong together, and are never on both sides of a split, nor resampled apart; and what is to be said of it."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import number_of
from beholder.train.folds import joined_groups, near_pairs
from beholder.train.rated import FOLDER, Labels
from beholder.train.rows import Matrix, Rows, usable_rows
from beholder.train.sketches import Sketched, sketched
from beholder.train.source import EmbeddingSource


@dataclass(frozen=True, kw_only=True)
class Near:
    """Near-duplicates among N pictures: pairs (P, 2) of their numbers, and which of them (N,) have an embedding."""

    pairs: Rows
    is_embedded: npt.NDArray[np.bool_]

    def among(self, kept: Rows) -> Near:
        """Those of some of the pictures, (n,) numbers of them, ascending, by their places there."""
        at = np.full(len(self.is_embedded), -1, np.int64)
        at[kept] = np.arange(len(kept))
        pairs = at[self.pairs]
        return Near(pairs=pairs[(pairs >= 0).all(axis=1)], is_embedded=self.is_embedded[kept])


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the embeddings of N pictures say: near-duplicates, and sketches of each; None: there are no embeddings."""

    near: Near | None = None
    sketched: Sketched | None = None

    @classmethod
    def of(cls, num_pictures: int, at: Rows, matrix: Matrix, usable: Rows, backbone: str | None, similarity: float) -> Embedded:
        """Of those of N pictures, `at` (n,), whose embeddings are the `usable` (n,) rows of a matrix (M, D).

        `similarity`: the cosine from which two pictures are near-duplicates; 0: these are not looked for.
        """
        sketches = sketched(num_pictures, at, matrix, usable, backbone)
        if not similarity:
            return cls(sketched=sketches)
        pairs = at[near_pairs(matrix[usable], similarity)]
        return cls(near=Near(pairs=pairs, is_embedded=sketches.has_one), sketched=sketches)


def embedded_among(source: EmbeddingSource, samples: Sequence[str], similarity: float) -> Embedded:
    """What is known of N pictures that are called in a set of embeddings as here.

    Args:
        source: the embeddings; of rows that share a name the first is taken.
        samples: N names, each once.
        similarity: as `Embedded.of` has it.
    """
    row_of = np.full(len(samples), -1, np.int64)
    wanted, first = pa.array(samples, pa.large_string()), 0
    for names in source.names():
        found = pc.fill_null(pc.index_in(names.cast(pa.large_string()), value_set=wanted), -1)
        places = found.to_numpy(zero_copy_only=False).astype(np.int64)
        rows = np.flatnonzero(places >= 0)[::-1]
        rows = rows[row_of[places[rows]] < 0]
        row_of[places[rows]] = first + rows
        first += len(names)
    with tempfile.TemporaryDirectory(prefix="beholder-near-") as scratch:
        found_at = np.flatnonzero(row_of >= 0)
        at = found_at[np.argsort(row_of[found_at], kind="stable")]
        matrix = source.read(row_of[at], Path(scratch)).matrix
        usable, _ = usable_rows(matrix, np.zeros(len(matrix)))
        return Embedded.of(len(samples), at[usable], matrix, usable, source.backbone, similarity)


def together(
    num_rows: int, near: Near | None, labels: Labels | None, split_by: str | None, *, wanted: bool, then: str, otherwise: str
) -> tuple[Rows, list[str]]:
    """(N,) the group of each picture, from 0, and what is to be said of the groups.

    Args:
        num_rows: N.
        near: near-duplicates among them; None: there are no embeddings, or they were not looked for.
        labels: (N,) what else belongs together; None: nothing.
        split_by: what these labels are.
        wanted: whether near-duplicates were asked for.
        then: what becomes of the pictures of a group, a sentence.
        otherwise: what is wrong where near-duplicates could not be looked for and there are many.
    """
    notes = []
    lacking = num_rows if near is None else int(np.count_nonzero(~near.is_embedded))
    if lacking and wanted:
        whose, where = (
            ("No source has embeddings", "") if near is None else (f"{lacking:,} pictures have no embedding", " among them")
        )
        notes.append(f"{whose}, so near-duplicates could not be looked for{where}; where there are many, {otherwise}.")
    groups = joined_groups(num_rows, [] if labels is None else [labels], None if near is None else near.pairs)
    num_groups = int(groups.max()) + 1 if num_rows else 0
    if num_groups < num_rows:
        split = {None: "", FOLDER: "of one folder"}.get(split_by, f"equal in {split_by}")
        why = " or ".join(filter(None, ["" if near is None else "near-duplicates", split]))
        notes.append(f"The {num_rows:,} pictures are {number_of(num_groups, 'group')}: {why}. {then}")
    return groups, notes
