"""Pictures that were left out, and numbers, as a journal tells of them in; how many and which they are, in few bytes, out."""

from __future__ import annotations

import bisect
from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from beholder.curate.act.summary import ActionSummary

MOST_EXAMPLES = 5
"""Texts that are kept of each reason."""
_SETTLED = -1
_AT_LEAST = 1 << 14
"""So many notes are kept before they are looked through; later twice as many as were of use then."""


class LeftOut:
    """Pictures that were left out, each with its last reason; 9 bytes for each, and for few of those that were done.

    Names are told apart by 64 bits of their hash: of ten million, two are taken for one with a chance of 1 in 370,000. Then one
    of the two is tried once too often, or not again.
    """

    def __init__(self) -> None:
        self._names, self._reasons = array("q"), array("b")
        self._words: list[str] = []
        self._examples: dict[str, tuple[str, str]] = {}
        self._num_examples: dict[str, int] = {}
        self._most = _AT_LEAST

    def add(self, sample: str, reason: str, text: str) -> None:
        """A picture was left out. Raises OverflowError past 128 reasons."""
        self._forget(sample)
        if reason not in self._words:
            self._words.append(reason)
        self._note(sample, self._words.index(reason))
        count = self._num_examples.get(reason, 0)
        if count < MOST_EXAMPLES:
            self._examples[sample] = (reason, text)
            self._num_examples[reason] = count + 1

    def settle(self, sample: str) -> None:
        """It was done after all."""
        if self._names:
            self._forget(sample)
            self._note(sample, _SETTLED)

    def __bool__(self) -> bool:
        return bool(len(self._last()[0]))

    def __contains__(self, sample: str) -> bool:
        return hash(sample) in self._last()[0]

    def _note(self, sample: str, code: int) -> None:
        self._reasons.append(code)
        self._names.append(hash(sample))
        if len(self._names) >= self._most:  # what was done, or is noted twice, goes
            names, codes = self._last()
            self._names, self._reasons = array("q", names.tobytes()), array("b", codes.tobytes())
            self._most = max(_AT_LEAST, 2 * len(names))

    def _forget(self, sample: str) -> None:
        reason, _ = self._examples.pop(sample, (None, ""))
        if reason is not None:
            self._num_examples[reason] -= 1

    def tell(self, summary: ActionSummary) -> None:
        """Count them in a summary."""
        import numpy as np

        _, codes = self._last()
        for code, count in zip(*np.unique(codes, return_counts=True), strict=True):
            word = self._words[code]
            examples = [(sample, text) for sample, (reason, text) in self._examples.items() if reason == word]
            summary.leave_out_many(word, int(count), examples)

    def among(self, names: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """(N,) whether each of N names is of one that is still left out."""
        import numpy as np

        left, _ = self._last()
        found = np.zeros(len(names), np.bool_)
        at = 0
        for chunk in names.chunks if len(left) else ():
            hashes = np.fromiter(map(hash, chunk.to_pylist()), np.int64, len(chunk))
            places = np.minimum(np.searchsorted(left, hashes), len(left) - 1)
            found[at : at + len(chunk)] = left[places] == hashes
            at += len(chunk)
        return found

    def _last(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int8]]:
        """Hashes, ascending, and reasons of those that are still left out."""
        import numpy as np

        names, codes = np.array(self._names, np.int64), np.array(self._reasons, np.int8)
        order = np.argsort(names, kind="stable")
        names, codes = names[order], codes[order]
        is_last = np.ones(len(names), np.bool_)
        is_last[:-1] = names[1:] != names[:-1]
        is_left = is_last & (codes != _SETTLED)
        return names[is_left], codes[is_left]


class Numbers:
    """A set of whole numbers, kept as stretches of 16 bytes."""

    def __init__(self) -> None:
        self._firsts, self._lasts = array("q"), array("q")
        self._is_merged = True

    def add(self, stretches: list[list[int]]) -> None:
        """Add [first, last] stretches. Raises TypeError, ValueError, OverflowError for what are none."""
        for first, last in stretches:
            self._lasts.append(int(last))
            self._firsts.append(int(first))
        self._is_merged = False

    def _merge(self) -> None:
        import numpy as np

        firsts, lasts = np.array(self._firsts, np.int64), np.array(self._lasts, np.int64)
        order = np.argsort(firsts, kind="stable")
        firsts, lasts = firsts[order], np.maximum.accumulate(lasts[order])
        begins = np.ones(len(firsts), np.bool_)
        begins[1:] = firsts[1:] > lasts[:-1] + 1
        starts = np.flatnonzero(begins)
        ends = np.append(starts[1:], len(firsts)) - 1 if len(starts) else starts
        self._firsts, self._lasts = array("q", firsts[starts].tobytes()), array("q", lasts[ends].tobytes())
        self._is_merged = True

    def __contains__(self, number: int) -> bool:
        if not self._is_merged:
            self._merge()
        at = bisect.bisect_right(self._firsts, number) - 1
        return at >= 0 and number <= self._lasts[at]
