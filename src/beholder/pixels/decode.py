"""The bytes of a picture in; the pixels that go to the tower out, or a PictureError, and nothing else, whatever they are."""

from __future__ import annotations

from beholder.columns import PictureReason
from beholder.pixels.opening import open_picture
from beholder.pixels.picture import PictureError, PixelOptions, Pixels
from beholder.pixels.presets import pixels_of, traits_of


def prepare(data: bytes, options: PixelOptions) -> Pixels:
    """Decode a picture and cut the square that goes to the tower out of it.

    Args:
        data: the bytes of a file: JPEG, PNG, WebP, AVIF, GIF (its first frame), BMP, TIFF, PPM, HEIC (with its plug-in).
        options: which pixels are wanted.

    Returns:
        (size_px, size_px, 3) uint8 pixels, the stored size, and the traits that make presets differ.

    Raises:
        PictureError: and nothing else, whatever `data` holds; `reason` is one of EMPTY, NOT_AN_IMAGE, TRUNCATED, DAMAGED,
            TOO_LARGE, ZERO_SIZE, UNSUPPORTED.
    """
    try:
        opened = open_picture(data, options)
        return Pixels(pixels_of(opened, options), *opened.size, traits_of(opened.image))
    except PictureError:
        raise
    except MemoryError:
        raise PictureError(PictureReason.TOO_LARGE, "the picture needs more memory than there is") from None
    except Exception as error:  # the promise of this function: a bad picture never stops a run
        text = " ".join(str(error).split())[:200]
        raise PictureError(PictureReason.DAMAGED, f"the picture cannot be used: {type(error).__name__}: {text}") from None
