"""Tables of places (CSV, TSV, Parquet): which columns are chosen, where paths count from, what is passed through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find_pictures
from beholder.sources.labels import join_labels
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions
from beholder.sources.table import TableReader
from oracles.tar_making import png


def part_of(path: Path | str, **options: Any) -> PicturePart:
    return TableReader().inspect(str(path), Path(path).name, SourceOptions(**options))


def read(path: Path | str, start: int = 0, stop: int | None = None, **options: Any) -> tuple[list[PictureRef], pa.Table]:
    blocks = list(TableReader().blocks(part_of(path, **options), start, stop, SourceOptions(**options)))
    assert all(len(block.refs) == block.labels.num_rows for block in blocks)
    return [ref for block in blocks for ref in block.refs], join_labels([block.labels for block in blocks])


def refused(path: Path | str, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        part_of(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def csv(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def parquet(path: Path, rows: int | None = None, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_a_csv_with_its_other_columns(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", 'url,caption,n,x,id,mixed,empty\nhttp://x/1.jpg,"a, ""b""\nc",1,0.5,007,1,\n'
               "http://x/2.jpg,,2,1,008,b,\n,d,3,,009,,\n")  # fmt: skip
    refs, labels = read(path)
    assert [ref.path for ref in refs] == ["http://x/1.jpg", "http://x/2.jpg", None]
    assert refs[2].error is not None
    assert refs[2].error[0] == "missing"
    assert labels.to_pylist() == [
        {"sample": "http://x/1.jpg", "caption": 'a, "b"\nc', "n": "1", "x": "0.5", "id": "007", "mixed": "1", "empty": None},
        {"sample": "http://x/2.jpg", "caption": None, "n": "2", "x": "1", "id": "008", "mixed": "b", "empty": None},
        {"sample": "t.csv:2", "caption": "d", "n": "3", "x": None, "id": "009", "mixed": None, "empty": None},
    ]
    part = part_of(path)
    assert (part.kind, part.num_rows, part.num_bytes, part.cuts) == ("table", 3, 0, None)


def test_tabs(tmp_path: Path) -> None:
    refs, labels = read(csv(tmp_path / "t.tsv", "path\tcaption\na.jpg\tof, a\n"))
    assert [ref.path for ref in refs] == ["a.jpg"]
    assert labels.to_pylist() == [{"sample": "a.jpg", "caption": "of, a"}]


@pytest.mark.parametrize(
    ("header", "row", "picture", "sample"),
    [
        ("sample,aesthetic_score", "d/a.jpg,5.5", "d/a.jpg", "d/a.jpg"),
        ("sample,url", "k1,http://x/a.jpg", "http://x/a.jpg", "k1"),
        ("key,image_path,url", "000,a.jpg,http://x/a.jpg", "a.jpg", "000"),
        ("image_path,url", "000420031,http://x/a.jpg", "http://x/a.jpg", "http://x/a.jpg"),
        ("URL,TEXT", "http://x/noname,words", "http://x/noname", "http://x/noname"),
        ("FileName,label", "a.JPG,3", "a.JPG", "a.JPG"),
        ("SAMPLE_ID,URL", "12345,http://x/1", "http://x/1", "12345"),
    ],
)
def test_the_columns_are_found(tmp_path: Path, header: str, row: str, picture: str, sample: str) -> None:
    for i, path in enumerate([csv(tmp_path / "t.csv", f"{header}\n{row}\n"), tmp_path / "t.parquet"]):
        if i:
            parquet(path, **{name: [value] for name, value in zip(header.split(","), row.split(","), strict=True)})
        refs, labels = read(path)
        assert [ref.path for ref in refs] == [picture]
        assert labels.column("sample").to_pylist() == [sample]
        (part,) = find_pictures([str(path)], SourceOptions())
        assert part.kind == "table"


def test_named_columns(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "a,b,sample,path\nx.jpg,one,s,1\ny.jpg,one,t,2\n")
    refs, labels = read(path, picture_column="a", sample_column="b", columns=("path", "a"))
    assert [ref.path for ref in refs] == ["x.jpg", "y.jpg"]
    assert labels.to_pylist() == [{"sample": "one", "path": "1", "a": "x.jpg"}, {"sample": "one#2", "path": "2", "a": "y.jpg"}]
    _, labels = read(path, picture_column="a", sample_column="b")
    assert labels.column_names == ["sample", "a", "path"]  # the source's own `sample` gives way
    assert "has no column 'zz'; it has: a, b, sample, path" in refused(path, picture_column="zz")
    assert "has no column 'zz'" in refused(path, sample_column="zz")


def test_names_that_come_again(tmp_path: Path) -> None:
    places = ["a.jpg", "b.jpg", "a.jpg", "a.jpg#2", "a.jpg", None, "t.csv:5", "b.jpg"]
    wanted = ["a.jpg", "b.jpg", "a.jpg#3", "a.jpg#2", "a.jpg#4", "t.csv:5#2", "t.csv:5", "b.jpg#2"]
    path = csv(tmp_path / "t.csv", "path,n\n" + "".join(f"{place or ''},{i}\n" for i, place in enumerate(places)))
    refs, labels = read(path)
    assert len(set(labels.column("sample").to_pylist())) == len(places)
    assert labels.column("sample").to_pylist() == wanted
    assert [ref.path for ref in refs] == places
    for low, high in ((2, 5), (4, 8), (7, None)):
        assert read(path, low, high)[1].column("sample").to_pylist() == wanted[low:high]
    again = parquet(tmp_path / "t.parquet", 3, path=places, n=list(range(8)))
    assert read(again, 2, 5)[1].column("sample").to_pylist() == wanted[2:5]


def test_where_relative_paths_count_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, other = tmp_path / "home", tmp_path / "other"
    home.mkdir()
    other.mkdir()
    (home / "a.jpg").write_bytes(png(1))
    table = csv(home / "metadata.csv", f"file_name\ngone.jpg\na.jpg\n{home}/a.jpg\nhttp://x/1.jpg\n")
    monkeypatch.chdir(home)
    assert [ref.path for ref in read("metadata.csv")[0]] == ["gone.jpg", "a.jpg", f"{home}/a.jpg", "http://x/1.jpg"]
    monkeypatch.chdir(tmp_path)
    wanted = ["home/gone.jpg", "home/a.jpg", f"{home}/a.jpg", "http://x/1.jpg"]
    refs, labels = read("home/metadata.csv")
    assert [ref.path for ref in refs] == labels.column("sample").to_pylist() == wanted
    refs, labels = read(table)
    assert labels.column("sample").to_pylist() == [f"{home}/gone.jpg", f"{home}/a.jpg", f"{home}/a.jpg#2", "http://x/1.jpg"]
    (other / "gone.jpg").write_bytes(png(1))
    monkeypatch.chdir(other)
    assert read(table)[0][1].path == "a.jpg"  # the current folder comes first, for all rows
    plain = csv(home / "list.txt", "a.jpg\n")
    monkeypatch.chdir(tmp_path)
    assert read(plain)[0][0].path == f"{home}/a.jpg"


@pytest.mark.parametrize("rows", [None, 7])
def test_any_cut_gives_the_same(tmp_path: Path, rows: int | None) -> None:
    columns = {"url": [f"http://x/{i % 20}.jpg" for i in range(45)], "n": list(range(45))}
    text = "url,n\n" + "".join(f"{url},{n}\n" for url, n in zip(columns["url"], columns["n"], strict=True))
    for path in (parquet(tmp_path / "t.parquet", rows, **columns), csv(tmp_path / "t.csv", text)):
        whole_refs, whole = read(path)
        assert whole.num_rows == 45
        for edge in (1, 6, 7, 44):
            left, right = read(path, 0, edge, block_rows=4), read(path, edge, None, block_rows=4)
            assert left[0] + right[0] == whole_refs
            assert left[1].to_pylist() + right[1].to_pylist() == whole.to_pylist()
        assert list(TableReader().blocks(part_of(path), 45, None, SourceOptions())) == []


def test_other_kinds_of_text_columns(tmp_path: Path) -> None:
    places = ["a.jpg", None, "b.jpg"]
    for kind in (pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.string_view()):
        path = parquet(tmp_path / "t.parquet", path=pa.array(places, pa.string()).cast(kind), image_id=[1, 2, 3])
        refs, labels = read(path)
        assert [ref.path for ref in refs] == places
        assert labels.column("sample").to_pylist() == ["a.jpg", "t.parquet:1", "b.jpg"]


def test_what_is_no_table_of_pictures_is_refused(tmp_path: Path) -> None:
    assert "has no column with pictures, paths or URLs of a usual name; name it with --picture-column: a, b" in refused(
        csv(tmp_path / "t.csv", "a,b\n1,2\n")
    )
    assert "lists nothing" in refused(csv(tmp_path / "e.csv", "path,b\n"))
    assert "cannot be read as CSV: CSV parse error: Expected 2 columns, got 3" in refused(
        csv(tmp_path / "r.csv", "path,b\n1,2,3\n")
    )
    assert "is empty (0 bytes)" in refused(csv(tmp_path / "n.csv", ""))
    (tmp_path / "latin.csv").write_bytes("path\né.jpg\n".encode("latin-1"))
    assert "column 'path' holds bytes that are no UTF-8 text" in refused(tmp_path / "latin.csv")
    (tmp_path / "names.csv").write_bytes("path,né\na.jpg,1\n".encode("latin-1"))
    assert "its column names are no UTF-8 text" in refused(tmp_path / "names.csv")
    (tmp_path / "zeros.csv").write_bytes(b"path\n\0\0\xff\n")
    assert "it is no text, it holds zero bytes" in refused(tmp_path / "zeros.csv")
    assert "two columns named 'path'" in refused(csv(tmp_path / "w.csv", "path,path\na.jpg,b.jpg\n"))
    assert "column 'n' is int64; expected bytes, struct<bytes, path>" in refused(
        parquet(tmp_path / "i.parquet", n=[1]), picture_column="n"
    )
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    assert "is not a whole Parquet file" in refused(tmp_path / "cut.parquet")


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a./" * 2000 + "b.png"])
def test_places_that_no_file_can_have_are_lost_pictures(tmp_path: Path, name: str) -> None:
    """Once they were asked for to find out where relative paths count from, which ended the run."""
    (tmp_path / "0.png").write_bytes(png())
    for path in (csv(tmp_path / "list.csv", f"path\n{name}\n0.png\n"), csv(tmp_path / "list.txt", f"{name}\n0.png\n")):
        refs, _ = read(path)
        assert refs[1].path == str(tmp_path / "0.png")
        with pytest.raises(PictureError) as caught:
            read_bytes(refs[0], ReadLimits())
        assert "\n" not in str(caught.value)
