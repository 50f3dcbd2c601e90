"""Ratings matched to the pictures of a set by name: exactly, or in ways that are forgiven where only one picture fits."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError
from beholder.train.ratings.findings import Finding, Findings, is_or_are, number_of
from beholder.train.ratings.ratings import Numbers, Ratings

FEWEST_RATINGS = 5
"""From fewer nothing can be fitted, and nothing measured."""

NameReader = Callable[[], Iterator[pa.Array | pa.ChunkedArray]]
"""Gives the names of a set in row order, piece by piece, anew at each call; `ScoreSet.samples` is one."""

_FOLDERS = (3, 2, 1, 0)
"""So many folders before a file's name are compared, most first."""


@dataclass(frozen=True, kw_only=True)
class Matched:
    """Which row of a set each rated picture is.

    Attributes:
        row_of: (N,) int64: row of each of `Ratings.samples`, -1 for those that match none. No row is there twice.
        ways: how they matched -> how many; what is not there matched none. The first is `exactly`.
        num_rows: rows of the set.
        findings: remarks on what matched and what did not.
    """

    row_of: Numbers
    ways: dict[str, int]
    num_rows: int
    findings: tuple[Finding, ...]

    @property
    def num_matched(self) -> int:
        """Rated pictures that are in the set."""
        return int(np.count_nonzero(self.row_of >= 0))

    @property
    def places(self) -> Numbers:
        """(M,) places in the ratings of those that matched, in the order of their rows."""
        found = np.flatnonzero(self.row_of >= 0)
        return found[np.argsort(self.row_of[found], kind="stable")].astype(np.int64)

    @property
    def rows(self) -> Numbers:
        """(M,) rows that have a rating, ascending: `ratings.values[matched.places]` are their ratings."""
        return self.row_of[self.places]


@dataclass(frozen=True)
class _Way:
    """A way to match.

    Attributes:
        said: in words.
        key: names -> what has to be equal; null matches nothing.
    """

    said: str
    key: Callable[[pa.LargeStringArray], pa.LargeStringArray]


def match_ratings(ratings: Ratings, names: NameReader, *, fewest: int = FEWEST_RATINGS) -> Matched:
    """Match ratings to the rows of a set.

    A rating belongs to the row whose name is exactly its own. Those that are left are tried in the ways of `_WAYS`, in that
    order: blanks at the ends, the last parts of the path, letters' case, the extension, zeros before a number. A way counts
    only where its key stands for one name among all ratings, and for one row that no other rating took. Where rows of the set
    share a name, the first gets the rating.

    Memory: for each way the ratings' keys and 40 bytes a rating, and a byte for each row; names are read at most four times.

    Args:
        ratings: as read.
        names: of the set.
        fewest: so many have to match.

    Raises:
        InputError: none matches (the line shows a name of each side), fewer than `fewest` do, or, of ratings by place, the
            numbers of rows differ.
    """
    findings = Findings()
    if ratings.is_by_row:
        row_of, num_rows = _by_row(ratings, names)
        ways = {"by the number of the row": len(row_of)}
    else:
        row_of, ways, num_rows, unsure = _by_name(ratings.samples, names)
        _note_ways(ways, findings)
        count = len(unsure)
        fits = is_or_are(count, "fits", "fit")
        text = f"{number_of(count, 'rated picture')} {fits} several pictures of the set, or several fit one; none is taken"
        findings.note("ambiguous", count, text, (ratings.samples[int(place)].as_py() for place in unsure[:3]), is_warning=True)
    found = Matched(row_of=row_of, ways=ways, num_rows=num_rows, findings=())
    _check_any(found, ratings, names)
    _note_unmatched(found, ratings, names, findings)
    _check_enough(found, ratings, fewest)
    return Matched(row_of=row_of, ways=ways, num_rows=num_rows, findings=tuple(findings.found))


def _text(value: str | None) -> pa.Scalar:
    return pa.scalar(value, pa.large_string())


def _own(names: pa.LargeStringArray) -> pa.LargeStringArray:
    return names


def _tidy(names: pa.LargeStringArray) -> pa.LargeStringArray:
    """Without blanks at the ends and `./`, with / between folders, accents in one form (macOS writes them apart)."""
    tidy = pc.utf8_normalize(pc.utf8_trim_whitespace(names), form="NFC")
    return pc.replace_substring_regex(pc.replace_substring(tidy, "\\", "/"), r"^(\./)+|^file://", "")


def _tail(names: pa.LargeStringArray, folders: int) -> pa.LargeStringArray:
    """The file's name with so many folders; null where there are not as many, and of the whole path where it is the whole."""
    plain = pc.replace_substring_regex(_tidy(names), r"^([A-Za-z][\w+.-]*://[^?#]*)[?#].*$", r"\1")
    return _nulled(pc.struct_field(pc.extract_regex(plain, rf"(?P<tail>[^/]+(?:/[^/]+){{{folders}}})$"), "tail"))


def _stem(names: pa.LargeStringArray) -> pa.LargeStringArray:
    """The file's name without its last suffix (1 to 5 letters or digits, a letter among them); a name without one as it is."""
    return pc.replace_substring_regex(_tail(names, 0), r"^(.+)\.[0-9]{0,4}[A-Za-z][A-Za-z0-9]{0,4}$", r"\1")


def _lower(names: pa.LargeStringArray) -> pa.LargeStringArray:
    return pc.utf8_lower(_tail(names, 0))


def _lower_stem(names: pa.LargeStringArray) -> pa.LargeStringArray:
    return pc.utf8_lower(_stem(names))


def _number(names: pa.LargeStringArray) -> pa.LargeStringArray:
    """The number that a file's name without suffix is, without zeros before it and `.0` behind; null for others."""
    found = pc.extract_regex(_stem(names), r"^#?0*(?P<number>[0-9]+)(?:\.0)?$")
    return _nulled(pc.struct_field(found, "number"))


def _nulled(values: pa.Array) -> pa.LargeStringArray:
    return values.cast(pa.large_string())


_WAYS: tuple[_Way, ...] = (
    _Way("without blanks at the ends and with / between folders", _tidy),
    *(
        _Way(f"by the file's name and {number_of(folders, 'folder')} before it" if folders else "by the file's name",
             functools.partial(_tail, folders=folders))
        for folders in _FOLDERS
    ),
    _Way("by the file's name in any case", _lower),
    _Way("by the file's name without the extension", _stem),
    _Way("by the file's name without the extension, in any case", _lower_stem),
    _Way("by the number in the file's name", _number),
)  # fmt: skip
"""Tried in this order for ratings that match no name exactly."""


class _Keys:
    """One way's keys of all ratings, and which rows have them."""

    def __init__(self, way: _Way, samples: pa.LargeStringArray) -> None:
        self.way = way
        encoded = way.key(samples).dictionary_encode()
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        self.values = encoded.dictionary
        times = np.bincount(places[places >= 0], minlength=len(self.values))
        owner = np.full(len(self.values), -1, np.int64)
        owner[places[places >= 0]] = np.flatnonzero(places >= 0)
        self.place_of = places
        self.owner = np.where(times == 1, owner, -1)
        self.hits = np.zeros(len(self.values), np.int64)
        self.row = np.full(len(self.values), -1, np.int64)

    def look(self, names: pa.LargeStringArray, first: int) -> None:
        """Take in names of rows from `first` on, each counted once."""
        found = pc.index_in(self.way.key(names), value_set=self.values).fill_null(-1).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(found >= 0)
        keys = found[rows]
        self.hits += np.bincount(keys, minlength=len(self.hits))
        new, at = np.unique(keys, return_index=True)
        fresh = self.row[new] < 0
        self.row[new[fresh]] = first + rows[at[fresh]]


def _pieces(names: NameReader) -> Iterator[tuple[int, pa.LargeStringArray]]:
    """Row number of the first name, and names as one array, null where a row has none."""
    first = 0
    for piece in names():
        for chunk in piece.chunks if isinstance(piece, pa.ChunkedArray) else [piece]:
            if len(chunk):
                yield first, chunk.cast(pa.large_string())
                first += len(chunk)


def _by_name(samples: pa.LargeStringArray, names: NameReader) -> tuple[Numbers, dict[str, int], int, Numbers]:
    """Row of each sample, how many matched in which way, rows of the set, and the samples that fit several."""
    exact = _Keys(_Way("exactly", _own), samples)
    num_rows = 0
    for first, piece in _pieces(names):
        exact.look(piece, first)
        num_rows = first + len(piece)
    row_of = exact.row[exact.place_of].copy()
    ways = {"exactly": int((row_of >= 0).sum())}
    unsure = np.zeros(len(samples), np.bool_)
    if (row_of < 0).any() and num_rows:
        tried = [_Keys(way, samples) for way in _WAYS]
        for first, piece in _pieces(names):
            for keys in tried:
                keys.look(piece, first)
        taken = np.zeros(num_rows, np.bool_)
        taken[row_of[row_of >= 0]] = True
        for keys in tried:
            open_ = (row_of < 0) & (keys.place_of >= 0)
            places = np.flatnonzero(open_)
            of = keys.place_of[places]
            row, alone = keys.row[of], (keys.owner[of] >= 0) & (keys.hits[of] == 1)
            unsure[places[(row >= 0) & ~alone]] = True
            free = alone & (row >= 0)
            free[free] = ~taken[row[free]]
            row_of[places[free]] = row[free]
            taken[row[free]] = True
            if free.any():
                ways[keys.way.said] = int(free.sum())
    return row_of, ways, num_rows, np.flatnonzero(unsure & (row_of < 0)).astype(np.int64)


def _by_row(ratings: Ratings, names: NameReader) -> tuple[Numbers, int]:
    """Rows by place. Raises InputError where the set has fewer rows than ratings name."""
    num_rows = sum(len(piece) for piece in names())
    row_of = np.array(ratings.samples.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    if row_of.size and int(row_of.max()) >= num_rows:
        raise InputError(
            f"{ratings.source} has ratings for {int(row_of.max()) + 1:,} rows and more, the set has {num_rows:,}; ratings by "
            "place need as many rows in the same order"
        )
    return row_of, num_rows


def _note_ways(ways: dict[str, int], findings: Findings) -> None:
    for way, count in ways.items():
        if way != "exactly":
            findings.note("matched", count, f"{number_of(count, 'rated picture')} matched {way}, where only one fits")


def _check_any(found: Matched, ratings: Ratings, names: NameReader) -> None:
    """Raise InputError where nothing matched."""
    if found.num_matched:
        return
    example = next((piece[0].as_py() for _, piece in _pieces(names)), None)
    if example is None:
        raise InputError(f"{ratings.source}: the set has no rows that ratings could belong to")
    mine = ratings.samples[0].as_py()
    raise InputError(
        f"{ratings.source}: none of its {len(ratings.samples):,} rated pictures is among the {found.num_rows:,} of the set; "
        f"here they are named as {mine!r}, there as {example!r}; name the column with the same names with "
        "--ratings-sample-column, or give the set that was rated"
    )


def _note_unmatched(found: Matched, ratings: Ratings, names: NameReader, findings: Findings) -> None:
    """Say how many of either side have no partner; the names of rows are read until three of these are found."""
    lost = np.flatnonzero(found.row_of < 0)
    count = len(lost)
    text = f"{number_of(count, 'rated picture')} of {len(found.row_of):,} {is_or_are(count)} not in the set"
    findings.note(
        "unmatched",
        count,
        text,
        (ratings.samples[int(place)].as_py() for place in lost[:3]),
        is_warning=count * 2 > len(found.row_of),
    )
    unrated = found.num_rows - found.num_matched
    if not unrated:
        return
    text = f"{number_of(unrated, 'picture')} of {found.num_rows:,} of the set {is_or_are(unrated, 'has', 'have')} no rating"
    findings.note("unrated", unrated, text, _first_unrated(found, names))


def _first_unrated(found: Matched, names: NameReader) -> list[str]:
    rated: npt.NDArray[Any] = np.zeros(found.num_rows, np.bool_)
    rated[found.row_of[found.row_of >= 0]] = True
    wanted = np.flatnonzero(~rated)[:3]
    shown: list[str] = []
    for first, piece in _pieces(names):
        inside = wanted[(wanted >= first) & (wanted < first + len(piece))]
        shown += [piece[int(row - first)].as_py() or f"#{row}" for row in inside]
        if len(shown) == len(wanted):
            break
    return shown


def _check_enough(found: Matched, ratings: Ratings, fewest: int) -> None:
    """Raise InputError where too few matched."""
    if ratings.pairs is not None:
        both = (found.row_of[ratings.pairs.better] >= 0) & (found.row_of[ratings.pairs.worse] >= 0)
        count, what = int(both.sum()), "pair"
    else:
        count, what = found.num_matched, "rated picture"
    if count < fewest:
        raise InputError(
            f"{ratings.source}: {number_of(count, what)} {is_or_are(count)} in the set, too few to learn from or to measure "
            f"with; at least {fewest} are needed, and some hundred for anything that can be trusted"
        )
