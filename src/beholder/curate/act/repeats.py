"""Pictures with their names in; each name once, and the names of the rows that repeat one, out."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from beholder import columns

_ROWS = 1 << 16


def without_repeats(kept: pa.Table) -> tuple[pa.Table, list[str]]:
    """Rows whose `sample` no row before has, in order; the samples of the others. 16 bytes a row are held meanwhile."""
    names = kept.column(columns.SAMPLE)
    hashes = np.empty(len(names), np.int64)
    for at in range(0, len(names), _ROWS):
        some = names.slice(at, _ROWS).to_pylist()
        hashes[at : at + len(some)] = np.fromiter(map(hash, some), np.int64, len(some))
    order = np.argsort(hashes, kind="stable")
    is_like_last = np.zeros(len(names), np.bool_)
    is_like_last[1:] = hashes[order[1:]] == hashes[order[:-1]]
    if not is_like_last.any():
        return kept, []
    is_like_next = np.append(is_like_last[1:], False)
    seen: set[str] = set()
    repeats: list[int] = []
    for row in np.sort(order[is_like_last | is_like_next]).tolist():  # names of one hash: mostly the same ones
        name = names[row].as_py()
        if name in seen:
            repeats.append(row)
        seen.add(name)
    is_first = np.ones(len(names), np.bool_)
    is_first[repeats] = False
    return kept.filter(pa.array(is_first)), [names[row].as_py() for row in repeats]
