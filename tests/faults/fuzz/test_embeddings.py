"""Mutated files of embeddings: each is scored, with all its rows counted, or refused in one line."""

from __future__ import annotations

import io
from collections.abc import Hashable
from pathlib import Path

import numpy as np
import pytest

from beholder.sources.find import find
from beholder.sources.reader import ReadOptions, SourceOptions, embedding_reader
from oracles import inside_formats as inside
from oracles.fuzzing import Target, check

ROWS = np.random.default_rng(0).standard_normal((20, 24)).astype(np.float32)


def embeddings(path: Path) -> Hashable:
    """All rows of what stands at `path`; a part that says how many rows it has gives as many."""
    options = ReadOptions(columns=("*",))
    seen = []
    for part in find([str(path)], SourceOptions(), options).embeddings:
        num_rows = 0
        for block in embedding_reader(part.kind).blocks(part, 0, None, options):
            num_rows += len(block.embeddings)
            assert block.embeddings.shape[1] == part.dim
            if block.labels is not None:
                assert block.labels.num_rows == len(block.embeddings)
                block.labels.to_pylist()
        assert part.num_rows in (None, num_rows)
        seen.append((part.kind, part.dtype, min(part.dim, 30), min(num_rows, 30)))
    return tuple(seen)


def _npy(rows: np.ndarray, **options: bool) -> bytes:
    data = io.BytesIO()
    np.save(data, rows, **options)
    return data.getvalue()


TARGETS = {
    "npy": Target(
        read=embeddings,
        seeds=lambda: [_npy(ROWS), _npy(ROWS.astype(np.float16)), _npy(np.asfortranarray(ROWS)), _npy(ROWS.astype("<f8"))],
        name="x.npy",
        tokens=(
            b"descr",
            b"'<f4'",
            b"'|O'",
            b"fortran_order",
            b"True",
            b"shape",
            b"(20, 24)",
            b"(",
            b"\x93NUMPY\x02\0",
            b"'<f2'",
            b"'>f4'",
        ),
        insides=(inside.in_npy_header,),
        count=150,
    ),
}


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
