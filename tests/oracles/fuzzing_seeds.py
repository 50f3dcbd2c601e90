"""Small valid files of embeddings in all forms, and words of their formats, for the fuzzer."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_ROWS, DIM = 20, 24
ROWS = np.random.default_rng(0).standard_normal((NUM_ROWS, DIM)).astype(np.float32)
NAMES = [f"a/{i}é.jpg" for i in range(NUM_ROWS)]
NUMPY = (*b"descr '<f4' '|O' '>f4' '<f2' fortran_order True shape ( \x93NUMPY\2\0".split(), b"(20, 24)")
ZIP = tuple(b"PK\1\2 PK\3\4 PK\5\6 PK\6\6 PK\6\7 PK\7\x08 \1\0\x10\0 \xff\xff\xff\xff .npy".split())
PARQUET = tuple(b"PAR1 PARE ARROW:schema embedding element list sample \x15\0 \x19\x1c \x18".split())
CSV = (*b', " nan inf 1e999 ; prediction sample emb_0 0x1p3 \0'.split(), b"\r\n", b"\t")
JSON = tuple(b'null NaN Infinity [ ] { } "embedding" "sample" \\u0000 \\ud800 1e400 ,'.split())


def npy(rows: np.ndarray) -> bytes:
    """Rows as `numpy.save` writes them."""
    data = io.BytesIO()
    np.save(data, rows)
    return data.getvalue()


def npz(*, packed: bool, **arrays: Any) -> bytes:
    """The rows, their names and numbers, as `numpy.savez` writes them."""
    data = io.BytesIO()
    save = np.savez_compressed if packed else np.savez
    save(data, **{"embeddings": ROWS, "paths": np.array(NAMES), "number": np.arange(NUM_ROWS), **arrays})
    return data.getvalue()


def _vectors(kind: str) -> pa.Array:
    match kind:
        case "list":
            return pa.array(list(map(list, ROWS.tolist())), pa.list_(pa.float32()))
        case "large list":
            return pa.array(list(map(list, ROWS.tolist())), pa.large_list(pa.float64()))
        case "half":
            return pa.array(list(ROWS.astype(np.float16)), pa.list_(pa.float16()))
        case "gaps":
            return pa.array([None if i % 5 == 2 else row[: 24 - (i % 7 == 3)] for i, row in enumerate(ROWS.tolist())])
        case _:
            return pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), DIM)


def parquet(kind: str, compression: str = "snappy", **options: Any) -> bytes:
    """The rows with names, captions and stars; `kind`: how they are stored (see `_vectors`), "dimensions" or "nested"."""
    columns: dict[str, Any] = {"sample": NAMES, "caption": ["a", "b"] * 10, "stars": range(NUM_ROWS)}
    if kind == "dimensions":
        columns |= {f"emb_{i}": ROWS[:, i] for i in range(DIM)}
    elif kind == "nested":
        columns |= {"emb": pa.StructArray.from_arrays([_vectors("fixed")], ["v"]), "embedding": _vectors("list")}
        columns |= {"said": [{"a": [1, 2], "b": {"c": "x"}}] * NUM_ROWS}
    else:
        columns["embedding"] = _vectors(kind)
    data = io.BytesIO()
    pq.write_table(pa.table(columns), data, **{"compression": compression, "row_group_size": 8, **options})
    return data.getvalue()


def csv_of(*, ends: str = "\n", delimiter: str = ",", header: bool = True, logits: bool = True) -> bytes:
    """The first rows, as birder writes logits, or with a path and a caption of two lines."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator=ends)
    names = [str(i) for i in range(DIM)] if logits else [f"emb_{i}" for i in range(DIM)]
    if header:
        writer.writerow(["sample", *names] if logits else ["path", "caption", *names])
    for name, row in zip(NAMES, ROWS[:12], strict=False):
        values = [f"{value:.7g}" for value in row.tolist()]
        said = [] if logits else ['a "quoted", one\nof two lines']
        writer.writerow([name, *said, *values] if header else values)
    return text.getvalue().encode()


def json_lines() -> list[bytes]:
    """The first rows with a list each, and with a field for each dimension."""
    rows = [{"sample": name, "embedding": row, "caption": "a"} for name, row in zip(NAMES, ROWS.tolist(), strict=True)]
    wide = [
        {"key": name, **{f"emb_{i}": value for i, value in enumerate(row)}}
        for name, row in zip(NAMES, ROWS.tolist(), strict=True)
    ]
    return ["\n".join(map(json.dumps, some)).encode() for some in (rows[:6], wide[:6])]


def torch_files() -> list[bytes]:
    """A tensor, and a dict of one and names, each as a zip and in the older form."""
    import torch

    found = []
    for what in (torch.from_numpy(ROWS), {"embeddings": torch.from_numpy(ROWS).half(), "paths": NAMES}):
        for is_zip in (True, False):
            data = io.BytesIO()
            torch.save(what, data, _use_new_zipfile_serialization=is_zip)
            found.append(data.getvalue())
    return found
