"""Which column of a table says where the pictures are, and which holds captions: real tables of other tools, and odd ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import InputError
from beholder.scoreset.picture_column import caption_column_of, find_picture_column, picture_column_of
from beholder.scoreset.score_set import ScoreSet, open_scores

URLS = ["http://host/a.jpg", "https://host/b?id=3"]


def found(columns: dict[str, Any], wanted: str | None = None, *, has_sources: bool = False) -> str | None:
    first = pa.table(columns)
    scores = ScoreSet(
        source="the table",
        table=first,
        row_counts=(len(first),),
        schema=first.schema,
        sample_column="sample",
        score_columns=(),
        record={"pictures": {"sources": ["photos"]}} if has_sources else {},
    )
    column = picture_column_of(first, scores, wanted, ())
    return None if column is None else column.name


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"sample": ["000000", "000001"], "url": URLS}, "url"),
        ({"sample": ["000000", "000001"], "URL": URLS}, "URL"),
        ({"sample": ["k1", "k2"], "page": ["http://host/x.html", "http://host/y.html"], "image_url": URLS}, "image_url"),
        ({"sample": ["k1", "k2"], "url": ["http://host/x.html", "http://host/y.html"]}, None),
        ({"sample": ["k1", "k2"], "url": [None, None]}, None),
        ({"sample": ["k1", "k2"], "url": ["", "http://host/b.png"]}, "url"),
        ({"sample": ["k1", "k2"], "path": ["a/1.jpg", "a/2.PNG"], "caption": ["x.jpg", "a cat"]}, "path"),
        ({"sample": ["k1", "k2"], "foto": ["a/1.jpg", "a/2.PNG"], "caption": ["x.jpg", "a cat"]}, "foto"),
        ({"sample": ["k1", "k2"], "path": ["00000.tar", "00001.tar"]}, None),
        ({"sample": ["k1", "k2"], "image": ["iVBORw0KGgo" + "A" * 80, "/9j/" + "A" * 80]}, None),
        ({"sample": ["k1", "k2"], "url": [1, 2]}, None),
        ({"sample": ["a/1.jpg", "a/2.jpg"], "url": URLS}, None),
        ({"sample": URLS, "path": ["a/1.jpg", "a/2.jpg"]}, None),
        ({"sample": pa.array([1, 2]), "url": pa.array(URLS).dictionary_encode()}, "url"),
        ({"sample": pa.array([], pa.string()), "url": pa.array([], pa.string())}, None),
        ({"sample": ["k1", "k2"]}, None),
    ],
)
def test_it_is_found_where_names_are_no_pictures(columns: dict[str, Any], expected: str | None) -> None:
    assert found(columns) == expected


def test_it_is_not_looked_for_where_sources_are_known_and_taken_where_it_is_named() -> None:
    rows = {"sample": ["a.jpg", "b.jpg"], "url": URLS, "n": [1, 2]}
    assert found({**rows, "sample": ["k1", "k2"]}, has_sources=True) is None
    assert found(rows, wanted="url") == "url"
    assert found(rows, wanted="url", has_sources=True) == "url"
    assert found(rows, wanted="sample") is None
    with pytest.raises(InputError, match="--picture-column ulr: the table has no such column; it has sample, url, n"):
        found(rows, wanted="ulr")
    with pytest.raises(InputError, match="--picture-column n: the table has int64 there"):
        found(rows, wanted="n")


def test_captions_are_found_by_name() -> None:
    text, number = pa.string(), pa.int64()
    assert caption_column_of(pa.schema([("sample", text), ("TEXT", text), ("url", text)])) == "TEXT"
    assert caption_column_of(pa.schema([("text", text), ("caption", text)])) == "caption"
    assert caption_column_of(pa.schema([("text", text), ("caption", text)]), taken=["caption"]) == "text"
    assert caption_column_of(pa.schema([("caption", number), ("a", text)])) is None


def test_rows_of_several_files_are_looked_at(tmp_path: Path) -> None:
    """The first file holds one row, whose address is null, or has no such column."""
    scores = pa.array([5.0, 6.0], pa.float32())
    for name, first in (("null", {"url": pa.array([None], pa.string())}), ("none", {})):
        folder = tmp_path / name
        folder.mkdir()
        pq.write_table(pa.table({"sample": ["k0"], "aesthetic_score": scores[:1], **first}), folder / "a.parquet")
        pq.write_table(pa.table({"sample": ["k1", "k2"], "aesthetic_score": scores, "url": URLS}), folder / "b.parquet")
        with open_scores(str(folder)) as found_there:
            column = find_picture_column(found_there, None, ())
        assert column is not None
        assert column.name == "url"
