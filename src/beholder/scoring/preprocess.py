"""One picture of any kind in (path, URL, bytes, Pillow image, array); the pixels that go to the tower out."""

from __future__ import annotations

import os
from typing import IO, TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from beholder.columns import PictureReason
from beholder.pixels.decode import pixels_of, prepare
from beholder.pixels.opening import Opened, check_mode, check_size
from beholder.pixels.picture import MAX_PIXELS, Decoder, PictureError, PictureRef, PixelOptions, Preset
from beholder.pixels.upright import levels_of
from beholder.sources.fetch import ReadLimits, read_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

    Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image | npt.NDArray[np.uint8]


def preprocess(
    picture: Picture,
    *,
    preset: Preset = "reference",
    size_px: int = 224,
    crop: float = 1.0,
    decoder: Decoder = "pillow",
    max_pixels: int = MAX_PIXELS,
) -> npt.NDArray[np.uint8]:
    """The pixels of one picture as the tower sees them.

    Args:
        picture: a local path or URL, the bytes of a file, a file open for reading bytes, a Pillow image (not changed), or a
            (H, W, 3) uint8 RGB array.
        preset: "reference" (OpenAI's transform to the bit), "upright", "rgb" or "squash"; see docs/pixels.md.
        size_px: side S of the square.
        crop: share of the short side that is kept, in (0, 1].
        decoder: "pillow", or "scaled" for faster and slightly different pixels of large JPEG files.
        max_pixels: largest width x height that is accepted.

    Returns:
        (S, S, 3) uint8: height x width x RGB, not normalised.

    Raises:
        PictureError: the picture cannot be used; `reason` says why in one word.
        InputError: an option cannot be met.
    """
    options = PixelOptions(preset=preset, size_px=size_px, crop=crop, decoder=decoder, max_pixels=max_pixels)
    if hasattr(picture, "read") and not hasattr(picture, "convert"):  # an open file, not a Pillow image
        picture = picture.read()
    if isinstance(picture, bytes | bytearray | memoryview):
        return prepare(bytes(picture), options).pixels
    if isinstance(picture, str | os.PathLike):
        path = os.fspath(picture)
        try:
            return prepare(read_bytes(PictureRef(path=path), ReadLimits()), options).pixels
        except PictureError as error:
            text = str(error)
            raise PictureError(error.reason, text if path in text else f"{path}: {text}") from None
    return _from_memory(picture, options)


def _from_memory(picture: Any, options: PixelOptions) -> npt.NDArray[np.uint8]:
    """Pixels of a Pillow image or an array."""
    from PIL import Image as PillowImage

    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            what = f"an array of shape {picture.shape} and type {picture.dtype}"
            raise PictureError(PictureReason.UNSUPPORTED, f"{what}: pictures are (H, W, 3) uint8, in RGB order")
        check_size((picture.shape[1], picture.shape[0]), options.max_pixels)
        picture = PillowImage.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, PillowImage.Image):
        what = f"a {type(picture).__name__} is no picture"
        raise PictureError(PictureReason.UNSUPPORTED, f"{what}: give a path, URL, bytes, Pillow image or (H, W, 3) uint8 array")
    check_size(picture.size, options.max_pixels)
    levels = levels_of(picture)
    check_mode(picture, levels, options)
    size = picture.size
    try:
        picture.load()
    except Exception as error:  # a lazily opened file, with whatever its decoder raises
        text = " ".join(str(error).split())[:200]
        raise PictureError(PictureReason.DAMAGED, f"the Pillow image cannot be loaded: {text}") from None
    return pixels_of(Opened(picture, size, size, levels), options)
