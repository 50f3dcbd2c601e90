"""Pictures of servers, copied and packed: names that tell their format, none twice, and the bytes that they have."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from oracles.acting import act, contents, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.peers import ask, needs_peers
from oracles.tar_making import base_plus_ext
from oracles.web import FileServer, serving


def picture(number: int, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8 + number, 6), (number * 53 % 256, 9, 7)).save(stream, kind)
    return stream.getvalue()


FILES = {
    "q.jpg": picture(1), "img.php": picture(2), "noext": picture(3), "a b.jpg": picture(4), "webp.jpg": picture(5, "WEBP"),
    "noext.jpg": picture(6), "": picture(7, "PNG"), "x/q.jpg": picture(8), "l" * 300 + ".png": picture(9, "PNG"),
    "v1.2": picture(10, "GIF"),
}  # fmt: skip
ADDRESSES = [
    "q.jpg?id=1", "q.jpg?id=2", "q.jpg#a", "img.php?id=5&t=.jpg", "img.php?id=6", "noext", "a%20b.jpg", "a b.jpg", "webp.jpg",
    "q.jpg?u=https://x.y/z.jpg", "q.jpg?x=../../../etc/passwd", "q.jpg?long=" + "a" * 300, "noext.jpg", "?id=1", "?id=2",
    "x/q.jpg", "l" * 300 + ".png", "v1.2",
]  # fmt: skip
SUFFIXES = {"jpg", "png", "gif", "webp"}


@pytest.fixture
def server(here: Path) -> Iterator[FileServer]:
    with serving(FILES) as server:
        yield server


def table(server: FileServer, *addresses: str, **columns: Any) -> pa.Table:
    return score_table([f"{server.url}/{address}" for address in addresses or ADDRESSES], None, **columns)


def served(server: FileServer) -> list[bytes]:
    """The bytes at each of ADDRESSES."""
    names = [address.split("?")[0].split("#")[0].replace("%20", " ") for address in ADDRESSES]
    return [FILES[name] for name in names]


def test_every_picture_is_copied_under_a_name_of_its_own_with_a_suffix(server: FileServer) -> None:
    planned, said = act(table(server), copy="out")
    assert (planned.num_bytes, planned.num_unsized) == (0, len(ADDRESSES))
    assert any(f"would copy 18 pictures, unknown bytes of {len(ADDRESSES)} files on servers to out" in line for line in said)
    done, said = act(table(server), copy="out", apply=True)
    assert (done.num_done, done.exit_status) == (len(ADDRESSES), 0), said
    made = contents(Path("out"))
    assert sorted(made.values(), key=repr) == sorted(served(server), key=repr)
    assert done.num_bytes == sum(map(len, served(server)))
    assert {name.rsplit(".", 1)[-1] for name in made} == SUFFIXES - {"webp"}
    below = {name.split("/", 1)[-1]: data for name, data in made.items()} if not (Path("out") / "noext.jpg").exists() else made
    assert below["a b.jpg"] == below["a%20b.jpg"] == FILES["a b.jpg"]
    assert below["webp.jpg"] == FILES["webp.jpg"]  # another picture's suffix stays: readers go by the bytes
    assert below["noext.jpg"] == FILES["noext.jpg"]
    assert below["v1.2.gif"] == FILES["v1.2"]
    again, _ = act(table(server), copy="out")
    assert (again.earlier, again.num_bytes) == ("finished", done.num_bytes)
    undone, _ = take_back(done.journal)
    assert (undone.num_done, undone.num_bytes) == (len(ADDRESSES), done.num_bytes)
    assert not Path("out").exists()


def members(path: str) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        return [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]


def test_every_picture_is_packed_with_a_suffix(server: FileServer) -> None:
    done, said = act(table(server), tars="out", apply=True)
    assert (done.num_done, done.exit_status) == (len(ADDRESSES), 0), said
    found = members("out/00000.tar")
    assert [data for _, data in found] == served(server)
    split = [base_plus_ext(name) for name, _ in found]
    assert {extension for _, extension in split} == {"jpg", "png", "gif"}
    assert len({key for key, _ in split}) == len(ADDRESSES)
    assert pq.read_table("out/00000.parquet").column("key").to_pylist() == [key for key, _ in split]
    act(table(server), hf_parquet="rows", apply=True)
    images = pq.read_table("rows/train-00000.parquet").column("image").to_pylist()
    assert [image["bytes"] for image in images] == served(server)
    assert len({image["path"] for image in images}) == len(ADDRESSES) - 1  # noext and noext.jpg: a path is no key
    assert {image["path"].rsplit(".", 1)[-1] for image in images} == {"jpg", "png", "gif"}


WEBDATASET = """
import json, sys
import webdataset as wds
found = [list(sample) for sample in wds.WebDataset(sys.argv[1], shardshuffle=False).decode("pil").to_tuple("jpg;png;gif")]
print(json.dumps([list(picture.size) for picture, in found]))
"""


@needs_peers("webdataset is")
def test_webdataset_reads_every_one(server: FileServer, here: Path) -> None:
    act(table(server), tars="out", apply=True)
    sizes = [list(Image.open(io.BytesIO(data)).size) for data in served(server)]
    assert json.loads(ask(WEBDATASET, "out/00000.tar", cache=here / "cache")) == sizes


def test_bytes_that_were_recorded_are_told_beforehand(server: FileServer) -> None:
    sizes = pa.array([len(picture(1)), None, len(picture(2))], pa.int64())
    scores = table(server, "q.jpg", "noext", "img.php", num_bytes=sizes)
    known = len(picture(1)) + len(picture(2))
    for options in ({"copy": "out"}, {"tars": "shards"}):
        planned, said = act(scores, **options)
        assert (planned.num_bytes, planned.num_unsized) == (known, 1)
        assert any(f"3 pictures, {known / 1000:.1f} kB and unknown bytes of 1 file on servers" in line for line in said), said
        done, _ = act(scores, **options, apply=True)
        assert done.num_bytes == known + len(picture(3))


@pytest.mark.parametrize("num_made", [0, 1, 3])
def test_a_killed_copy_goes_on_under_the_same_names(server: FileServer, num_made: int) -> None:
    some = table(server, "noext", "img.php", "q.jpg")
    act(some, copy="out", apply=True)
    whole = contents(Path("out"))
    journal = Path("out.journal.jsonl")
    lines = lines_of(journal)
    write_journal(journal, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    made = sorted(path for path in Path("out").rglob("*") if path.is_file())
    for path in made[num_made:]:
        path.unlink()
    if num_made == 1:
        assert take_back(str(journal), dry_run=True)[0].num_done == 1
    done, _ = act(some, copy="out", apply=True)
    assert (done.num_done, done.exit_status, done.num_bytes) == (3, 0, sum(map(len, whole.values())))
    assert contents(Path("out")) == whole
    take_back(str(journal))
    assert not Path("out").exists()


def test_a_picture_whose_name_is_taken_once_it_has_a_suffix(server: FileServer) -> None:
    Path("out").mkdir()
    Path("out/noext.jpg").write_bytes(b"mine")
    done, _ = act(table(server, "noext", "q.jpg"), copy="out", apply=True)
    assert (done.num_done, done.exit_status) == (2, 0)
    made = contents(Path("out"))
    assert made.pop("noext.jpg") == b"mine"
    assert sorted(made.values(), key=repr) == sorted([picture(3), picture(1)], key=repr)
