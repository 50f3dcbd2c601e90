"""What others published of heads' scores: the shares of public sets above a score, and where known sets and tools cut.

The counts were made with LAION's own embeddings of other pixels, so they show the shape of a head's scale; a single
picture's published score can differ by about 0.7 (https://github.com/christophschuhmann/improved-aesthetic-predictor/issues/12).
Landmarks (`models/data/landmarks.csv`) were read from the sources named, 2026-11; a head is named only where the source names
it or links to it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from beholder.errors import InputError
from beholder.models import catalog

V2_SOURCE = "https://laion.ai/blog/laion-aesthetics/"
V1_SOURCE = "https://github.com/LAION-AI/laion-datasets/blob/main/laion-aesthetic.md"

LAION_EN = "LAION-2B-en"
"""The set with most published points."""

V2_TOTAL = 2_370_000_000
"""Pictures of LAION-2B-en that the v2 head was run on (`V2_SOURCE`)."""
V2_COUNT_AT_LEAST = {
    4.5: 1_200_000_000, 4.75: 939_000_000, 5.0: 600_000_000, 6.0: 12_000_000, 6.25: 3_000_000, 6.5: 625_000,
}  # fmt: skip
"""Pictures of LAION-2B-en with a score of at least the key by sac+logos+ava1-l14-linearMSE (`V2_SOURCE`)."""

V1_MILLIONS_PER_UNIT = (2.66, 25.62, 147.55, 410.18, 656.38, 601.73, 271.19, 51.43, 3.35, 0.05)
"""Millions of pictures of LAION-2B-en with a score in [0, 1), [1, 2), ... [9, 10) by sa_0_4_vit_l_14_linear (`V1_SOURCE`)."""
V1_MULTI_MILLIONS_PER_UNIT = (1.77, 21.74, 135.56, 390.73, 640.26, 621.25, 282.89, 50.99, 3.17, 0.05)
"""The same for LAION-2B-multi, captions in other languages."""
V1_NOLANG_MILLIONS_PER_UNIT = (1.38, 15.25, 96.31, 237.04, 364.68, 338.19, 149.85, 26.99, 1.69, 0.02)
"""The same for LAION-1B-nolang, captions of no certain language."""

V2_HEAD, V1_HEAD = catalog.DEFAULT_HEAD, "sa_0_4_vit_l_14_linear"


@dataclass(frozen=True, kw_only=True)
class PublishedShares:
    """What is published of one head's scores on one set.

    Attributes:
        dataset: name of the set.
        head: catalogue name of the head.
        num_pictures: how many were counted.
        shares: threshold -> share of them, in (0, 1], with that score or more; () where only the range is known.
        mean, minimum, maximum: of the scores, where they are published.
        source: where.
    """

    dataset: str
    head: str
    num_pictures: float
    shares: Mapping[float, float]
    mean: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    source: str

    @property
    def has_shares(self) -> bool:
        """Whether more than the range is known."""
        return bool(self.shares)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready: the set, not the shares themselves."""
        names = ("dataset", "num_pictures", "mean", "minimum", "maximum", "has_shares", "source")
        return {name: getattr(self, name) for name in names}


def _unit_buckets(dataset: str, millions: tuple[float, ...]) -> PublishedShares:
    """Shares at 1, 2, ... 9. What lay outside 0-10 was not published, so it is in no count and not in the total."""
    total = sum(millions)
    from_top = list(accumulate(reversed(millions)))[::-1]
    shares = {float(unit): from_top[unit] / total for unit in range(1, 10)}
    return PublishedShares(dataset=dataset, head=V1_HEAD, num_pictures=total * 1e6, shares=shares, source=V1_SOURCE)


PUBLISHED: tuple[PublishedShares, ...] = (
    PublishedShares(
        dataset=LAION_EN, head=V2_HEAD, num_pictures=V2_TOTAL, source=V2_SOURCE,
        shares={threshold: count / V2_TOTAL for threshold, count in V2_COUNT_AT_LEAST.items()},
    ),
    PublishedShares(
        dataset="COYO-700M", head=V2_HEAD, num_pictures=746_972_269, source="https://github.com/kakaobrain/coyo-dataset",
        shares={}, mean=4.769132, minimum=1.171712, maximum=8.082607,
    ),
    _unit_buckets(LAION_EN, V1_MILLIONS_PER_UNIT),
    _unit_buckets("LAION-2B-multi", V1_MULTI_MILLIONS_PER_UNIT),
    _unit_buckets("LAION-1B-nolang", V1_NOLANG_MILLIONS_PER_UNIT),
)  # fmt: skip
"""All that is published, per head; LAION-2B-en first."""


def canonical_head(head_name: str | None) -> str | None:
    """The catalogue name of a head by any of its names; that of the original for a repackaged one; None for unknown ones."""
    entry = catalog.find(head_name) if head_name else None
    return (entry.twin or entry.name) if entry is not None else None


def published_of(head_name: str | None) -> tuple[PublishedShares, ...]:
    """All that is published of a head; () if nothing is, or nobody knows the head."""
    name = canonical_head(head_name)
    return tuple(item for item in PUBLISHED if item.head == name)


def published_shares(head_name: str, dataset: str = LAION_EN) -> dict[float, float]:
    """All published points of a head: threshold -> share of `dataset`, in (0, 1], with that score or more; {} if none.

    `head_name` is a name or alias of the catalogue; a repackaged head has the points of the head it repackages.
    """
    return next((dict(item.shares) for item in published_of(head_name) if item.dataset == dataset), {})


def published_share_at_least(head_name: str, threshold: float, dataset: str = LAION_EN) -> float | None:
    """The published share of `dataset`, in (0, 1], that scores `threshold` or more; None where none was published."""
    return published_shares(head_name, dataset).get(float(threshold))


V2_5 = "aesthetic-predictor-v2-5"
"""A head that beholder does not run (`catalog.REFUSED`); its thresholds are listed because they are mistaken for others'."""


@dataclass(frozen=True)
class Landmark:
    """Where somebody cut.

    Attributes:
        key: its short name on the command line (`--min-score sd-v1`).
        threshold: on the scale of the head.
        head: catalogue name of the head, `V2_5`, or None where the source does not say which.
        name: who cut.
        text: what was cut, and what else was asked for.
        source: where this is written.
        is_strict: whether equal scores were dropped (score > threshold), not kept (>=).
    """

    key: str
    threshold: float
    head: str | None
    name: str
    text: str
    source: str
    is_strict: bool = False


def _read_landmarks() -> tuple[Landmark, ...]:
    with (Path(__file__).parent / "data" / "landmarks.csv").open(encoding="utf-8", newline="") as file:
        return tuple(
            Landmark(
                key=row["key"],
                threshold=float(row["threshold"]),
                head=row["head"] or None,
                name=row["name"],
                text=row["text"],
                source=row["source"],
                is_strict=row["is_strict"] == "yes",
            )
            for row in csv.DictReader(file)
        )


LANDMARKS = _read_landmarks()
"""By head, then ascending; heads that are not named come last."""


def landmarks_of(head_name: str | None) -> tuple[Landmark, ...]:
    """Where others cut the scores of this head (any of its names), ascending; () for heads nobody knows."""
    refused = catalog.find_refused(head_name) if head_name else None
    name = refused.name if refused is not None else canonical_head(head_name)
    return tuple(mark for mark in LANDMARKS if name is not None and mark.head == name)


@dataclass(frozen=True)
class Threshold:
    """Where scores are cut.

    Attributes:
        value: the score.
        landmark: who cut there, where it was named by that.
    """

    value: float
    landmark: Landmark | None = None

    @property
    def is_strict(self) -> bool:
        """Whether pictures with this very score go, too."""
        return self.landmark is not None and self.landmark.is_strict

    @property
    def short(self) -> str:
        """The threshold as a key or in a line: "5", "> 5 (sd-v1)"; two different ones never read alike."""
        if self.landmark is None:
            return self._number
        return f"{self._sign} {self._number} ({self.landmark.key})"

    def __str__(self) -> str:
        """What stays: "score >= 5", "score > 5 (sd-v1)"."""
        name = f" ({self.landmark.key})" if self.landmark is not None else ""
        return f"score {self._sign} {self._number}{name}"

    @property
    def _sign(self) -> str:
        return ">" if self.is_strict else ">="

    @property
    def _number(self) -> str:
        """The value in as many digits as it needs."""
        short = f"{self.value:g}"
        return short if float(short) == self.value else repr(self.value)


def read_threshold(given: float | str) -> Threshold:
    """A number (as text, too; infinite ones are numbers) or the short name of a landmark -> where to cut. Raises InputError."""
    try:
        value = float(given)
    except (TypeError, ValueError):
        found = find_landmark(given) if isinstance(given, str) else None
        if found is None:
            names = ", ".join(item.key for item in LANDMARKS)
            raise InputError(f"--min-score {given!r} is no number and no landmark; the landmarks are {names}") from None
        return Threshold(found.threshold, found)
    if math.isnan(value):
        raise InputError(f"--min-score {given!r} is no number; give one such as 5.0")
    return Threshold(value)


def find_landmark(key: str) -> Landmark | None:
    """The landmark with this short name, or None. Case does not matter."""
    return next((mark for mark in LANDMARKS if mark.key == key.strip().casefold()), None)
