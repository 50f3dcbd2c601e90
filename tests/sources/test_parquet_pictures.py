"""Parquet with the pictures in it: Hugging Face, img2dataset and plain columns; nulls, damage, cuts, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.sources.find import find_pictures
from beholder.sources.labels import join_labels
from beholder.sources.parquet import PackedReader
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions
from oracles.tar_making import png

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def part_of(path: Path, **options: Any) -> PicturePart:
    return PackedReader().inspect(str(path), path.name, SourceOptions(**options))


def read(path: Path, start: int = 0, stop: int | None = None, **options: Any) -> tuple[list[PictureRef], pa.Table]:
    blocks = list(PackedReader().blocks(part_of(path, **options), start, stop, SourceOptions(**options)))
    assert all(len(block.refs) == block.labels.num_rows for block in blocks)
    return [ref for block in blocks for ref in block.refs], join_labels([block.labels for block in blocks])


def refused(path: Path, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        part_of(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write(path: Path, rows: int | None = None, /, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def test_hugging_face(tmp_path: Path) -> None:
    cells = [
        {"bytes": png(0), "path": "a.png"}, {"bytes": png(1), "path": None}, {"bytes": None, "path": "d/b.png"}, None,
        {"bytes": None, "path": None}, {"bytes": b"", "path": "a.png"}, {"bytes": None, "path": "/abs/c.png"},
        {"bytes": None, "path": "https://x/d.png"},
    ]  # fmt: skip
    path = write(tmp_path / "train.parquet", image=pa.array(cells, STRUCT), label=list(range(8)))
    refs, labels = read(path)
    names = [
        "a.png",
        "train.parquet:1",
        "d/b.png",
        "train.parquet:3",
        "train.parquet:4",
        "a.png#2",
        "/abs/c.png",
        "https://x/d.png",
    ]
    assert labels.to_pylist() == [{"sample": name, "label": i} for i, name in enumerate(names)]
    assert [ref.data for ref in refs] == [png(0), png(1), None, None, None, b"", None, None]
    assert [ref.path for ref in refs] == [None, None, f"{tmp_path}/d/b.png", None, None, None, "/abs/c.png", "https://x/d.png"]
    assert [ref.error and ref.error[0].value for ref in refs] == [None] * 3 + ["missing"] * 2 + [None] * 3


def test_img2dataset(tmp_path: Path) -> None:
    path = write(
        tmp_path / "00000.parquet", url=["u0", "u1", "u2"], key=["000", "001", "002"], status=["success",
        "failed_to_download", "success"],
        error_message=[None, "404", None], jpg=[png(0), None, png(2)], txt=["a", "b", "c"], md5=[b"\1" * 16] * 3,
    )  # fmt: skip
    refs, labels = read(path)
    assert labels.column("sample").to_pylist() == ["000", "001", "002"]
    assert labels.column_names == ["sample", "url", "status", "error_message", "txt"]
    assert [ref.data for ref in refs] == [png(0), None, png(2)]
    assert refs[1].error == ("missing", "the picture is null (404)")
    _, labels = read(path, columns=("txt", "key"))
    assert labels.to_pylist()[1] == {"sample": "001", "txt": "b", "key": "001"}
    assert read(path, columns=())[0][1].error == ("missing", "the picture is null (404)")


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_a_plain_column_of_bytes(tmp_path: Path, kind: pa.DataType) -> None:
    path = write(tmp_path / "x.parquet", odd=pa.array([None, png(1), b"junk"], kind))
    refs, labels = read(path)
    assert [ref.data for ref in refs] == [None, png(1), b"junk"]
    assert labels.to_pylist() == [{"sample": f"x.parquet:{i}"} for i in range(3)]


def test_which_column(tmp_path: Path) -> None:
    struct = pa.array([{"bytes": png(1), "path": "1"}], STRUCT)
    assert part_of(write(tmp_path / "a.parquet", mask=struct, image=struct)).detail["picture"] == "image"
    assert "which column holds the pictures? Name it with --picture-column: mask, depth" in refused(
        write(tmp_path / "b.parquet", mask=struct, depth=struct)
    )
    assert part_of(tmp_path / "b.parquet", picture_column="depth").detail["picture"] == "depth"
    assert part_of(write(tmp_path / "c.parquet", phash=[b"12345678"], blob=[png(1)])).detail["picture"] == "blob"
    assert "has no column with pictures" in refused(write(tmp_path / "d.parquet", phash=[b"12345678"]))
    assert part_of(tmp_path / "d.parquet", picture_column="phash").detail["picture"] == "phash"
    assert "column 'images' is list<element: struct<src: string>>, which is not read as pictures" in refused(
        write(tmp_path / "e.parquet", images=pa.array([[{"src": "https://x/1.png"}]]))
    )
    assert "has no column 'zz'" in refused(tmp_path / "c.parquet", picture_column="zz")
    part = part_of(write(tmp_path / "f.parquet", jpg=[png(1)], url=["u"], path=["p"], key=[7], sample=["s"]))
    assert part.detail["sample"] == "sample"
    _, labels = read(tmp_path / "f.parquet", sample_column="key")
    assert labels.to_pylist() == [{"sample": "7", "url": "u", "path": "p"}]
    assert find_pictures([str(tmp_path / "b.parquet")], SourceOptions(picture_column="mask"))[0].kind == "parquet"


def test_names_are_unique_and_stay_so_in_any_cut(tmp_path: Path) -> None:
    keys = ["a", "b", "a", None, "a#2", "a", "b", "c", "x.parquet:3", "d"]
    wanted = ["a", "b", "a#3", "x.parquet:3#2", "a#2", "a#4", "b#2", "c", "x.parquet:3", "d"]
    path = write(tmp_path / "x.parquet", 4, key=keys, jpg=[png(i) for i in range(10)], n=list(range(10)))
    part = part_of(path)
    assert part.cuts == (4, 8)
    assert part.num_rows == 10
    whole_refs, whole = read(path)
    assert whole.column("sample").to_pylist() == wanted
    for edge in (1, 4, 5, 9, 10):
        left, right = read(path, 0, edge, block_rows=3), (read(path, edge, None) if edge < 10 else ([], None))
        assert left[0] + right[0] == whole_refs
        assert left[1].to_pylist() + (right[1].to_pylist() if right[1] is not None else []) == whole.to_pylist()
    (block,) = PackedReader().blocks(part, 8, 10, SourceOptions())
    assert block.labels.column("sample").to_pylist() == wanted[8:]


def test_blocks_hold_few_bytes(tmp_path: Path) -> None:
    path = write(tmp_path / "x.parquet", jpg=[b"\xff\xd8\xff" + bytes([i]) * 50_000 for i in range(60)])
    blocks = [len(block.refs) for block in PackedReader().blocks(part_of(path), 0, None, SourceOptions(block_bytes=400_000))]
    assert sum(blocks) == 60
    assert max(blocks) <= 9


def test_a_damaged_row_group_costs_its_rows_only(tmp_path: Path) -> None:
    pictures = [png(i) + np.random.default_rng(i).bytes(1000) for i in range(30)]
    path = tmp_path / "x.parquet"
    table = pa.table({"jpg": pictures, "key": [f"k{i}" for i in range(30)]})
    pq.write_table(table, path, row_group_size=10, write_page_checksum=True, use_dictionary=False, write_statistics=False)
    at = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[at + 2000 : at + 2100] = b"\xaa" * 100
    path.write_bytes(data)
    refs, labels = read(path)
    assert labels.column("sample").to_pylist() == [f"k{i}" for i in range(30)]
    assert [ref.data for ref in refs[:10] + refs[20:]] == pictures[:10] + pictures[20:]
    assert {ref.error and ref.error[0].value for ref in refs[10:20]} == {"unreadable"}
    assert "the Parquet file is damaged here: " in (refs[10].error or ("", ""))[1]


def test_what_is_no_parquet_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "e.parquet").write_bytes(b"")
    assert "is empty" in refused(tmp_path / "e.parquet")
    (tmp_path / "c.parquet").write_bytes(write(tmp_path / "w.parquet", jpg=[png(1)]).read_bytes()[:-9])
    assert "is not a whole Parquet file" in refused(tmp_path / "c.parquet")
    empty = write(tmp_path / "n.parquet", jpg=pa.array([], pa.binary()))
    assert part_of(empty).num_rows == 0
    assert list(PackedReader().blocks(part_of(empty), 0, None, SourceOptions())) == []
