"""Rows of a table of ratings: those that can be used, what their pictures are called, whether they are of one scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.errors import InputError, number_of
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Floats, Numbers

Mask = npt.NDArray[np.bool_]

_FEWEST_RATINGS = 10
"""Of fewer the highest says little about the scale."""
_LARGEST = 1e9
"""Larger ratings, and ratings that differ by less than one over this, are of no scale that people use."""
_FAR = 100.0
"""A rating that is further from the median than so many times the middle nine tenths are wide stands alone."""


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
        rows.drop(mask_of(names.is_null()), "unnamed", "names no picture", "name no picture")
        return rows

    def drop(self, mask: Mask, what: str, one: str, many: str, examples: Iterable[str] | None = None) -> None:
        """Leave out those of `mask` that are still there, and say so: `3 rows <many>; they are left out`."""
        gone = mask & self.is_left
        count = int(np.count_nonzero(gone))
        if not count:
            return
        shown = self.examples(gone) if examples is None else list(examples)
        text = f"{number_of(count, 'row')} {is_or_are(count, one, many)}; {is_or_are(count, 'it is', 'they are')} left out"
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

    def check_any(self) -> None:
        """Raise InputError where no row is left."""
        if not self.is_left.any():
            why = "; ".join(map(str, self.findings.found)).rstrip(".")
            raise InputError(f"{self.named} has no rating that can be used: {why}")

    def samples(self) -> tuple[Numbers, pa.LargeStringArray]:
        """(m,) places of the rows that are left in the distinct names, and these names. Raises InputError when none is left."""
        self.check_any()
        return distinct(self.names.filter(pa.array(self.is_left)))


def mask_of(values: pa.Array | pa.ChunkedArray) -> Mask:
    """(n,) Arrow truth values, none of them null."""
    return np.asarray(values.to_numpy(zero_copy_only=False), np.bool_)


def names_at(names: pa.LargeStringArray, places: Numbers) -> list[str]:
    """Names at these places."""
    found: list[str] = names.take(pa.array(places, pa.int64())).to_pylist()
    return found


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
        findings.note("duplicated", count, text, names_at(samples, twice[:3]))


def check_varied(values: Floats, named: str, what: str = "ratings") -> None:
    """Raise InputError where all values are the same, so that there is nothing to learn, or of no scale of ratings."""
    if values.size > 1 and np.ptp(values) == 0:
        raise InputError(
            f"{named}: all {values.size:,} {what} are {values[0]:g}, so there is nothing to learn from them; is it the right "
            "column?"
        )
    largest = float(np.abs(values).max(initial=0.0))
    if largest > _LARGEST or (values.size > 1 and np.ptp(values) < 1 / _LARGEST):
        raise InputError(
            f"{named}: the {what} go from {values.min():g} to {values.max():g}, which is no scale that people rate on; is it "
            "the right column?"
        )


def note_outlying(values: Floats, names: pa.LargeStringArray, findings: Findings) -> None:
    """Say where a few ratings are so far from all others that they alone would decide a fit.

    Args:
        values: (N,) ratings.
        names: N names of what they are of.
        findings: gets a warning.
    """
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95)) if values.size else (0.0, 0.0, 0.0)
    far = np.flatnonzero(np.abs(values - middle) > _FAR * (high - low)) if high > low else np.empty(0, np.int64)
    if far.size:
        text = f"{number_of(len(far), 'rating')} {is_or_are(len(far))} far from all others, and would decide the fit alone"
        shown = (f"{name}: {value:g}" for name, value in zip(names_at(names, far[:3]), values[far[:3]], strict=True))
        findings.note("outlying", len(far), text, shown)


def note_mixed_scales(values: Floats, group: Numbers, names: list[str], what: str, findings: Findings, hint: str) -> None:
    """Say where some groups never go above half of what others reach, as where scales of 1 to 5 and 1 to 10 are mixed.

    Args:
        values: (V,) ratings.
        group: (V,) place in `names` of the rater, file or source of each.
        names: of the groups.
        what: what a group is, as in `rater`.
        findings: gets a warning.
        hint: what to do.
    """
    if len(names) < 2 or not values.size:
        return
    counts = np.bincount(group, minlength=len(names))
    highest, lowest = np.full(len(names), -np.inf), np.full(len(names), np.inf)
    np.maximum.at(highest, group, values)
    np.minimum.at(lowest, group, values)
    judged = (counts >= _FEWEST_RATINGS) & (highest > lowest)
    if judged.sum() < 2:
        return
    top = highest[judged].max()
    low = judged & (highest <= top / 2)
    high = judged & ~low
    if not low.any() or not top > 0:
        return
    low_top, low_end, high_end = highest[low].max(), lowest[low].min(), lowest[high].min()
    count = int(low.sum())
    text = (
        f"{number_of(count, what)} never {is_or_are(count, 'goes', 'go')} above {low_top:g} and "
        f"{int(high.sum()):,} {'goes' if high.sum() == 1 else 'go'} up to {top:g}: scales of {low_end:g} to {low_top:g} and of "
        f"{high_end:g} to {top:g} seem to be mixed; {hint}"
    )
    findings.note("mixed-scales", count, text, (names[place] for place in np.flatnonzero(low)[:3]))
