"""A head and a threshold in; the share of LAION-2B-en at or above it out, where its makers published one.

The counts were made with LAION's own embeddings of other pixels, so they show the shape of a head's scale; a single
picture's published score can differ by about 0.7 (https://github.com/christophschuhmann/improved-aesthetic-predictor/issues/12).
"""

from __future__ import annotations

from itertools import accumulate

from beholder.models import registry

V2_SOURCE = "https://laion.ai/blog/laion-aesthetics/"
V1_SOURCE = "https://github.com/LAION-AI/laion-datasets/blob/main/laion-aesthetic.md"

V2_TOTAL = 2_370_000_000
"""Pictures of LAION-2B-en that the v2 head was run on (`V2_SOURCE`)."""
V2_COUNT_AT_LEAST = {
    4.5: 1_200_000_000, 4.75: 939_000_000, 5.0: 600_000_000, 6.0: 12_000_000, 6.25: 3_000_000, 6.5: 625_000,
}  # fmt: skip
"""Pictures of LAION-2B-en with a score of at least the key by sac+logos+ava1-l14-linearMSE (`V2_SOURCE`)."""

V1_MILLIONS_PER_UNIT = (2.66, 25.62, 147.55, 410.18, 656.38, 601.73, 271.19, 51.43, 3.35, 0.05)
"""Millions of pictures of LAION-2B-en with a score in [0, 1), [1, 2), ... [9, 10) by sa_0_4_vit_l_14_linear (`V1_SOURCE`)."""

_V2_HEAD, _V1_HEAD = registry.DEFAULT_HEAD, "sa_0_4_vit_l_14_linear"


def _v2_shares() -> dict[float, float]:
    return {threshold: count / V2_TOTAL for threshold, count in V2_COUNT_AT_LEAST.items()}


def _v1_shares() -> dict[float, float]:
    """Shares at 1, 2, ... 9. What lay outside 0-10 was not published, so it is in no count and not in the total."""
    total = sum(V1_MILLIONS_PER_UNIT)
    from_top = list(accumulate(reversed(V1_MILLIONS_PER_UNIT)))[::-1]
    return {float(unit): from_top[unit] / total for unit in range(1, 10)}


def published_shares(head_name: str) -> dict[float, float]:
    """All published points of a head: threshold -> share of LAION-2B-en, in (0, 1], with that score or more; {} if none.

    `head_name` is a registry name or alias; a repackaged head has the points of the head it repackages.
    """
    entry = registry.find(head_name)
    name = (entry.twin or entry.name) if entry is not None else ""
    return _v2_shares() if name == _V2_HEAD else _v1_shares() if name == _V1_HEAD else {}


def published_share_at_least(head_name: str, threshold: float) -> float | None:
    """The published share of LAION-2B-en, in (0, 1], that scores `threshold` or more; None where none was published."""
    return published_shares(head_name).get(float(threshold))
