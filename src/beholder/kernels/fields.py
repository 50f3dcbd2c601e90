"""Places of CSV fields in a text in, Arrow buffers of their contents out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.kernels.compiled import compiled

_QUOTE = ord('"')


@compiled
def _copy(text, spans, offsets, data, valid):  # type: ignore[no-untyped-def]
    """Copy the contents of spans of `text` one after another into `data`, doubled quotes of quoted fields made single."""
    at = 0
    for row in range(len(spans)):
        offsets[row] = at
        start, stop = spans[row, 0], spans[row, 1]
        quoted = text[start - 1] == _QUOTE
        valid[row] = quoted or stop > start
        position = start
        while position < stop:
            data[at] = text[position]
            at += 1
            position += 2 if quoted and text[position] == _QUOTE else 1
    offsets[len(spans)] = at


def contents(
    text: npt.NDArray[np.uint8], spans: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Gather fields: offsets (N + 1,) int64, UTF-8 bytes, and valid (N,) bool, False for fields that are empty without quotes.

    Args:
        text: (B,) uint8.
        spans: (N, 2) int64, start > 0 and stop of each field's content, as `decimals.parse_rows` writes them.
    """
    num_rows = len(spans)
    offsets = np.empty(num_rows + 1, np.int64)
    data = np.empty(int((spans[:, 1] - spans[:, 0]).sum()) + 1, np.uint8)
    valid = np.empty(num_rows, np.bool_)
    _copy(text, spans, offsets, data, valid)
    return offsets, data[: offsets[-1]], valid
