"""Pixels for towers of other libraries: their own transform, in the process that decodes."""

from __future__ import annotations

import socket

import numpy as np
import numpy.typing as npt

from beholder.columns import PictureReason
from beholder.errors import BeholderError, HeadError, kind_and_text
from beholder.libraries.transforms import cut_of, opens_rgb
from beholder.pixels.opening import Opened, upright
from beholder.pixels.picture import PictureError, PixelOptions

_MOST_PIXELS = 1 << 28
"""A picture so thin that resizing its short side to the tower's makes more is rejected, whatever the transform would do."""


def get_ready(options: PixelOptions) -> None:
    """Import the library and make its transform, before the first picture; it takes seconds and memory.

    Raises HeadError: this machine's library is not there, or has no such transform, as on a node with another version of it.
    """
    if not options.transform:
        return
    try:
        cut_of(options.transform)
    except BeholderError:
        raise
    except Exception as error:  # whatever a library of another version does with the description
        raise HeadError(
            f"the library of this tower on this machine ({socket.gethostname()}) cannot make its transform: "
            f"{kind_and_text(error)}; install the version that the job was begun with"
        ) from None


def library_pixels(opened: Opened, options: PixelOptions) -> npt.NDArray[np.uint8]:
    """Apply the transform of `options` to a decoded picture: as the library's users open it, or turned and laid on white.

    Returns:
        (S, S, 3) uint8, contiguous.

    Raises:
        PictureError: UNSUPPORTED when Pillow cannot make RGB of this mode or the library is not there, TOO_LARGE when the
            picture is too thin to be resized, DAMAGED for whatever else the transform raises.
    """
    image = upright(opened)[0] if options.preset == "upright" else opened.image
    short, long = sorted(image.size)
    if options.size_px**2 * long > _MOST_PIXELS * short:
        raise PictureError(PictureReason.TOO_LARGE, f"{image.size[0]} x {image.size[1]} pixels are too thin to be resized")
    try:
        if image.mode != "RGB" and (options.preset == "rgb" or opens_rgb(options.transform)):
            image = image.convert("RGB")
        found = cut_of(options.transform)(image)
    except BeholderError as error:
        raise PictureError(PictureReason.UNSUPPORTED, str(error)) from None
    except MemoryError:
        text = f"the picture of {opened.size[0]} x {opened.size[1]} pixels needs more memory than there is"
        raise PictureError(PictureReason.TOO_LARGE, text) from None
    except Exception as error:  # the library's transforms have no errors of their own
        what = f"the transform of the tower's library fails on a picture of Pillow mode {image.mode}"
        raise PictureError(PictureReason.UNSUPPORTED, f"{what}: {kind_and_text(error)}") from None
    return np.ascontiguousarray(found)
