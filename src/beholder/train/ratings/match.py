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

from beholder.errors import InputError, number_of
from beholder.train.ratings.findings import Finding, Findings, is_or_are
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.ratings.rows import names_at

FEWEST_RATINGS = 5
"""From fewer nothing can be fitted, and nothing measured."""

NameReader = Callable[[], Iterator[pa.Array | pa.ChunkedArray]]
"""Gives the names of a set in row order, piece by piece, anew at each call; `ScoreSet.samples` is one."""


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

    def lines(self, *, with_names: bool = True) -> list[str]:
        """What a summary says: how many matched, and each finding, on request without examples; in full sentences."""
        count = self.num_matched
        first = (
            f"{count:,} of {number_of(len(self.row_of), 'rated picture')} {is_or_are(count)} in the set of {self.num_rows:,}."
        )
        return [first, *(one.line(with_names=with_names) for one in self.findings)]


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
        findings.note("ambiguous", count, text, names_at(ratings.samples, unsure[:3]))
    found = Matched(row_of=row_of, ways=ways, num_rows=num_rows, findings=())
    _check_any(found, ratings, names, findings)
    _note_unmatched(found, ratings, names, findings)
    _check_enough(found, ratings, fewest)
    return Matched(row_of=row_of, ways=ways, num_rows=num_rows, findings=tuple(findings.found))


class _Forms:
    """What is compared of names, (n,) large strings each, made when it is asked for; null where there is none."""

    def __init__(self, names: pa.LargeStringArray) -> None:
        self.names = names
        self._tails: dict[int, pa.LargeStringArray] = {}

    @functools.cached_property
    def tidy(self) -> pa.LargeStringArray:
        """Without blanks at the ends and `./`, with / between folders, accents in one form (macOS writes them apart)."""
        tidy = pc.utf8_trim_whitespace(self.names)
        if not pc.all(pc.string_is_ascii(tidy)).as_py():
            tidy = pc.utf8_normalize(tidy, form="NFC")
        tidy = pc.replace_substring(tidy, "\\", "/")
        odd = pc.or_(pc.starts_with(tidy, "./"), pc.starts_with(tidy, "file://"))
        return pc.replace_substring_regex(tidy, r"^(\./)+|^file://", "") if pc.any(odd).as_py() else tidy

    @functools.cached_property
    def _without_query(self) -> pa.LargeStringArray:
        if not pc.any(pc.match_substring(self.tidy, "://")).as_py():
            return self.tidy
        return pc.replace_substring_regex(self.tidy, r"^([A-Za-z][\w+.-]*://[^?#]*)[?#].*$", r"\1")

    def tail(self, folders: int) -> pa.LargeStringArray:
        """The file's name with so many folders; null where there are not as many."""
        if folders not in self._tails:
            found = pc.extract_regex(self._without_query, rf"(?P<tail>[^/]+(?:/[^/]+){{{folders}}})$")
            self._tails[folders] = pc.struct_field(found, "tail").cast(pa.large_string())
        return self._tails[folders]

    @functools.cached_property
    def lower(self) -> pa.LargeStringArray:
        """The file's name in lower case."""
        return pc.utf8_lower(self.tail(0))

    @functools.cached_property
    def stem(self) -> pa.LargeStringArray:
        """The file's name without its last suffix (up to 5 letters or digits, a letter among them)."""
        return pc.replace_substring_regex(self.tail(0), r"^(.+)\.[0-9]{0,4}[A-Za-z][A-Za-z0-9]{0,4}$", r"\1")

    @functools.cached_property
    def lower_stem(self) -> pa.LargeStringArray:
        """The same in lower case."""
        return pc.utf8_lower(self.stem)

    @functools.cached_property
    def number(self) -> pa.LargeStringArray:
        """The number that the stem is, without zeros before it and `.0` behind; null for others."""
        found = pc.extract_regex(self.stem, r"^#?0*(?P<number>[0-9]+)(?:\.0)?$")
        return pc.struct_field(found, "number").cast(pa.large_string())


_WAYS: dict[str, Callable[[_Forms], pa.LargeStringArray]] = {
    "without blanks at the ends and with / between folders": lambda forms: forms.tidy,
    "by the file's name and 3 folders before it": lambda forms: forms.tail(3),
    "by the file's name and 2 folders before it": lambda forms: forms.tail(2),
    "by the file's name and 1 folder before it": lambda forms: forms.tail(1),
    "by the file's name": lambda forms: forms.tail(0),
    "by the file's name in any case": lambda forms: forms.lower,
    "by the file's name without the extension": lambda forms: forms.stem,
    "by the file's name without the extension, in any case": lambda forms: forms.lower_stem,
    "by the number in the file's name": lambda forms: forms.number,
}
"""How ratings that match no name exactly are tried, in this order: in words, and what has to be equal."""


class _Keys:
    """One way's keys of all ratings, and which rows have them."""

    def __init__(self, said: str, keys: pa.LargeStringArray) -> None:
        self.said = said
        encoded = keys.dictionary_encode()
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        self.values = encoded.dictionary
        times = np.bincount(places[places >= 0], minlength=len(self.values))
        owner = np.full(len(self.values), -1, np.int64)
        owner[places[places >= 0]] = np.flatnonzero(places >= 0)
        self.place_of = places
        self.owner = np.where(times == 1, owner, -1)
        self.hits = np.zeros(len(self.values), np.int64)
        self.row = np.full(len(self.values), -1, np.int64)

    def look(self, keys: pa.LargeStringArray, first: int) -> None:
        """Take in the keys of rows from `first` on, each counted once."""
        found = pc.index_in(keys, value_set=self.values).fill_null(-1).to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(found >= 0)
        hit = found[rows]
        self.hits += np.bincount(hit, minlength=len(self.hits))
        new, at = np.unique(hit, return_index=True)
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
    exact = _Keys("exactly", samples)
    num_rows = 0
    for first, piece in _pieces(names):
        exact.look(piece, first)
        num_rows = first + len(piece)
    row_of = exact.row[exact.place_of].copy()
    ways = {"exactly": int((row_of >= 0).sum())}
    unsure = np.zeros(len(samples), np.bool_)
    if (row_of < 0).any() and num_rows:
        mine = _Forms(samples)
        tried = [keys for said, way in _WAYS.items() if len((keys := _Keys(said, way(mine))).values)]
        for first, piece in _pieces(names):
            forms = _Forms(piece)
            for keys in tried:
                keys.look(_WAYS[keys.said](forms), first)
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
                ways[keys.said] = int(free.sum())
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


def _check_any(found: Matched, ratings: Ratings, names: NameReader, findings: Findings) -> None:
    """Raise InputError where nothing matched; `findings` may say why."""
    if found.num_matched:
        return
    if unsure := [str(one) for one in findings.found if one.what == "ambiguous"]:
        raise InputError(f"{ratings.source}: {unsure[0].rstrip('.')}; name the pictures with their folders, as the set does")
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
    findings.note("unmatched", count, text, names_at(ratings.samples, lost[:3]))
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
