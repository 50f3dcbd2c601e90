"""Embeddings and their samples in, CSV text in birder's layout out: `sample`, [`label`], `0` ... `D-1`."""

from __future__ import annotations

from typing import IO, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.kernels.shortest import csv_lines
from beholder.scoring.folder_labels import LABEL

_ROWS_AT_ONCE = 1024


def header(num_dimensions: int, *, with_label: bool) -> bytes:
    """The first line."""
    names = [columns.SAMPLE, *([LABEL] if with_label else []), *map(str, range(num_dimensions))]
    return (",".join(names) + "\n").encode()


def write_rows(out: IO[bytes], labels: pa.Table, embeddings: npt.NDArray[np.float32]) -> None:
    """Write one line a row: the sample (quoted as RFC 4180 wants it), the label if there is one, then the numbers.

    Numbers are the shortest decimals that read back as the same float32, in the style of polars: 5.0, 1e-7, NaN.

    Args:
        out: a binary file.
        labels: N rows with `sample`, and perhaps `label` (int64).
        embeddings: (N, D) float32.
    """
    texts = _quoted(labels.column(columns.SAMPLE))
    if LABEL in labels.column_names:
        numbers = pc.cast(labels.column(LABEL), pa.large_string())
        texts = pc.binary_join_element_wise(texts, numbers, pa.scalar(",", pa.large_string()))
    array = pa.array(texts.to_numpy(), pa.large_string()) if texts.num_chunks != 1 else texts.chunk(0)
    for low in range(0, len(embeddings), _ROWS_AT_ONCE):
        some = array.slice(low, _ROWS_AT_ONCE)
        offsets, data = _buffers(some)
        out.write(csv_lines(offsets, data, embeddings[low : low + _ROWS_AT_ONCE]).data)


def _buffers(array: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
    """Offsets (N + 1,) and bytes of a large_string array without nulls."""
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    return starts, np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def _quoted(samples: pa.ChunkedArray) -> pa.ChunkedArray:
    """Quotes around values that hold a comma, quote or line break, or nothing; quotes inside doubled. Null is empty."""
    text = pc.fill_null(pc.cast(samples, pa.large_string()), "")
    needed = pc.or_(pc.match_substring_regex(text, '[",\r\n]'), pc.equal(text, ""))
    if not pc.any(needed).as_py():
        return text
    nothing, mark = pa.scalar("", pa.large_string()), pa.scalar('"', pa.large_string())
    wrapped = pc.binary_join_element_wise(nothing, pc.replace_substring(text, '"', '""'), nothing, mark)
    return pc.if_else(needed, wrapped, text)
