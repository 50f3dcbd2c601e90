"""Numbered names against Python's own formatting."""

from __future__ import annotations

import pyarrow as pa
import pytest

from beholder.sources.labels import row_names


@pytest.mark.parametrize(("start", "stop"), [(0, 0), (0, 1), (0, 1001), (98, 102), (999_999_999, 1_000_000_003)])
@pytest.mark.parametrize("name", ["emb.npy", "ordner/größe.npy", ""])
def test_names_are_prefix_and_row_number(name: str, start: int, stop: int) -> None:
    names = row_names(name, start, stop)
    names.validate(full=True)
    assert names.type == pa.large_string()
    assert names.to_pylist() == [f"{name}#{row}" for row in range(start, stop)]
