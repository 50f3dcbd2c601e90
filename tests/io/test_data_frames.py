"""Frames of polars, pandas and Arrow become the same Arrow table, and go back to what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from beholder.errors import InputError
from beholder.scoreset.foreign import as_source

ROWS = {"sample": ["a", "b"], "aesthetic_score": [1.5, None]}
TABLE = pa.table(ROWS)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (TABLE, pa.Table),
        (TABLE.to_batches()[0], pa.Table),
        (TABLE.to_reader(), pa.Table),
        (pl.DataFrame(ROWS), pl.DataFrame),
        (pl.LazyFrame(ROWS), pl.DataFrame),
        (pd.DataFrame(ROWS), pd.DataFrame),
    ],
    ids=["table", "batch", "reader", "polars", "lazy", "pandas"],
)
def test_frames_become_tables_and_go_back(given: Any, kind: type) -> None:
    table, back = as_source(given, "select")
    assert isinstance(table, pa.Table)
    assert table.to_pydict() == ROWS
    assert isinstance(back(table), kind)


def test_places_stay_places(tmp_path: Path) -> None:
    assert as_source(tmp_path, "select")[0] == str(tmp_path)
    assert as_source("s3://bucket/x", "select")[0] == "s3://bucket/x"


@pytest.mark.parametrize("given", [3, None, [1, 2], pl.Series([1]), {"sample": ["a"]}])
def test_other_things_are_refused_by_the_name_of_the_function(given: Any) -> None:
    with pytest.raises(TypeError, match=r"^advise\(\) takes a path or a polars, pandas or Arrow table, not "):
        as_source(given, "advise")


def test_odd_frames_are_refused_in_one_line() -> None:
    with pytest.raises(InputError, match="column named 0, which is no text"):
        as_source(pd.DataFrame([[1]]), "select")
    with pytest.raises(InputError, match="^the frame cannot be read: .+"):
        as_source(pd.DataFrame({"a": [1, "x", object()]}), "select")
