"""Whether ratings are of one scale, and vary at all."""

from __future__ import annotations

import numpy as np

from beholder.errors import InputError
from beholder.train.ratings.findings import Findings, number_of
from beholder.train.ratings.ratings import Floats, Numbers

_FEWEST_RATINGS = 10
"""Of fewer the highest says little about the scale."""


def check_varied(values: Floats, named: str, what: str = "ratings") -> None:
    """Raise InputError where all values are the same: there is nothing to learn, and nothing to measure against."""
    if values.size > 1 and np.ptp(values) == 0:
        raise InputError(
            f"{named}: all {values.size:,} {what} are {values[0]:g}, so there is nothing to learn from them; is it the right "
            "column?"
        )


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
