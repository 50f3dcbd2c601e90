"""Arrow buffers of texts made without Python objects: fields of CSV, and names with row numbers."""

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


@compiled
def _fill(prefix, start, offsets, data):  # type: ignore[no-untyped-def]
    at = 0
    digits = np.empty(20, np.uint8)
    for row in range(len(offsets) - 1):
        offsets[row] = at
        for i in range(len(prefix)):
            data[at + i] = prefix[i]
        at += len(prefix)
        number = start + row
        num_digits = 0
        while True:
            digits[num_digits] = 48 + number % 10
            num_digits += 1
            number //= 10
            if number == 0:
                break
        for i in range(num_digits):
            data[at + i] = digits[num_digits - 1 - i]
        at += num_digits
    offsets[len(offsets) - 1] = at


def numbered(prefix: bytes, start: int, stop: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Offsets (N + 1,) int64 and UTF-8 data (bytes,) uint8 of `prefix` + decimal number, for numbers [start, stop)."""
    most = len(prefix) + len(str(max(stop - 1, 0)))
    offsets = np.empty(stop - start + 1, np.int64)
    data = np.empty(max(1, (stop - start) * most), np.uint8)
    _fill(np.frombuffer(prefix or b"", np.uint8), start, offsets, data)
    return offsets, data[: offsets[-1]]
