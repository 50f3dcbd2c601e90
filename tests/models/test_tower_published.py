"""Published files of towers: checked by sha256 and size before they are used, in pieces, from the cache or a mirror."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from beholder.errors import HeadError
from beholder.models.catalog import Source, TowerEntry
from beholder.models.store import check, remove
from beholder.models.towers import fetch_tower, local_file
from beholder.models.transfer import RANGE_BYTES, cut, fetch_ranges, need_space
from oracles import checkpoints as made
from oracles.hub import Hub
from oracles.small_towers import B32, SHAPE, file_sha256

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit.save, in the tests' own maker


def entry_of(path: Path, web: Hub, **how: Any) -> TowerEntry:
    fields: dict[str, Any] = {
        "name": "test-tower", "files": (path.name,), "sources": (Source(plain_url=f"{web.url}/{path.name}"),),
        "sha256": file_sha256(path), "num_bytes": path.stat().st_size, "backbone": B32, "note": "",
    }  # fmt: skip
    return TowerEntry(**{**fields, **how})


def test_a_published_file_is_checked_before_it_is_used(
    web: Hub, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made.write_archive(tmp_path / "tiny.pt", made.openai_state(tensors))
    entry = entry_of(path, web)
    web.add("/tiny.pt", path.read_bytes())
    found = fetch_tower(entry)
    assert found.read_bytes() == path.read_bytes()
    web.log.clear()
    assert fetch_tower(entry) == found == local_file(entry)
    assert web.log == []
    assert check(entry).message.endswith(f"its sizes are {SHAPE}"), "a small tower is no B/32"
    found.write_bytes(b"\0" + found.read_bytes()[1:])
    assert fetch_tower(entry).read_bytes() == path.read_bytes(), "a damaged copy in the cache is fetched anew"
    assert remove(entry) == [found]
    assert local_file(entry) is None
    web.add("/tiny.pt", b"<html>")
    with pytest.raises(HeadError, match=f"expected sha256 {entry.sha256}, found .*web page"):
        fetch_tower(entry)
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(path, folder / "tiny.pt")
    monkeypatch.setenv("BEHOLDER_MODELS", str(folder))
    assert fetch_tower(entry, offline=True) == folder / "tiny.pt"
    assert remove(entry) == [], "files in the user's own folder stay"
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror")
    web.add("/mirror/tiny.pt", path.read_bytes())
    assert fetch_tower(entry).read_bytes() == path.read_bytes()
    remove(entry)
    monkeypatch.delenv("BEHOLDER_MODELS")
    with pytest.raises(HeadError, match="offline mode is on"):
        fetch_tower(entry, offline=True)


def test_a_published_file_on_the_hub(web: Hub, tensors: dict[str, Tensor], tmp_path: Path) -> None:
    """As birder's file is published: whole, on the hub, with a known sha256; the hub's own cache holds it."""
    path = tmp_path / "tiny.pt"
    torch.save({"state": made.birder_state(tensors), **made.birder_extras(SHAPE)}, path)
    entry = entry_of(path, web, sources=(Source(repo="birder-project/tiny", file="tiny.pt"),))
    with pytest.raises(HeadError, match=r"test-tower: .*has no such file"):
        fetch_tower(entry)
    web.add_hub_file("birder-project/tiny", "tiny.pt", path.read_bytes())
    found = fetch_tower(entry)
    assert found.read_bytes() == path.read_bytes()
    web.log.clear()
    assert fetch_tower(entry) == found
    assert web.log == []
    assert remove(entry) == [found]
    assert not found.exists()
    web.add_hub_file("birder-project/tiny", "tiny.pt", path.read_bytes()[:-1] + b"x")
    with pytest.raises(HeadError, match=f"expected sha256 {entry.sha256}.*was not kept"):
        fetch_tower(entry)
    assert local_file(entry) is None


@pytest.mark.slow
def test_a_large_file_comes_in_pieces_and_is_hashed_once(web: Hub, tmp_path: Path) -> None:
    body = np.random.default_rng(0).bytes(2 * RANGE_BYTES + 1001)
    path = tmp_path / "large.pt"
    path.write_bytes(body)
    entry = entry_of(path, web)
    page = web.add("/large.pt", path, cut_after=5_000_000, cuts_left=2)
    found = fetch_tower(entry)
    assert found.read_bytes() == body
    assert page.cuts_left == 0
    assert [method for method, _ in web.log].count("GET") >= 5
    stamp = found.stat()
    with found.open("r+b") as file:
        file.write(b"\0\0\0")
    os.utime(found, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert fetch_tower(entry) == found, "same size, time and inode: not hashed again"
    state = check(entry)
    assert state.state == "wrong"
    assert "expected sha256" in state.message, f"verify hashes it all the same: {state.message}"
    page.ranges = False
    remove(entry)
    page.cut_after = None
    assert fetch_tower(entry).read_bytes() == body, "servers that give no parts are read in one go"


def test_cutting_spans() -> None:
    piece = RANGE_BYTES
    assert cut([]) == []
    assert cut([(5, 5, 0)]) == []
    assert cut([(10, 20, 0), (20, 25, 10), (40, 50, 15)]) == [(10, 25, 0), (40, 50, 15)]
    assert cut([(0, 2 * piece + 1, 7)]) == [
        (0, piece, 7),
        (piece, 2 * piece, piece + 7),
        (2 * piece, 2 * piece + 1, 2 * piece + 7),
    ]
    assert cut([(0, 10, 0), (10, 20, 100)]) == [(0, 10, 0), (10, 20, 100)], "neighbours that go to other places stay apart"


def test_pieces_land_where_they_should(web: Hub, tmp_path: Path) -> None:
    body = np.random.default_rng(1).bytes(1000)
    web.add("/x", body)
    (tmp_path / "out").write_bytes(bytes(100))
    fetch_ranges(f"{web.url}/x", [(900, 950, 50), (0, 50, 0)], tmp_path / "out", "x")
    assert (tmp_path / "out").read_bytes() == body[:50] + body[900:950]


def test_a_disk_without_room(tmp_path: Path) -> None:
    need_space(tmp_path / "not" / "yet", 1, "x")
    with pytest.raises(HeadError, match=r"x needs 1000000000\.00 GB.*BEHOLDER_CACHE"):
        need_space(tmp_path, 10**18, "x")
