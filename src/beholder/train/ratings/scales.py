"""Whether ratings are of one scale, and vary at all."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.train.ratings.findings import Findings, is_or_are, number_of
from beholder.train.ratings.ratings import Floats, Numbers

_FEWEST_RATINGS = 10
"""Of fewer the highest says little about the scale."""
_LARGEST = 1e9
"""Larger ratings, and ratings that differ by less than one over this, are of no scale that people use."""
_FAR = 100.0
"""A rating that is further from the median than so many times the middle nine tenths are wide stands alone."""


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
        shown = (f"{names[int(place)].as_py()}: {values[place]:g}" for place in far[:3])
        findings.note("outlying", len(far), text, shown, is_warning=True)


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
        f"{number_of(count, what)} never {'goes' if count == 1 else 'go'} above {low_top:g} and "
        f"{int(high.sum()):,} {'goes' if high.sum() == 1 else 'go'} up to {top:g}: scales of {low_end:g} to {low_top:g} and of "
        f"{high_end:g} to {top:g} seem to be mixed; {hint}"
    )
    findings.note("mixed-scales", count, text, (names[place] for place in np.flatnonzero(low)[:3]), is_warning=True)
