"""A prefix and a range of row numbers in, Arrow buffers of the strings "<prefix><number>" out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from beholder.kernels.compiled import compiled


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
