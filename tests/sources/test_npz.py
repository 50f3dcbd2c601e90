"""`.npz` parts: which array, labels, streaming, damage."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import InputError
from beholder.sources.npy import NpzReader
from beholder.sources.reader import ReadOptions

ROWS = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float16)


def read(path: Path, start: int = 0, stop: int | None = None, **options: Any) -> tuple[np.ndarray, list[str]]:
    reader, wanted = NpzReader(), ReadOptions(**options)
    part = reader.inspect(str(path), path.name, wanted)
    blocks = list(reader.blocks(part, start, stop, wanted))
    names = [name for block in blocks for name in block.labels["sample"].to_pylist()]  # type: ignore[index]
    return np.concatenate([np.array(block.embeddings) for block in blocks]), names


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_and_labels_come_back(tmp_path: Path, save: Any) -> None:
    save(tmp_path / "x.npz", embeddings=ROWS, paths=np.array([f"p/{i}.jpg" for i in range(1000)]))
    found, names = read(tmp_path / "x.npz", block_bytes=4096)
    assert np.array_equal(found, ROWS)
    assert names == [f"p/{i}.jpg" for i in range(1000)]
    found, names = read(tmp_path / "x.npz", 10, 20)
    assert np.array_equal(found, ROWS[10:20])
    assert names[0] == "p/10.jpg"


def test_without_labels_rows_are_numbered(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", ROWS)
    assert read(tmp_path / "x.npz")[1][:2] == ["x.npz#0", "x.npz#1"]


def test_the_array_is_found_or_asked_for(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", a=ROWS, b=ROWS * 2)
    with pytest.raises(InputError, match="which array holds the embeddings.*a .1000, 32. float16"):
        read(tmp_path / "x.npz")
    assert np.array_equal(read(tmp_path / "x.npz", embedding_column="b")[0], ROWS * 2)
    with pytest.raises(InputError, match="no array 'c'"):
        read(tmp_path / "x.npz", embedding_column="c")


def test_wrong_archives_are_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, embeddings=np.array([{}], object))
    with pytest.raises(InputError, match="never unpickled"):
        read(path)
    np.savez(path, embeddings=ROWS)
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    with pytest.raises(InputError, match="not a whole .npz archive"):
        read(path)
    path.write_bytes(whole[:5000] + bytes(200) + whole[5200:])
    with pytest.raises(InputError, match="damaged"):
        read(path)


def test_names_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    paths = np.array([f"p/{i}.jpg" for i in range(1000)])
    np.savez(path, embeddings=ROWS, paths=paths.astype(object))
    for options in ({}, {"sample_column": "paths"}, {"columns": ("paths",)}, {"columns": ("*",)}):
        with pytest.raises(InputError, match=r"x\.npz\[paths\].*never unpickled; save it as text: paths\.astype\(str\)"):
            read(path, **options)
    np.savez(path, embeddings=ROWS, paths=paths[:-1])
    with pytest.raises(InputError, match=r"\[paths\].*its shape is \(999,\), and there are 1000 rows"):
        read(path)
    np.savez(path, embeddings=ROWS, keys=paths, notes=paths.astype(object))
    assert read(path)[1][-1] == "p/999.jpg"  # what nobody asks for is no hindrance


def test_names_by_their_own_and_by_their_usual_name(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    paths = np.array([f"p/{i}.jpg" for i in range(1000)])
    np.savez(path, embeddings=ROWS, paths=paths, names=np.array([f"n{i}" for i in range(1000)]))
    assert read(path)[1][7] == "n7"
    assert read(path, sample_column="paths")[1][7] == "p/7.jpg"
    assert read(path, sample_column="path")[1][7] == "p/7.jpg"
    part = NpzReader().inspect(str(path), "x.npz", ReadOptions(columns=("paths",)))
    (block,) = NpzReader().blocks(part, 0, 3, ReadOptions(columns=("paths",)))
    assert block.labels is not None
    assert block.labels.to_pydict() == {"sample": ["n0", "n1", "n2"], "paths": ["p/0.jpg", "p/1.jpg", "p/2.jpg"]}


def test_of_two_arrays_of_names_the_one_that_fits_counts(tmp_path: Path) -> None:
    path, names = tmp_path / "x.npz", np.array([f"n{i}" for i in range(1000)])
    classes = np.array(["cat", "dog"])
    for arrays in (
        {"names": classes, "samples": names},
        {"samples": names, "names": classes},
        {"samples": classes, "names": names},
    ):
        np.savez(path, embeddings=ROWS, **arrays)
        assert read(path)[1][7] == "n7"
    for arrays in ({"names": names, "samples": np.char.add("s", names)}, {"samples": np.char.add("s", names), "names": names}):
        np.savez(path, embeddings=ROWS, **arrays)
        assert read(path)[1][7] == "sn7", "in whatever order they stand"
    np.savez(path, embeddings=ROWS, names=classes)
    with pytest.raises(InputError, match=r"its shape is \(2,\), and there are 1000 rows; or leave it out of the file"):
        read(path)


@pytest.mark.slow
def test_labels_that_pack_well_are_labels_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    rows = np.zeros((600_000, 1), np.float32)
    same = np.full(len(rows), "x" * 40)  # 96 MB
    np.savez_compressed(path, embeddings=rows, samples=same, label=np.zeros(len(rows), np.int64), wide=np.zeros((len(rows), 0)))
    for columns in ((), ("label",)):
        options = ReadOptions(columns=columns)
        part = NpzReader().inspect(str(path), "x.npz", options)
        tables = [block.labels for block in NpzReader().blocks(part, 0, None, options) if block.labels is not None]
        assert sum(table.num_rows for table in tables) == len(rows)
        assert tables[0].column_names == ["sample", *columns]
        assert tables[-1].column("sample")[-1].as_py() == "x" * 40
    np.savez(path, embeddings=ROWS, keep=np.arange(1000))
    part = NpzReader().inspect(str(path), "x.npz", ReadOptions())
    assert next(NpzReader().blocks(part, 0, 2, ReadOptions())).labels["sample"].to_pylist() == ["x.npz#0", "x.npz#1"]


def test_bytes_that_are_no_text_and_labels_of_many_blocks(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    names = [b"caf\xe9/%d" % i for i in range(1000)]
    np.savez_compressed(path, embeddings=ROWS, samples=np.array(names), keep=np.arange(1000) % 3 == 0)
    _, found = read(path, block_bytes=64 * 40)
    assert found == [f"caf\\xe9/{i}" for i in range(1000)]
    part = NpzReader().inspect(str(path), "x.npz", ReadOptions(columns=("keep",)))
    blocks = list(NpzReader().blocks(part, 500, None, ReadOptions(columns=("keep",), block_bytes=64 * 40)))
    kept = [row for block in blocks if block.labels is not None for row in block.labels.column("keep").to_pylist()]
    assert kept == [i % 3 == 0 for i in range(500, 1000)]


def test_what_lies_before_or_behind_the_arrays_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        np.savez(file, embeddings=ROWS)
        np.savez(file, embeddings=ROWS)
    with pytest.raises(InputError, match="bytes before its arrays: perhaps another archive"):
        read(path)
    array = io.BytesIO()
    np.save(array, ROWS)
    for data, words in ((array.getvalue() * 2, "bytes after the 1000 rows"), (array.getvalue()[:-1], "is truncated")):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("embeddings.npy", data)
        with pytest.raises(InputError, match=words):
            read(path)


def test_labels_of_megabytes_each_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    _huge(path, ROWS[:4], f"<U{1 << 20}", bytes(4 << 20), 4)
    with pytest.raises(InputError, match=r"\[samples\].*each of its values takes 4,194,304 bytes"):
        read(path)


@pytest.mark.slow
def test_small_archives_that_unpack_to_gigabytes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    _huge(path, ROWS, "<U70000", b"x\0\0\0" * 70_000, 1000)  # 280 MB out of 1 MB
    with pytest.raises(InputError, match="its labels unpack to far more than they take in the file"):
        read(path)


def _huge(path: Path, rows: np.ndarray, kind: str, value: bytes, count: int) -> None:
    """An archive whose samples are `count` times `value`; never whole in memory."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": kind, "fortran_order": False, "shape": (count,)})
    array = io.BytesIO()
    np.save(array, rows)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("embeddings.npy", array.getvalue())
        with archive.open("samples.npy", "w", force_zip64=True) as member:
            member.write(header.getvalue())
            for _ in range(count):
                member.write(value)


@pytest.mark.parametrize("order", ["<", ">"])
def test_letters_beyond_unicode_are_damage(tmp_path: Path, order: str) -> None:
    names = np.array(["a.jpg", "b.jpg"], f"{order}U5")
    names.view(f"{order}u4")[6] = 0x110000
    np.savez(tmp_path / "x.npz", embeddings=ROWS[:2], paths=names)
    with pytest.raises(InputError, match=r"x.npz\[paths\] is damaged: a letter beyond U\+10FFFF"):
        read(tmp_path / "x.npz")
    names.view(f"{order}u4")[6] = 0x10FFFF
    np.savez(tmp_path / "x.npz", embeddings=ROWS[:2], paths=names)
    assert read(tmp_path / "x.npz")[1] == ["a.jpg", "b\U0010ffffjpg"]


def test_no_file_stays_open(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", embeddings=ROWS)
    (tmp_path / "y.npz").write_bytes(b"PK\3\4" + b"?" * 100)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        read(tmp_path / "x.npz")
        with pytest.raises(InputError, match="not a whole .npz"):
            read(tmp_path / "y.npz")
    assert [str(warning.message) for warning in warned] == []
