"""A head and a threshold in; the share of a public set at or above it out, where its makers published one.

The counts were made with LAION's own embeddings of other pixels, so they show the shape of a head's scale; a single
picture's published score can differ by about 0.7 (https://github.com/christophschuhmann/improved-aesthetic-predictor/issues/12).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate

from beholder.models import head_catalog

V2_SOURCE = "https://laion.ai/blog/laion-aesthetics/"
V1_SOURCE = "https://github.com/LAION-AI/laion-datasets/blob/main/laion-aesthetic.md"
COYO_SOURCE = "https://github.com/kakaobrain/coyo-dataset"

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

V2_HEAD, V1_HEAD = head_catalog.DEFAULT_HEAD, "sa_0_4_vit_l_14_linear"


@dataclass(frozen=True, kw_only=True)
class PublishedShares:
    """What is published of one head's scores on one set.

    Attributes:
        dataset: name of the set.
        head: registry name of the head.
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


def _unit_buckets(dataset: str, millions: tuple[float, ...]) -> PublishedShares:
    """Shares at 1, 2, ... 9. What lay outside 0-10 was not published, so it is in no count and not in the total."""
    total = sum(millions)
    from_top = list(accumulate(reversed(millions)))[::-1]
    shares = {float(unit): from_top[unit] / total for unit in range(1, 10)}
    return PublishedShares(dataset=dataset, head=V1_HEAD, num_pictures=total * 1e6, shares=shares, source=V1_SOURCE)


PUBLISHED: tuple[PublishedShares, ...] = (
    PublishedShares(
        dataset=LAION_EN,
        head=V2_HEAD,
        num_pictures=V2_TOTAL,
        shares={threshold: count / V2_TOTAL for threshold, count in V2_COUNT_AT_LEAST.items()},
        source=V2_SOURCE,
    ),
    PublishedShares(
        dataset="COYO-700M",
        head=V2_HEAD,
        num_pictures=746_972_269,
        shares={},
        mean=4.769132,
        minimum=1.171712,
        maximum=8.082607,
        source=COYO_SOURCE,
    ),
    _unit_buckets(LAION_EN, V1_MILLIONS_PER_UNIT),
    _unit_buckets("LAION-2B-multi", V1_MULTI_MILLIONS_PER_UNIT),
    _unit_buckets("LAION-1B-nolang", V1_NOLANG_MILLIONS_PER_UNIT),
)
"""All that is published, per head; LAION-2B-en first."""


def canonical_head(head_name: str | None) -> str | None:
    """The registry name of a head by any of its names; that of the original for a repackaged one; None for unknown ones."""
    entry = head_catalog.find(head_name) if head_name else None
    return (entry.twin or entry.name) if entry is not None else None


def published_of(head_name: str | None) -> tuple[PublishedShares, ...]:
    """All that is published of a head; () if nothing is, or nobody knows the head."""
    name = canonical_head(head_name)
    return tuple(item for item in PUBLISHED if item.head == name)


def published_shares(head_name: str, dataset: str = LAION_EN) -> dict[float, float]:
    """All published points of a head: threshold -> share of `dataset`, in (0, 1], with that score or more; {} if none.

    `head_name` is a registry name or alias; a repackaged head has the points of the head it repackages.
    """
    return next((dict(item.shares) for item in published_of(head_name) if item.dataset == dataset), {})


def published_share_at_least(head_name: str, threshold: float, dataset: str = LAION_EN) -> float | None:
    """The published share of `dataset`, in (0, 1], that scores `threshold` or more; None where none was published."""
    return published_shares(head_name, dataset).get(float(threshold))
