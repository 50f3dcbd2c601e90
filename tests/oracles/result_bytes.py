"""Results of two runs side by side: every table, array and text, to the bit and in order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

_NAMED = ("scores", "rejects", "embeddings", "img_emb", "metadata", "_inputs")


def contents(path: Path) -> Any:
    """What a file holds, so that two of them can be compared: a table with its types, an array's bytes, or bytes."""
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None).combine_chunks()
        columns = {name: table.column(name).combine_chunks() for name in table.column_names}
        return (str(table.schema.remove_metadata()), {name: _bits(column) for name, column in columns.items()})
    if path.suffix == ".npy":
        array = np.load(path)
        return (array.dtype.str, array.shape, array.tobytes())
    return path.read_bytes()


def _bits(column: Any) -> Any:
    """Values, floats as their bits: NaN is NaN then."""
    kind = str(column.type)
    if kind.startswith("fixed_size_list"):
        return (len(column), column.flatten().to_numpy(zero_copy_only=False).tobytes())
    if kind in ("float", "halffloat", "double"):
        return column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False).tobytes()
    return column.to_pylist()


def result_of(out: Path) -> dict[str, Any]:
    """All that a run wrote for `out` (a folder, .parquet or .csv), by relative name, without markers and records."""
    if out.suffix in (".parquet", ".csv"):
        beside = [out, out.with_name(out.name + ".rejects.parquet")]
        found = {path.name: contents(path) for path in beside if path.exists()}
        kept = out.with_name(out.name + ".embeddings")
        return found | {
            f"kept/{path.relative_to(kept)}": contents(path) for path in sorted(kept.rglob("*.*")) if path.suffix != ".json"
        }
    files = [path for name in _NAMED for path in sorted((out / name).rglob("*")) if path.is_file() and path.suffix != ".json"]
    return {path.relative_to(out).as_posix(): contents(path) for path in files}


def check_same(out: Path, scratch: Path) -> None:
    """`out` is, to the bit, what `scratch` is, and nothing is left of the way there."""
    found, expected = result_of(out), result_of(scratch)
    assert list(found) == list(expected)
    for name in expected:
        assert found[name] == expected[name], name
    assert not (out / "_earlier").exists()
    assert not out.with_name(out.name + ".partial").exists()
