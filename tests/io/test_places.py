"""Files of a folder, local, in memory and in a bucket: listed, put, copied, made once, streamed whole, removed."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

from beholder import InputError, OutputError
from beholder.io import places, writing
from beholder.io.storage import open_stream
from oracles.s3 import BUCKET


class Disk(LocalFileSystem):
    """A server whose folders have to be made before files are written into them, as those of SFTP."""

    protocol = "disk"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("disk://"))

    def unstrip_protocol(self, name: str) -> str:
        return f"disk://{self._strip_protocol(name)}"


@pytest.fixture(params=["here", "memory", "disk", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder."""
    if request.param == "s3":
        request.getfixturevalue("s3")
        yield f"s3://{BUCKET}/some/folder"
    elif request.param == "disk":
        fsspec.register_implementation("disk", Disk, clobber=True)
        yield f"disk://{tmp_path}/some/folder"
    elif request.param == "memory":
        yield f"memory://{tmp_path.name}/folder"
        fsspec.filesystem("memory").store.clear()
    else:
        yield str(tmp_path / "folder")


def contents(root: str) -> dict[str, bytes]:
    """By fsspec alone."""
    fs, inner = fsspec.url_to_fs(root)
    fs.invalidate_cache()
    found = fs.find(inner) if fs.exists(inner) else []
    return {name[len(inner) + 1 :]: fs.cat_file(name) for name in found}


def test_what_is_put_is_listed_with_size_and_version(root: str, tmp_path: Path) -> None:
    assert places.listing(root) == {}
    assert places.read_all(f"{root}/a/x") is None
    assert places.entry_of(f"{root}/a/x") is None
    assert places.modified(f"{root}/a/x") is None
    (tmp_path / "file").write_bytes(b"12345")
    seen = {"a/x": places.put_bytes(f"{root}/a/x", b"123"), "y": places.put_file(f"{root}/y", tmp_path / "file")}
    seen["a/.hidden"] = places.put_bytes(f"{root}/a/.hidden", b"")
    assert places.listing(root) == seen
    assert {name: entry.num_bytes for name, entry in seen.items()} == {"a/x": 3, "y": 5, "a/.hidden": 0}
    assert all(seen[name].is_as(places.entry_of(f"{root}/{name}")) for name in seen)
    assert contents(root) == {"a/x": b"123", "y": b"12345", "a/.hidden": b""}
    assert places.read_all(f"{root}/y") == b"12345"
    time.sleep(0.02)
    again = places.put_bytes(f"{root}/a/x", b"124")
    assert again.num_bytes == 3
    assert not again.is_as(seen["a/x"]), "other bytes of the same size"
    assert places.listing(root)["a/x"] == again
    assert abs((places.modified(f"{root}/y") or 0) - time.time()) < 60
    assert not places.Entry(3, "").is_as(places.Entry(3, "")), "nothing tells"


def test_of_several_that_make_a_file_one_succeeds(root: str) -> None:
    barrier = threading.Barrier(6)

    def make(number: int) -> bool:
        barrier.wait()
        return places.create(f"{root}/lease", b"%d" % number)

    if root.startswith(("memory", "disk")):  # which are no places for several
        assert [places.create(f"{root}/lease", b"0"), places.create(f"{root}/lease", b"1")] == [True, False]
    else:
        with ThreadPoolExecutor(6) as pool:
            told = list(pool.map(make, range(6)))
        assert sorted(told) == [False] * 5 + [True]
        assert contents(root) == {"lease": b"%d" % told.index(True)}
    writing.remove(f"{root}/lease")
    assert places.create(f"{root}/lease", b"again")


def test_a_server_that_says_in_its_own_words_that_a_file_is_there() -> None:
    """s3fs knows the answer of Amazon's servers alone; of others it makes an OSError."""

    class Other(MemoryFileSystem):
        protocol = "other"
        store: ClassVar[dict[str, Any]] = {}
        pseudo_dirs: ClassVar[list[str]] = [""]

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
            try:
                super().pipe_file(path, value, mode=mode, **more)
            except FileExistsError:
                raise OSError(errno.EINVAL, "At least one of the pre-conditions you specified did not hold") from None

    fsspec.register_implementation("other", Other, clobber=True)
    assert places.create("other://folder/lease", b"0")
    assert not places.create("other://folder/lease", b"1")
    assert places.read_all("other://folder/lease") == b"0"


def test_copies_and_removal(root: str, tmp_path: Path) -> None:
    for number in range(5):
        places.put_bytes(f"{root}/in/{number}", b"%d" % number)
    places.copy_all([(f"{root}/in/{number}", f"{root}/out/{number}") for number in range(5)])
    places.copy(f"{root}/in/4", f"{root}/out/0")
    places.remove_all([f"{root}/in/{number}" for number in range(7)])
    assert contents(root) == {f"out/{number}": b"%d" % (number or 4) for number in range(5)}
    places.copy(f"{root}/out/1", str(tmp_path / "local" / "copy"))
    assert (tmp_path / "local" / "copy").read_bytes() == b"1"
    with pytest.raises((InputError, OutputError), match=r"cannot write .*/folder/else: "):
        places.copy(f"{root}/nothing", f"{root}/else")


@pytest.mark.parametrize(
    "num_bytes", [1, pytest.param(0, marks=pytest.mark.slow), pytest.param(60 << 20, marks=pytest.mark.slow)]
)
def test_a_stream_is_whole_or_not_there(root: str, num_bytes: int) -> None:
    piece = os.urandom(1 << 20)
    with writing.open_whole(f"{root}/x", num_bytes=num_bytes) as out:
        for _ in range(num_bytes >> 20):
            out.write(piece)
        out.write(b"z" * (num_bytes & 1))
        assert not contents(root).get("x")
        assert out.tell() == num_bytes
    assert contents(root) == {"x": piece * (num_bytes >> 20) + b"z" * (num_bytes & 1)}
    for name in ("x", "y"):
        with contextlib.suppress(KeyError), writing.open_whole(f"{root}/{name}") as out:
            out.write(piece)
            raise KeyError
    assert {name: len(data) for name, data in contents(root).items()} == {"x": num_bytes}
    with open_stream(f"{root}/x") as file:
        assert file.read() == piece * (num_bytes >> 20) + b"z" * (num_bytes & 1)


def test_files_are_fetched_ahead_in_order(root: str) -> None:
    sizes = [0, 5, 33 << 20, 3, *([7] * 20)]
    for number, size in enumerate(sizes):
        places.put_bytes(f"{root}/{number}", bytes([number]) * size)
    wanted = [(f"{root}/{number}", size) for number, size in enumerate(sizes)]
    found = list(places.fetched_ahead(wanted))
    assert [(path, size) for path, size, _ in found] == wanted
    for number, (_, size, data) in enumerate(found):
        is_held = "://" in root and size <= 32 << 20
        assert data == (bytes([number]) * size if is_held else None)
    if "://" in root:
        with pytest.raises(InputError, match="gone: it does not exist"):
            list(places.fetched_ahead([(f"{root}/gone", 3)]))


def test_a_local_listing_goes_through_links_once(tmp_path: Path) -> None:
    (tmp_path / "disk" / "scores").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "scores").symlink_to(tmp_path / "disk" / "scores")
    (tmp_path / "disk" / "scores" / "again").symlink_to(tmp_path / "run")
    (tmp_path / "disk" / "scores" / "x").write_bytes(b"1")
    (tmp_path / "run" / "nowhere").symlink_to(tmp_path / "nothing")
    assert set(places.listing(str(tmp_path / "run"))) == {"scores/x"}
    assert places.listing(str(tmp_path / "disk" / "scores" / "x")) == {}


def test_a_local_listing_leaves_out_what_is_a_systems_own(tmp_path: Path) -> None:
    """Snapshots of a file server hold every file again, for each hour."""
    for name in (".snapshot/hourly.0/done", "scores/.snapshot", "lost+found", "done", ".parts"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").write_bytes(b"1")
    assert sorted(places.listing(str(tmp_path))) == [".parts/x", "done/x"]


def test_failing_servers_are_one_line(root: str) -> None:
    if not root.startswith("s3"):
        pytest.skip("of servers")
    wrong = "s3://nowhere/x"
    writes = [lambda: places.put_bytes(wrong, b""), lambda: places.create(wrong, b""), lambda: places.copy(wrong, wrong + "y")]
    for write in writes:
        with pytest.raises((OutputError, InputError), match=re.escape(wrong)) as caught:
            write()
        assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=r"cannot write s3://nowhere/x: .*bucket"), writing.open_whole(wrong) as out:
        out.write(b"1")
    assert places.listing("s3://nowhere/folder") == {}


def test_bytes_of_any_kind_are_taken(root: str) -> None:
    with writing.open_whole(f"{root}/x") as out:
        for data in (b"1", bytearray(b"2"), memoryview(b"3")):
            assert out.write(data) == 1
        if "://" in root:
            assert not out.seekable()
            with pytest.raises(io.UnsupportedOperation):
                out.seek(0)
    assert contents(root) == {"x": b"123"}
