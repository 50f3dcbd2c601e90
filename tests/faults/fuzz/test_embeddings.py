"""Mutated files of embeddings: each is read, with all its rows counted, or refused in one line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from oracles import inside_formats as inside
from oracles.fuzzing import Target, check
from oracles.source_reads import everything

NUM_ROWS, DIM = 20, 24
ROWS = np.random.default_rng(0).standard_normal((NUM_ROWS, DIM)).astype(np.float32)
NAMES = [f"a/{i}é.jpg" for i in range(NUM_ROWS)]
NUMPY = (*b"descr '<f4' '|O' '>f4' '<f2' fortran_order True shape ( \x93NUMPY\2\0".split(), b"(20, 24)")
ZIP = tuple(b"PK\1\2 PK\3\4 PK\5\6 PK\6\6 PK\6\7 PK\7\x08 \1\0\x10\0 \xff\xff\xff\xff .npy".split())
PARQUET = tuple(b"PAR1 PARE ARROW:schema embedding element list sample \x15\0 \x19\x1c \x18".split())
CSV = (*b', " nan inf 1e999 ; prediction sample emb_0 0x1p3 \0'.split(), b"\r\n", b"\t")
JSON = tuple(b'null NaN Infinity [ ] { } "embedding" "sample" \\u0000 \\ud800 1e400 ,'.split())


def _npy(rows: np.ndarray) -> bytes:
    data = io.BytesIO()
    np.save(data, rows)
    return data.getvalue()


def _npz(packed: bool, **arrays: Any) -> bytes:
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


def _parquet(kind: str, compression: str = "snappy", **options: Any) -> bytes:
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


def _csv(*, ends: str = "\n", delimiter: str = ",", header: bool = True, logits: bool = True) -> bytes:
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


def _json() -> list[bytes]:
    rows = [{"sample": name, "embedding": row, "caption": "a"} for name, row in zip(NAMES, ROWS.tolist(), strict=True)]
    wide = [
        {"key": name, **{f"emb_{i}": value for i, value in enumerate(row)}}
        for name, row in zip(NAMES, ROWS.tolist(), strict=True)
    ]
    return ["\n".join(map(json.dumps, some)).encode() for some in (rows[:6], wide[:6])]


def _torch() -> list[bytes]:
    import torch

    found = []
    for what in (torch.from_numpy(ROWS), {"embeddings": torch.from_numpy(ROWS).half(), "paths": NAMES}):
        for is_zip in (True, False):
            data = io.BytesIO()
            torch.save(what, data, _use_new_zipfile_serialization=is_zip)
            found.append(data.getvalue())
    return found


def _clip_retrieval(path: Path) -> Any:
    """The mutated file is the metadata beside a sound array."""
    folder = path.parent
    table = path.read_bytes()
    home = folder.parent / "set"
    (home / "img_emb").mkdir(parents=True, exist_ok=True)
    (home / "metadata").mkdir(exist_ok=True)
    np.save(home / "img_emb" / "img_emb_0.npy", ROWS)
    (home / "metadata" / path.name).write_bytes(table)
    return everything(home)


ZIPPED = (inside.in_zip_member, inside.in_zip_directory, inside.in_zip_name)
PACKED = (inside.in_parquet_footer, inside.in_parquet_pages)
TARGETS = {
    "npy": Target(
        read=everything,
        seeds=lambda: [_npy(ROWS), _npy(ROWS.astype(np.float16)), _npy(np.asfortranarray(ROWS)), _npy(ROWS.astype("<f8"))],
        name="x.npy",
        tokens=NUMPY,
        insides=(inside.in_npy_header,),
        count=150,
    ),
    "npz": Target(read=everything, seeds=lambda: [_npz(False)], name="x.npz", tokens=ZIP + NUMPY, insides=ZIPPED),
    "packed npz": Target(read=everything, seeds=lambda: [_npz(True)], name="x.npz", tokens=ZIP, insides=ZIPPED),
    "parquet lists": Target(
        read=everything,
        seeds=lambda: [_parquet(kind) for kind in ("list", "large list", "half", "gaps")],
        name="x.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
    "parquet fixed lists": Target(
        read=everything,
        seeds=lambda: [_parquet("fixed", "none", use_dictionary=False), _parquet("fixed", "gzip", data_page_version="2.0")],
        name="x.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
    "parquet dimensions": Target(
        read=everything, seeds=lambda: [_parquet("dimensions", "none")], name="x.parquet", tokens=PARQUET, insides=PACKED
    ),
    "parquet nested": Target(
        read=everything, seeds=lambda: [_parquet("nested", "zstd")], name="x.parquet", tokens=PARQUET, insides=PACKED
    ),
    "birder csv": Target(
        read=everything, seeds=lambda: [_csv(), _csv(ends="\r\n")], name="logits.csv", tokens=CSV, is_text=True, count=100
    ),
    "csv": Target(
        read=everything,
        seeds=lambda: [
            _csv(logits=False),
            _csv(logits=False, delimiter=",", ends="\r\n"),
            b"\xef\xbb\xbf" + _csv(logits=False),
        ],
        name="x.csv",
        tokens=CSV,
        is_text=True,
        count=100,
    ),
    "json lines": Target(
        read=everything, seeds=_json, name="x.jsonl", tokens=JSON, insides=(inside.in_json_value,), is_text=True, count=100
    ),
    "torch": Target(
        read=everything, seeds=_torch, name="x.pt", tokens=(*ZIP, b"ctorch", b"cbuiltins\neval\n", b"\x80\2"), insides=ZIPPED
    ),
    "clip-retrieval metadata": Target(
        read=_clip_retrieval,
        seeds=lambda: [_parquet("list")],
        name="metadata_0.parquet",
        tokens=PARQUET,
        insides=PACKED,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
