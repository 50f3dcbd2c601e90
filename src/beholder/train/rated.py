"""Matched ratings as arrays: what pictures or pairs were rated, how noisy that is, and the groups that they are of."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError, number_of
from beholder.io import locations, storage
from beholder.train import noise
from beholder.train.pairs import Pairs
from beholder.train.ratings.layout import PairsLayout, layout_of
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Floats, Numbers, Ratings
from beholder.train.ratings.rows import mask_of
from beholder.train.ratings.tables import CSV, JSON, PARQUET, RatingTable, file_table, names_of, objects_table, read_json
from beholder.train.training import RowRatings

Labels = npt.NDArray[Any]

FOLDER = "folder"
"""In place of a column: the folder of a picture's name."""


def rated_rows(
    ratings: Ratings,
    places: Numbers,
    samples: Sequence[str] | None = None,
    *,
    groups: Sequence[Labels] = (),
    balance: Labels | None = None,
) -> RowRatings:
    """Ratings of some pictures.

    Args:
        ratings: of any kind but pairs.
        places: (M,) which of them, in the order that is wanted.
        samples: M names of these pictures; None: rows are known by their directions.
        groups: (N,) labels each of all rated pictures: which belong together.
        balance: (N,) labels that are to count the same in all.
    """
    variances = variances_of(ratings)
    return RowRatings(
        values=ratings.values[places],
        variances=None if variances is None else variances[places],
        weights=None if ratings.counts is None else ratings.counts[places],
        groups=[labels[places] for labels in groups],
        balance=None if balance is None else balance[places],
        samples=samples,
    )


def rated_pairs(
    ratings: Ratings, places: Numbers, samples: Sequence[str] | None = None, *, groups: Sequence[Labels] = ()
) -> Pairs:
    """Those pairs of which both pictures are among some; their rows are numbers of these.

    Args:
        ratings: of the kind pairs.
        places: (M,) which pictures.
        samples: M names of them.
        groups: (N,) labels of all rated pictures.
    """
    assert ratings.pairs is not None
    at = np.full(ratings.num_samples, -1, np.int64)
    at[places] = np.arange(len(places))
    better, worse = at[ratings.pairs.better], at[ratings.pairs.worse]
    has_both = (better >= 0) & (worse >= 0)
    return Pairs(
        left=better[has_both],
        right=worse[has_both],
        targets=np.where(ratings.pairs.is_tie[has_both], 0.5, 1.0),
        votes=ratings.pairs.votes[has_both],
        groups=tuple(labels[places] for labels in groups),
        samples=None if samples is None else tuple(samples),
    )


def ratings_record(ratings: Ratings, file: str | None, num_matched: int, ways: Mapping[str, int]) -> dict[str, Any]:
    """What a record says of the ratings.

    Args:
        ratings: as read.
        file: where they were read from.
        num_matched: rated pictures that were found.
        ways: in which way how many of them were (`Matched.ways`).
    """
    return {
        "file": file,
        "public_name": ratings.public_name,
        "kind": ratings.kind,
        "layout": ratings.layout,
        "scale": ratings.scale,
        "num_pictures": ratings.num_samples,
        "num_matched": num_matched,
        "ways": dict(ways),
    }


def variances_of(ratings: Ratings) -> Floats | None:
    """(N,) variance of each mean about the true one, NaN where nothing tells; None where nothing does for any."""
    if ratings.histogram is not None and ratings.levels is not None:
        return noise.from_histograms(ratings.histogram, ratings.levels)
    if ratings.kind in ("pairs", "decisions") or ratings.counts is None:
        return None
    if ratings.reliability is not None:
        return np.asarray(ratings.reliability.within / ratings.counts)
    if ratings.deviations is None:
        return None
    return noise.from_deviations(np.nan_to_num(ratings.deviations), ratings.counts)


def folders_of(names: Sequence[str]) -> Labels:
    """(N,) texts: the folder of each picture by its name, "" for one in none."""
    return np.array([posixpath.dirname(name) for name in names], dtype=object)


def has_labels(column: str, ratings: Ratings, path: str) -> bool:
    """Whether `labels_of` finds this column in the file of ratings."""
    table = None if ratings.is_by_row else _table_of(path)
    return table is not None and column in table.schema.names


def labels_of(column: str, ratings: Ratings, path: str, options: RatingsOptions, flags: str) -> Labels:
    """(N,) texts: the group of each rated picture, "" where it has none.

    Args:
        column: of the table of ratings; or `FOLDER`.
        ratings: as read.
        path: where they were read from.
        options: how they were read.
        flags: that ask for it, for messages.

    Raises:
        InputError: no table, no such column, a table of pairs, or a column with several values for one picture.
    """
    if column == FOLDER:
        return folders_of(ratings.samples.to_pylist())
    table = None if ratings.is_by_row else _table_of(path)
    if table is None:
        raise InputError(f"{flags} {column}: {path} is no table with columns; say {FOLDER}, or leave it out")
    if column not in table.schema.names:
        raise InputError(f"{path} has no column {column!r}; it has {', '.join(table.schema.names[:20])}")
    layout = layout_of(table, options)
    if isinstance(layout, PairsLayout) or layout.sample is None:
        raise InputError(f"{flags} {column}: pairs have no groups of pictures; leave it out, or say {FOLDER}")
    data = table.read([layout.sample, column])
    names = names_of(data[layout.sample], table.named, layout.sample)
    labels = names_of(data[column], table.named, column)
    known = pc.and_(pc.is_valid(names), pc.is_valid(labels))
    names, labels = names.filter(known), labels.filter(known)
    at = pc.index_in(ratings.samples, value_set=names)
    first = labels.take(pc.index_in(names, value_set=names))
    differs = mask_of(pc.and_(pc.not_equal(labels, first), pc.is_in(names, value_set=ratings.samples)))
    if differs.any():
        row = int(np.flatnonzero(differs)[0])
        count = pc.count_distinct(names.filter(pa.array(differs))).as_py()
        raise InputError(
            f"{flags} {column}: {path} has several values in that column for {number_of(count, 'picture')} "
            f"({names[row]}: {first[row]} and {labels[row]}), and a picture is in one group; name a column that says something "
            f"of the picture, not of who rated it, or say {FOLDER}"
        )
    return np.array(pc.fill_null(labels.take(at), "").to_pylist(), dtype=object)


def _table_of(path: str) -> RatingTable | None:
    """The file of ratings as a table; None where it is of another kind, or not one file."""
    suffix = locations.without_query(path).lower()
    if storage.is_folder(path) or not storage.exists(path):
        return None
    if suffix.endswith(JSON):
        return objects_table(read_json(path), path)
    return file_table(path) if suffix.endswith((*CSV, *PARQUET)) else None


def values_at(pieces: Iterable[pa.ChunkedArray], rows: Numbers) -> pa.ChunkedArray:
    """Values at rows, which ascend, of a column that comes in pieces (of a score set, `ScoreSet.samples` and `batches`)."""
    found: list[pa.ChunkedArray] = []
    first = 0
    for piece in pieces:
        low, high = np.searchsorted(rows, [first, first + len(piece)])
        if high > low:
            found.append(piece.take(pa.array(rows[low:high] - first)))
        first += len(piece)
    return pa.chunked_array([chunk for piece in found for chunk in piece.chunks], None if found else pa.null())
