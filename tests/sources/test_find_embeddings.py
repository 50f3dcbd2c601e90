"""What users name (files, folders, globs, lists) and the parts found behind it; reading ahead."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError
from beholder.io.stream import read_ahead
from beholder.sources.find import find_parts
from beholder.sources.labels import ConsecutiveLabels
from beholder.sources.reader import Part, ReadOptions

D = 4


def find(*sources: Any, **options: Any) -> list[Part]:
    return find_parts([str(source) for source in sources], ReadOptions(**options))


def refused(*sources: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        find(*sources, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def npy(path: Path, rows: int = 3) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path.with_name("made.npy"), np.ones((rows, D), np.float16))
    return path.with_name("made.npy").rename(path)


def metadata(path: Path, names: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image_path": names, "caption": [f"of {name}" for name in names]}), path)
    return path


def names(parts: list[Part]) -> list[str]:
    return [part.name for part in parts]


def clip_retrieval(root: Path, numbers: range, npy_name: str = "img_emb_{}.npy", table_name: str = "metadata_{}.parquet",
                   table_folder: str = "metadata") -> Path:  # fmt: skip
    for i in numbers:
        npy(root / "img_emb" / npy_name.format(i), rows=i + 1)
        metadata(root / table_folder / table_name.format(i), [f"{i}-{row}.jpg" for row in range(i + 1)])
    return root


def test_a_file(tmp_path: Path) -> None:
    (part,) = find(npy(tmp_path / "x.npy"))
    assert (part.name, part.kind, part.num_rows, part.dim, part.dtype) == ("x.npy", "npy", 3, D, "float16")
    assert part.metadata_path is None
    assert part.num_bytes == (tmp_path / "x.npy").stat().st_size


def test_files_keep_the_order_they_were_named_in(tmp_path: Path) -> None:
    b, a = npy(tmp_path / "b.npy"), npy(tmp_path / "a.npy")
    assert names(find(b, a)) == ["b.npy", "a.npy"]


def test_a_folder_is_searched_to_the_bottom_in_natural_order(tmp_path: Path) -> None:
    for name in ("part_10.npy", "part_9.npy", "deep/er/part_1.npy", "a/x.npy", ".hidden/x.npy", ".hidden.npy"):
        npy(tmp_path / name)
    (tmp_path / "notes.md").write_text("not embeddings")
    assert names(find(tmp_path)) == ["a/x.npy", "deep/er/part_1.npy", "part_9.npy", "part_10.npy"]
    assert names(find(f"{tmp_path}/")) == names(find(tmp_path))


def test_the_current_folder_and_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npy(tmp_path / "in" / "x.npy")
    monkeypatch.chdir(tmp_path)
    assert names(find(".")) == ["in/x.npy"]
    assert names(find("in")) == names(find("./in")) == names(find("in/")) == ["x.npy"]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert names(find("~/in/x.npy")) == names(find("~/in")) == names(find("~/in/*.npy")) == ["x.npy"]
    assert names(find(f"file://{tmp_path}/in/x.npy")) == ["x.npy"]


@pytest.mark.parametrize(
    ("npy_name", "table_name", "table_folder"),
    [
        ("img_emb_{}.npy", "metadata_{}.parquet", "metadata"),
        ("img_emb_{:05d}.npy", "metadata_{:05d}.parquet", "metadata"),
        ("img_emb_{}.npy", "metadata_{:04d}.parquet", "metadata"),
        ("img_emb_{:02d}.npy", "metadata_{}.parquet", "metadata"),
        ("img_emb_{:04d}.npy", "metadata_{:04d}.parquet", "laion2B-en-metadata"),
    ],
)
@pytest.mark.parametrize("source", ["", "img_emb", "img_emb/"])
def test_the_layout_of_clip_retrieval(tmp_path: Path, npy_name: str, table_name: str, table_folder: str, source: str) -> None:
    """Any zero padding of either file, any folder named *metadata*, and the set's folder or img_emb itself."""
    root = clip_retrieval(tmp_path / "set", range(12), npy_name, table_name, table_folder)
    npy(root / "text_emb" / "text_emb_0.npy", rows=1)
    parts = find(f"{root}/{source}")
    assert [part.num_rows for part in parts] == list(range(1, 13))
    for i, part in enumerate(parts):
        assert Path(part.path).name == npy_name.format(i)
        assert part.metadata_path is not None
        assert Path(part.metadata_path) == root / table_folder / table_name.format(i)
        table = ConsecutiveLabels(part, 0, i + 1, ReadOptions(columns=("caption",))).table(i + 1)
        assert table.column("sample").to_pylist() == [f"{i}-{row}.jpg" for row in range(i + 1)]
        assert table.column("caption").to_pylist() == [f"of {i}-{row}.jpg" for row in range(i + 1)]


def test_several_sets_below_one_folder_pair_with_their_own_metadata(tmp_path: Path) -> None:
    for home in ("a", "b"):
        clip_retrieval(tmp_path / home, range(2))
    parts = find(tmp_path)
    assert names(parts) == ["a/img_emb/img_emb_0.npy", "a/img_emb/img_emb_1.npy", "b/img_emb/img_emb_0.npy",
                            "b/img_emb/img_emb_1.npy"]  # fmt: skip
    assert [Path(str(part.metadata_path)).relative_to(tmp_path).parts[0] for part in parts] == ["a", "a", "b", "b"]


def test_a_set_without_metadata_is_fine(tmp_path: Path) -> None:
    npy(tmp_path / "set" / "img_emb" / "img_emb_0.npy")
    (part,) = find(tmp_path / "set")
    assert part.metadata_path is None
    assert "has no metadata, so no column 'caption'" in refused(tmp_path / "set", columns=("caption",))


def test_metadata_must_be_whole(tmp_path: Path) -> None:
    root = clip_retrieval(tmp_path / "set", range(3))
    (root / "metadata" / "metadata_1.parquet").unlink()
    line = refused(root)
    assert f"{root}/img_emb/img_emb_1.npy has no metadata file with number 1" in line
    assert len(find(f"{root}/img_emb/*.npy")) == 3
    metadata(root / "metadata" / "metadata_1.parquet", ["only one of two"])
    assert "img_emb_1.npy has 2 rows but its metadata" in refused(root)
    metadata(root / "metadata" / "metadata_1.parquet", ["one", "two"])
    metadata(root / "metadata" / "metadata_01.parquet", ["one", "two"])
    assert "both claim to be the metadata of part 1" in refused(root)
    (root / "metadata" / "metadata_01.parquet").unlink()
    (root / "metadata" / "metadata_1.parquet").write_bytes(b"")
    assert "metadata_1.parquet is empty (0 bytes)" in refused(root)
    (root / "metadata" / "metadata_1.parquet").write_bytes(b"PAR1 cut")
    assert "metadata_1.parquet is not a whole Parquet file" in refused(root)


def test_columns_that_metadata_lacks_are_refused_before_scoring(tmp_path: Path) -> None:
    root = clip_retrieval(tmp_path / "set", range(2))
    assert "has no column 'width'; it has: image_path, caption" in refused(root, columns=("width",))
    assert "has no column 'key'" in refused(root, sample_column="key")


def test_globs(tmp_path: Path) -> None:
    for i in (1, 2, 10, 11):
        npy(tmp_path / "img" / f"img_emb_{i}.npy")
    found = find(f"{tmp_path}/img/img_emb_*.npy")
    assert names(found) == ["img_emb_1.npy", "img_emb_2.npy", "img_emb_10.npy", "img_emb_11.npy"]
    assert names(find(f"{tmp_path}/**/img_emb_1?.npy")) == ["img_emb_10.npy", "img_emb_11.npy"]
    assert names(find(f"{tmp_path}/img/img_emb_[2-9].npy")) == ["img_emb_2.npy"]
    assert names(find(f"{tmp_path}/im*")) == names(found)
    assert refused(f"{tmp_path}/*.csv") == f"nothing matches {tmp_path}/*.csv"


def test_brace_ranges(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        npy(tmp_path / f"{number:02}.npy")
    assert names(find(tmp_path / "{08..10}.npy")) == ["08.npy", "09.npy", "10.npy"]
    assert "11.npy does not exist" in refused(tmp_path / "{10..11}.npy")


def test_a_list_of_pictures_beside_embeddings_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    assert "list.txt lists pictures, and embeddings were asked for" in refused(npy(tmp_path / "x.npy"), tmp_path / "list.txt")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    npy(tmp_path / "a[1].npy")
    npy(tmp_path / "a1.npy")
    assert names(find(tmp_path / "a[1].npy")) == ["a[1].npy"]


def test_lists(tmp_path: Path) -> None:
    for i in range(4):
        npy(tmp_path / f"{i}.npy")
    (tmp_path / "inner.txt").write_text(f"{tmp_path}/3.npy\n")
    (tmp_path / "list.txt").write_text(
        f"# the parts\n\n{tmp_path}/2.npy\n  {tmp_path}/[01].npy  \r\n  # indented\n{tmp_path}/inner.txt"
    )
    assert names(find(tmp_path / "list.txt")) == ["2.npy", "0.npy", "1.npy", "3.npy"]
    (tmp_path / "list.txt").write_text("# nothing\n\n")
    assert refused(tmp_path / "list.txt") == f"{tmp_path}/list.txt lists nothing: expected one path or URL a line"
    (tmp_path / "list.txt").write_text(f"{tmp_path}/no.npy\n")
    assert refused(tmp_path / "list.txt") == f"{tmp_path}/no.npy does not exist; check the path"
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe/\0x\0")
    assert refused(tmp_path / "list.txt") == "/x does not exist; check the path"
    (tmp_path / "list.txt").write_bytes(b"/\xe9.npy\n")
    assert "list.txt is not UTF-8" in refused(tmp_path / "list.txt")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/list.txt\n")
    assert "list.txt lists itself" in refused(tmp_path / "list.txt")
    assert "no.txt" in refused(tmp_path / "no.txt")


def test_a_folder_must_hold_one_kind(tmp_path: Path) -> None:
    npy(tmp_path / "in" / "a.npy")
    npy(tmp_path / "in" / "b.npy")
    pl.DataFrame({str(i): [1.0] for i in range(D)}).write_csv(tmp_path / "in" / "c.csv")
    line = refused(tmp_path / "in")
    assert "different kinds of files (1 .csv, 2 .npy)" in line
    assert f"'{tmp_path}/in/*.npy'" in line
    assert names(find(tmp_path / "in" / "a.npy", tmp_path / "in" / "c.csv")) == ["a.npy", "c.csv"]


def test_pictures_and_nothing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert (
        refused(tmp_path / "photos")
        == f"{tmp_path}/photos holds no pictures, and no .npy, .npz, .parquet or .csv file with embeddings"
    )
    (tmp_path / "photos" / "cat.JPG").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    assert "photos holds pictures" in refused(tmp_path / "photos")
    assert "cat.JPG is a picture" in refused(tmp_path / "photos" / "cat.JPG")
    assert refused(tmp_path / "no.npy") == f"{tmp_path}/no.npy does not exist; check the path"
    assert refused(tmp_path / "no") == f"{tmp_path}/no does not exist; check the path"
    npy(tmp_path / "photos" / "x.npy")
    assert names(find(tmp_path / "photos")) == ["x.npy"]


def test_the_same_file_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = npy(tmp_path / "in" / "x.npy")
    assert refused(path, path) == f"{path} is named twice; name it once"
    assert "named twice" in refused(path, tmp_path / "in")
    assert "named twice" in refused(path, f"{tmp_path}/in/../in/x.npy")
    assert "named twice" in refused(path, f"file://{path}")
    monkeypatch.chdir(tmp_path)
    assert "named twice" in refused(path, "in/x.npy")
    assert "named twice" in refused("./in/x.npy", "in/x.npy")


def test_files_of_one_name_in_several_folders_get_their_path_as_name(tmp_path: Path) -> None:
    a, b = npy(tmp_path / "a" / "x.npy"), npy(tmp_path / "b" / "x.npy")
    other = npy(tmp_path / "b" / "y.npy")
    assert names(find(a, b, other)) == [str(a).lstrip("/"), str(b).lstrip("/"), "y.npy"]


def test_symbolic_links(tmp_path: Path) -> None:
    """Links are followed, a folder that holds itself is searched once, a dangling link is named."""
    npy(tmp_path / "in" / "deep" / "x.npy")
    (tmp_path / "in" / "deep" / "loop").symlink_to(tmp_path / "in")
    assert names(find(tmp_path / "in")) == ["deep/x.npy"]
    npy(tmp_path / "elsewhere" / "y.npy")
    (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
    assert names(find(tmp_path / "in")) == ["deep/x.npy", "linked/y.npy"]
    (tmp_path / "link.npy").symlink_to(tmp_path / "elsewhere" / "y.npy")
    assert names(find(tmp_path / "link.npy")) == ["link.npy"]
    (tmp_path / "in" / "gone.npy").symlink_to(tmp_path / "nowhere.npy")
    assert f"cannot read {tmp_path}/in/gone.npy" in refused(tmp_path / "in")


@pytest.mark.parametrize("name", ["größe 1.npy", "画像 #2.npy", "a,b'c\".npy", "%20.npy", "x\u0301.npy", "new\nline.npy"])
def test_names_of_every_kind(tmp_path: Path, name: str) -> None:
    npy(tmp_path / "mit Leerzeichen" / name)
    assert names(find(tmp_path / "mit Leerzeichen")) == [name]
    assert names(find(tmp_path / "mit Leerzeichen" / name)) == [name]


def test_the_kind_is_found_by_looking(tmp_path: Path) -> None:
    rows = np.ones((3, D), np.float32)
    npy(tmp_path / "a.bin")
    np.savez(tmp_path / "b.npz", embeddings=rows)
    (tmp_path / "b.npz").rename(tmp_path / "b.dat")
    frame = pl.DataFrame({str(i): rows[:, i] for i in range(D)})
    frame.write_parquet(tmp_path / "c.data")
    frame.write_csv(tmp_path / "d")
    kinds = [part.kind for part in find(*(tmp_path / name for name in ("a.bin", "b.dat", "c.data", "d")))]
    assert kinds == ["npy", "npz", "parquet", "csv"]
    for source, name in (("a.bin", "x.parquet"), ("c.data", "x.npy")):
        (tmp_path / name).write_bytes((tmp_path / source).read_bytes())
        assert find(tmp_path / name)[0].kind == ("npy" if source == "a.bin" else "parquet")


def test_what_is_no_embedding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npy").write_bytes(b"<html>no</html>")
    assert "x.npy is not .npy inside: it starts with b'<html>no'" in refused(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(b"")
    assert "x.npy is empty (0 bytes)" in refused(tmp_path / "x.npy")
    (tmp_path / "x.npz").write_bytes(b"")
    assert "x.npz is empty (0 bytes)" in refused(tmp_path / "x.npz")
    (tmp_path / "x.bin").write_bytes(b"\x80\0\0\0\1\2\3\4")
    assert "x.bin is of no kind that is known" in refused(tmp_path / "x.bin")
    (tmp_path / "beholder.json").write_text("{}")
    assert "is a stamp, not embeddings" in refused(tmp_path / "beholder.json")
    os.mkfifo(tmp_path / "pipe.npy")
    assert "pipe.npy is not a file" in refused(tmp_path / "pipe.npy")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    npy(tmp_path / "x.npy").chmod(0)
    assert "permission denied" in refused(tmp_path / "x.npy")


def test_the_first_bad_part_of_many_is_named(tmp_path: Path) -> None:
    for i in range(40):
        npy(tmp_path / "in" / f"{i}.npy")
    (tmp_path / "in" / "17.npy").write_bytes(b"")
    (tmp_path / "in" / "30.npy").write_bytes(b"")
    assert "/in/17.npy is empty" in refused(tmp_path / "in")


# reading ahead


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "beholder-read-ahead"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_items_come_in_order(count: int, depth: int) -> None:
    assert list(read_ahead(iter(range(count)), depth=depth)) == list(range(count))
    assert not threads()


def test_errors_are_raised_where_the_item_would_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise InputError("the third is damaged")

    seen = []
    with pytest.raises(InputError, match="the third is damaged"):
        seen.extend(item for item in iter_into(seen, read_ahead(items())))
    assert seen == [1, 2]
    assert not threads()


def iter_into(seen: list[int], items: Iterator[int]) -> Iterator[int]:
    for item in items:
        seen.append(item)
        yield from ()


def test_stopping_early_ends_the_thread_and_closes_the_generator() -> None:
    closed = threading.Event()
    made = []

    def items() -> Iterator[int]:
        try:
            for number in range(10**9):
                made.append(number)
                yield number
        finally:
            closed.set()

    ahead = read_ahead(items(), depth=2)
    assert next(ahead) == 0
    assert next(ahead) == 1
    ahead.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert not threads()
    assert len(made) <= 1 + 1 + 2 + 2  # given out, waiting in the queue, one in the hand


def test_it_reads_ahead_while_an_item_is_used() -> None:
    made = []

    def items() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    ahead = read_ahead(items(), depth=2)
    assert next(ahead) == 0
    until = time.monotonic() + 5
    while len(made) < 3 and time.monotonic() < until:
        time.sleep(0.001)
    assert len(made) >= 3
    assert list(ahead) == [1, 2, 3, 4]


def test_a_reader_never_started_leaves_no_thread() -> None:
    ahead = read_ahead(iter(range(3)))
    ahead.close()  # type: ignore[attr-defined]
    assert not threads()
