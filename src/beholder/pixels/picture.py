"""What a picture is on its way to the tower: which pixels are wanted, what was found, why it failed."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from beholder.columns import PictureReason
from beholder.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Preset = Literal["reference", "upright", "rgb", "squash"]
Decoder = Literal["pillow", "scaled"]

PRESETS: tuple[Preset, ...] = ("reference", "upright", "rgb", "squash")
DECODERS: tuple[Decoder, ...] = ("pillow", "scaled")
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are rejected by default: where Pillow itself speaks of a decompression bomb (2 x 1 GiB / 4 / 3)."""


class PictureError(InputError):
    """One picture that cannot be used; `reason` is the fixed word, the text says what was found. Never stops a run."""

    def __init__(self, reason: PictureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[PictureReason, str]]:
        """How it travels between processes."""
        return PictureError, (self.reason, str(self))


class Trait(enum.IntFlag):
    """What a picture has that makes presets give different pixels. NONE: every crop preset gives (nearly) the same."""

    NONE = 0
    ROTATED = 1
    """EXIF orientation other than 1."""
    PALETTE = 2
    """Mode P, PA or 1 (1-bit): resized as indices by `reference`."""
    ALPHA = 4
    """RGBA, LA, PA or a transparent colour (tRNS)."""
    DEEP = 8
    """16 bits a channel: clipped to nearly white by `reference`."""
    CMYK = 16
    """CMYK or YCCK."""


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """Which pixels are wanted.

    Attributes:
        preset: "reference": OpenAI's transform to the bit (resized in the picture's own mode, EXIF ignored, alpha dropped);
            "upright": EXIF applied, palettes expanded, alpha on white, 16 bits scaled, then as the others;
            "rgb": converted to RGB first, then resized and cropped (birder --simple-crop, timm);
            "squash": converted to RGB first, then squashed to a square (birder's default).
        size_px: side of the square that comes out.
        crop: share of the short side that is kept, in (0, 1]: resized to int(size_px / crop), then cropped
            (birder --center-crop).
        decoder: "pillow": exact; "scaled": large JPEGs are decoded at 1/2, 1/4 or 1/8 (faster, pixels differ a little).
        max_pixels: pictures with more (width x height) are rejected before they are decoded.
        transform: the preprocessing of another library's tower (`libraries.transforms`), which then resizes and crops in place
            of all this; of the presets, "reference" opens pictures as that library's users do; "" for CLIP's own.
    """

    preset: Preset = "reference"
    size_px: int = 224
    crop: float = 1.0
    decoder: Decoder = "pillow"
    max_pixels: int = MAX_PIXELS
    transform: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: choose one of {', '.join(PRESETS)}")
        if self.decoder not in DECODERS:
            raise InputError(f"--decoder {self.decoder}: choose one of {', '.join(DECODERS)}")
        if self.size_px < 1 or self.max_pixels < 1 or not 0 < self.crop <= 1:
            raise InputError("sizes must be at least 1 pixel, and the crop in (0, 1]")
        unfit = {
            "--preset squash": self.preset == "squash", "--decoder scaled": self.decoder == "scaled", "a crop": self.crop < 1
        }  # fmt: skip
        for flag, is_given in unfit.items():
            if self.transform and is_given:
                raise InputError(f"{flag}: a tower of another library comes with its own resize and crop; leave it out")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what the stamp says about pixels."""
        return {name: value for name, value in asdict(self).items() if name != "transform" or value}

    @classmethod
    def of_record(cls, said: object) -> PixelOptions | None:
        """What a stamp says about pixels; None where it says nothing that is known here, or a library's transform made them."""
        names = {item.name for item in fields(cls)} - {"transform"}
        if not isinstance(said, dict) or not set(said) <= names:
            return None
        try:
            return cls(**said)
        except (InputError, TypeError):
            return None


@dataclass(frozen=True)
class Pixels:
    """A prepared picture.

    Attributes:
        pixels: (size_px, size_px, 3) uint8, height x width x RGB.
        width, height: of the picture as stored, in pixels, before EXIF is applied.
        traits: what makes presets differ for it.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    traits: Trait


Prepare = Callable[[bytes, PixelOptions], Pixels]
"""`pixels.decode.prepare`: bytes of a file -> pixels. Raises PictureError, and nothing else, whatever the bytes are."""
