"""Every option of `beholder verify`, once: default, meaning, check; its flags are made from this class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_HEAD, DEFAULT_TOWER
from beholder.models.published import Threshold, read_threshold
from beholder.options import option
from beholder.pixels.picture import DECODERS, PRESETS, Decoder, PixelOptions, Preset
from beholder.scoring.options import PRECISION_CHOICES, PrecisionChoice

SAMPLE_PICTURES = 200
_DRIFT_ONLY = {
    "head": "--head", "decoder": "--decoder", "preset": "--preset", "sample": "--sample", "min_score": "--min-score",
    "picture_column": "--picture-column",
}  # fmt: skip
"""Fields that mean nothing for published scores, which have their own pictures, heads and pixels."""


@dataclass(frozen=True, kw_only=True)
class VerifyOptions:
    """What is compared with what; None: not given.

    Attributes:
        sources: the user's pictures; none with `golden`.
        golden: compare with published scores of public pictures.
        pictures: with `golden`: a local folder with those pictures.
        sample: how many of the user's pictures.
        picture_column: the column with paths, URLs or bytes, in tables and Parquet files; None: found by looking.
        head, backbone: a registry name, path, URL or hub id.
        precision, decoder, preset: the setting; see `PictureOptions`.
        min_score: scores (or landmarks) at which pictures that change sides are counted.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        offline: never use the network; None: as the environment says.
    """

    sources: tuple[str, ...] = ()
    golden: bool = option(False, "Compare with published scores of public pictures.")
    pictures: str | None = option(
        None, "With --golden: a folder with those pictures, under any names; then none is downloaded."
    )
    sample: int | None = option(None, "How many of your pictures, evenly spread.", shown=str(SAMPLE_PICTURES), least=1)
    picture_column: str | None = option(None, "Column with paths, URLs or bytes of pictures.", shown="found by looking")
    head: str | None = option(None, "The head.", shown=DEFAULT_HEAD)
    backbone: str | None = option(None, "The image tower.", shown=DEFAULT_TOWER)
    precision: PrecisionChoice | None = option(
        None, "The setting to compare with fp32.", choices=PRECISION_CHOICES, shown="auto; with --golden fp32"
    )
    decoder: Decoder | None = option(None, "The decoder to compare with pillow.", choices=DECODERS, shown="pillow")
    preset: Preset | None = option(None, "The pixels to compare with reference.", choices=PRESETS, shown="reference")
    min_score: tuple[str, ...] = option(
        (),
        "Count pictures that change sides at this score: a number, or a landmark such as sd-v1 (repeatable).",
        shown="4.5, 5, 5.5, 6, 6.5",
        old=("--threshold",),
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1, mps.")
    offline: bool | None = option(None, "Never use the network.")

    def __post_init__(self) -> None:
        """Refuse what cannot be done, and what would have no effect, before anything is loaded. Raises InputError."""
        if self.golden == bool(self.sources):
            both = ", not both" if self.golden else ""
            raise InputError(f"name pictures, or use --golden for the published ones{both}")
        if self.pictures is not None and not self.golden:
            raise InputError("--pictures goes with --golden; name your own pictures without it")
        idle = [flag for name, flag in _DRIFT_ONLY.items() if getattr(self, name) not in (None, ())]
        if self.golden and idle:
            what = f"{', '.join(idle)} {'has' if len(idle) == 1 else 'have'} no effect with --golden"
            raise InputError(f"{what}: published scores have their own pictures, heads and pixels; leave out, or name pictures")
        _ = self.thresholds
        if self.sample is not None and self.sample < 1:
            raise InputError("--sample must be at least 1")
        if self.precision not in (None, *PRECISION_CHOICES):
            raise InputError(f"--precision {self.precision}: choose one of {', '.join(PRECISION_CHOICES)}")
        PixelOptions(preset=self.preset or "reference", decoder=self.decoder or "pillow")

    @property
    def thresholds(self) -> tuple[Threshold, ...]:
        """`min_score` as thresholds. Raises InputError."""
        return tuple(read_threshold(given) for given in self.min_score)

    @property
    def models(self) -> dict[str, Any]:
        """Keywords of `load_scorer` that both settings have in common."""
        named = {"head": self.head, "backbone": self.backbone}
        given = {name: value for name, value in named.items() if value is not None}
        return {**given, "device": self.device, "offline": self.offline}

    @property
    def setting(self) -> dict[str, Any]:
        """Keywords of `load_scorer` for the setting that is compared with the exact one."""
        return {
            "precision": self.precision or "auto",
            "decoder": self.decoder or "pillow",
            "preset": self.preset or "reference",
        }
