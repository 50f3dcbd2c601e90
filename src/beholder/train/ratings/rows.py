"""Rows of a table of ratings: those that can be used, and what their pictures are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.errors import InputError
from beholder.train.ratings.findings import Findings, is_or_are, number_of
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Floats, Numbers

Mask = npt.NDArray[np.bool_]


@dataclass
class Rows:
    """Rows of a table, of which fewer and fewer are left.

    Attributes:
        named: where they are from.
        names: (n,) large strings, null where a row names no picture.
        is_left: (n,) bool.
        findings: what was left out, and why.
    """

    named: str
    names: pa.LargeStringArray
    is_left: Mask
    findings: Findings

    @classmethod
    def of(cls, named: str, names: pa.LargeStringArray, findings: Findings) -> Rows:
        """All rows that name a picture. Raises InputError where there are none."""
        if not len(names):
            raise InputError(f"{named} has no rows; a row for each rating was expected")
        rows = cls(named, names, np.ones(len(names), np.bool_), findings)
        rows.drop(
            np.asarray(names.is_null().to_numpy(zero_copy_only=False), np.bool_),
            "unnamed",
            "names no picture",
            "name no picture",
        )
        return rows

    def drop(self, mask: Mask, what: str, one: str, many: str, examples: Iterable[str] | None = None) -> None:
        """Leave out those of `mask` that are still there, and say so: `3 rows <many>; they are left out`."""
        gone = mask & self.is_left
        count = int(np.count_nonzero(gone))
        if not count:
            return
        shown = self.examples(gone) if examples is None else list(examples)
        text = f"{number_of(count, 'row')} {one if count == 1 else many}; {'it is' if count == 1 else 'they are'} left out"
        self.findings.note(what, count, text, shown)
        self.is_left = self.is_left & ~gone

    def examples(self, mask: Mask) -> list[str]:
        """Names of the first three of these rows."""
        return [self.names[int(row)].as_py() or "a row without a name" for row in np.flatnonzero(mask)[:3]]

    def keep_scale(self, values: Floats, options: RatingsOptions) -> None:
        """Leave out ratings outside the scale that was given."""
        with np.errstate(invalid="ignore"):
            for bound, flag, outside, word in (
                (options.lowest, "--lowest-rating", values < (options.lowest or 0), "below"),
                (options.highest, "--highest-rating", values > (options.highest or 0), "above"),
            ):
                if bound is not None:
                    said = f"{word} {flag} {bound:g}"
                    self.drop(outside, "outside", f"has a rating {said}", f"have ratings {said}")

    def samples(self) -> tuple[Numbers, pa.LargeStringArray]:
        """(m,) places of the rows that are left in the distinct names, and these names. Raises InputError when none is left."""
        if not self.is_left.any():
            why = "; ".join(map(str, self.findings.found)).rstrip(".")
            raise InputError(f"{self.named} has no rating that can be used: {why}")
        return distinct(self.names.filter(pa.array(self.is_left)))


def distinct(names: pa.LargeStringArray) -> tuple[Numbers, pa.LargeStringArray]:
    """(n,) names -> (n,) int64 places in the distinct ones, and these in order of appearance."""
    encoded = names.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.cast(pa.large_string())


def sums_by(places: Numbers, values: Floats | None, size: int) -> Floats:
    """(size,) float64: the values added up by place; None counts them."""
    found: Floats = np.bincount(places, values, minlength=size).astype(np.float64)
    return found


def number_names(count: int) -> pa.LargeStringArray:
    """Names of rows that have none: their numbers from 0."""
    return pa.array(np.arange(count)).cast(pa.large_string())


def note_duplicates(keys: Numbers, samples: pa.LargeStringArray, findings: Findings, became: str) -> None:
    """Say how many pictures are there more than once. `became`: what was done about it, as in `averaged`."""
    times = np.bincount(keys, minlength=len(samples))
    twice = np.flatnonzero(times > 1)
    if twice.size:
        count = len(twice)
        rows = int(times[twice].sum())
        text = (
            f"{number_of(count, 'picture')} {is_or_are(count)} rated more than once, in {rows:,} rows without a column of "
            f"raters; they are {became}"
        )
        findings.note("duplicated", count, text, (samples[int(place)].as_py() for place in twice[:3]))
