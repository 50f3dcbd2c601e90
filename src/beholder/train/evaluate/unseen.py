"""Pictures that a head was trained on: left out for all heads, or, where too few others are there, said to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from beholder.train.evaluate.scored import Scored
from beholder.train.ratings.findings import number_of
from beholder.train.ratings.ratings import Numbers, Ratings
from beholder.train.trained_on import said_by_place

LEAST_UNSEEN = 20
"""So many pictures (or pairs) that no head was trained on are enough to be measured on alone."""


@dataclass(frozen=True, kw_only=True)
class Unseen:
    """What is measured of n pictures that all heads score.

    Attributes:
        kept: places of the pictures in the ratings.
        notes: what was left out.
        warnings: a line for each head that was trained on pictures it is measured on.
        shares: by head, of the kept pictures the share that it was trained on; only of heads whose record says which.
    """

    kept: Numbers
    notes: list[str]
    warnings: list[str]
    shares: dict[str, float]


def leave_out_trained(kept: Numbers, scored: Sequence[Scored], ratings: Ratings, near: Numbers | None = None) -> Unseen:
    """Leave out the pictures that any head was trained on, where enough others are there.

    Args:
        kept: places of the pictures in the ratings.
        scored: the heads.
        ratings: which pictures are rated.
        near: (P, 2) places of near-duplicates; what is one of a trained picture is left out as well.
    """
    known = [
        (one.name, one.known, one.pictures.at(kept)) for one in scored if one.known is not None and one.pictures is not None
    ]
    seen = {name: on.seen(pictures) for name, on, pictures in known if on.is_whole}
    in_any = np.logical_or.reduce([*seen.values(), np.zeros(len(kept), np.bool_)])
    out = np.zeros(ratings.num_samples, np.bool_)
    out[kept[in_any]] = True
    if near is not None:
        out[near[out[near].any(axis=1)]] = True
    left = np.flatnonzero(~out[kept])
    notes = [_lost(one) for one in scored if one.lost is not None]
    notes += [line for one in known if (line := said_by_place(*one, "name embeddings of them as a source as well")) is not None]
    if in_any.any() and _is_enough(kept[left], ratings):
        told = ", ".join(f"{name} on {np.count_nonzero(mask):,}" for name, mask in seen.items() if mask.any())
        notes.append(
            f"Of {number_of(len(kept), 'picture')} {len(kept) - len(left):,} are left out for all heads, since a head was "
            f"trained on them ({told}) or on near-duplicates of them; the other {len(left):,} are measured."
        )
    else:
        left = np.arange(len(kept))
    shares = {name: on.share(pictures.at(left)) for name, on, pictures in known}
    warnings = [_warning(*one) for one in shares.items() if one[1] > 0]
    return Unseen(kept=kept[left], notes=notes, warnings=warnings, shares=shares)


def _lost(one: Scored) -> str:
    return (
        f"{one.name}: its file {one.lost} is not there, or is another by now, so pictures that it was trained on are not known "
        "and not left out; run this where it is, or score with a name that beholder models add gave it."
    )


def _is_enough(left: Numbers, ratings: Ratings) -> bool:
    """Whether something can be measured on these pictures."""
    if ratings.pairs is None:
        return len(left) >= LEAST_UNSEEN and bool(np.ptp(ratings.values[left]) > 0)
    is_left = np.zeros(ratings.num_samples, np.bool_)
    is_left[left] = True
    pairs = ratings.pairs
    return int(np.count_nonzero(is_left[pairs.better] & is_left[pairs.worse] & ~pairs.is_tie)) >= LEAST_UNSEEN


def _warning(name: str, share: float) -> str:
    percent = "all" if share == 1 else f"about {100 * share:.0f} %" if share >= 0.01 else "some"
    return (
        f"{name} was trained on {percent} of the measured pictures, so its figures are too good, and so is its lead over other "
        "heads: they say how well it fits, not how well it predicts. What train printed of it is of pictures that it had not "
        f"seen; to measure it here, rate at least {LEAST_UNSEEN} others."
    )
