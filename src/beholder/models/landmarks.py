"""A head in; the thresholds at which known public sets, models and tools cut its scores out, each with its source.

Read from the sources named, 2026-11. A head is named only where the source names it or links to it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from beholder.errors import InputError
from beholder.models import published

_V1, _V2 = published.V1_HEAD, published.V2_HEAD
V2_5 = "aesthetic-predictor-v2-5"
"""A head that beholder does not run (`registry.REFUSED`); its thresholds are listed because they are mistaken for others'."""

_SUBSETS = "https://huggingface.co/datasets/ChristophSchuhmann/improved_aesthetics_"


@dataclass(frozen=True, kw_only=True)
class Landmark:
    """Where somebody cut.

    Attributes:
        key: its short name on the command line (`--min-score sd-v1`).
        threshold: on the scale of the head.
        is_strict: whether equal scores were dropped (score > threshold), not kept (>=).
        name: who cut.
        head: registry name of the head, `V2_5`, or None where the source does not say which.
        text: what was cut, and what else was asked for.
        source: where this is written.
    """

    key: str
    threshold: float
    is_strict: bool = False
    name: str
    head: str | None
    text: str
    source: str


def _subset(threshold: float, kept: str) -> Landmark:
    return Landmark(
        key=f"laion-{threshold:g}plus",
        threshold=threshold,
        name=f"LAION-Aesthetics v2 {threshold:g}+",
        head=_V2,
        text=f"{kept} of 2.37 billion English pairs of LAION-5B",
        source=f"{_SUBSETS}{threshold:g}plus" if threshold in (4.5, 4.75, 6.5) else published.V2_SOURCE,
    )


LANDMARKS: tuple[Landmark, ...] = (
    Landmark(
        key="vdc-tree-of-life",
        threshold=3.4,
        name="VDC, Tree of Life 10M",
        head=_V2,
        text="takes blurred pictures out of nature photographs; embedded without --simple-crop, so from squashed pictures",
        source="https://github.com/birder-project/vision-data-curation/blob/main/docs/example/tree_of_life_10m.md",
    ),
    Landmark(
        key="sd-v2",
        threshold=4.5,
        name="Stable Diffusion v2-base",
        head=_V2,
        text="a subset of LAION-5B with punsafe = 0.1, from 512 x 512 in the second stage",
        source="https://huggingface.co/stabilityai/stable-diffusion-2-base",
    ),
    Landmark(
        key="open-sora",
        threshold=4.5,
        name="Open-Sora 1.2, second stage",
        head=_V2,
        text="30 million video clips of Panda-70M become 20 million",
        source="https://github.com/hpcaitech/Open-Sora/blob/main/docs/report_03.md",
    ),
    _subset(4.5, "1.2 billion"),
    Landmark(
        key="laion-coco",
        threshold=4.75,
        is_strict=True,
        name="LAION-COCO-aesthetic",
        head=_V2,
        text="larger than 384 x 384, watermark probability < 0.5: 8.56 million of a tenth of LAION-COCO",
        source="https://huggingface.co/datasets/guangyil/laion-coco-aesthetic",
    ),
    _subset(4.75, "939 million"),
    Landmark(
        key="sd-v1",
        threshold=5.0,
        is_strict=True,
        name="Stable Diffusion v1-2 to v1-5",
        head=_V2,
        text="LAION-2B-en from 512 x 512, watermark probability < 0.5",
        source="https://huggingface.co/CompVis/stable-diffusion-v1-2",
    ),
    Landmark(
        key="data-juicer",
        threshold=5.0,
        name="Data-Juicer's default",
        head=_V2,
        text="written there as 0.5, since it divides scores by 10",
        source="https://modelscope.github.io/data-juicer/en/main/api/data_juicer.ops.filter.image_aesthetics_filter.html",
    ),
    _subset(5.0, "600 million"),
    Landmark(
        key="open-sora-fair",
        threshold=5.5,
        name="Open-Sora's guide: fair",
        head=_V2,
        text="advice for frames of videos",
        source="https://github.com/hpcaitech/Open-Sora/blob/5d66ca8f50b12c7db1f9e05b098eabd4cb29713a/tools/scoring/README.md",
    ),
    _subset(6.0, "12 million"),
    _subset(6.25, "3 million"),
    _subset(6.5, "625 thousand"),
    Landmark(
        key="open-sora-high",
        threshold=6.5,
        name="Open-Sora's guide: high",
        head=_V2,
        text="advice for frames of videos; 7 and more for the pictures of good text-to-image models",
        source="https://github.com/hpcaitech/Open-Sora/blob/5d66ca8f50b12c7db1f9e05b098eabd4cb29713a/tools/scoring/README.md",
    ),
    Landmark(
        key="internvid",
        threshold=4.0,
        name="InternVid-Aesthetics-18M",
        head=_V1,
        text="18 million video clips; its README links to LAION's first predictor",
        source="https://arxiv.org/abs/2307.06942",
    ),
    Landmark(
        key="laion-v1-good",
        threshold=5.0,
        is_strict=True,
        name="LAION's advice for the v1 head",
        head=_V1,
        text="above 5 of use for training generators; below for CLIP",
        source=published.V1_SOURCE,
    ),
    Landmark(
        key="laion-aesthetic-v1",
        threshold=7.0,
        is_strict=True,
        name="laion-aesthetic (v1)",
        head=_V1,
        text="pwatermark < 0.8, punsafe < 0.5: 120 million of LAION-5B",
        source=published.V1_SOURCE,
    ),
    Landmark(
        key="laion-art",
        threshold=8.0,
        is_strict=True,
        name="laion-art (v1)",
        head=_V1,
        text="pwatermark < 0.8, punsafe < 0.5: 8 million of LAION-5B",
        source=published.V1_SOURCE,
    ),
    Landmark(
        key="v2-5-great",
        threshold=5.5,
        name="Aesthetic Predictor V2.5: great",
        head=V2_5,
        text="its author's advice; SigLIP embeddings, another scale",
        source="https://github.com/discus0434/aesthetic-predictor-v2-5",
    ),
    Landmark(
        key="trellis-objaverse",
        threshold=5.5,
        name="TRELLIS-500K, Objaverse-XL",
        head=None,
        text="of rendered views of 3D assets",
        source="https://github.com/microsoft/TRELLIS/blob/main/DATASET.md",
    ),
    Landmark(
        key="trellis",
        threshold=4.5,
        name="TRELLIS-500K, other sources",
        head=None,
        text="ABO, 3D-FUTURE, HSSD: of rendered views of 3D assets",
        source="https://github.com/microsoft/TRELLIS/blob/main/DATASET.md",
    ),
)
"""By head, then ascending; heads that are not named come last."""


def landmarks_of(head_name: str | None) -> tuple[Landmark, ...]:
    """Where others cut the scores of this head (any of its names), ascending; () for heads nobody knows."""
    name = published.canonical_head(head_name) or _refused(head_name)
    return tuple(mark for mark in LANDMARKS if name is not None and mark.head == name)


def _refused(head_name: str | None) -> str | None:
    """`V2_5` by any of its names, else None."""
    from beholder.models.head_catalog import find_refused

    found = find_refused(head_name) if head_name else None
    return found.name if found is not None else None


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


def read_threshold(given: float | str, flag: str = "--min-score") -> Threshold:
    """A number (as text, too; infinite ones are numbers) or the short name of a landmark -> where to cut. Raises InputError."""
    try:
        value = float(given)
    except (TypeError, ValueError):
        found = find_landmark(given) if isinstance(given, str) else None
        if found is None:
            names = ", ".join(item.key for item in LANDMARKS)
            raise InputError(f"{flag} {given!r} is no number and no landmark; the landmarks are {names}") from None
        return Threshold(found.threshold, found)
    if math.isnan(value):
        raise InputError(f"{flag} {given!r} is no number; give one such as 5.0")
    return Threshold(value)


def find_landmark(key: str) -> Landmark | None:
    """The landmark with this short name, or None. Case does not matter."""
    return next((mark for mark in LANDMARKS if mark.key == key.strip().casefold()), None)
