"""Captions and JSON that pictures share, or that stand far from them: they go along, once, and what stays is said."""

from __future__ import annotations

import gzip
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from beholder.sources.find import find_pictures
from beholder.sources.reader import SourceOptions, picture_reader
from oracles.acting import act, contents, photos, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.tar_making import png, tar

TWO_OF_A_KEY = {
    "foo.left.png": png(0), "foo.right.png": png(1), "foo.json": b'{"n": 1}', "bar.left.png": png(2), "bar.right.png": png(3),
    "bar.json": b'{"n": 2}',
}  # fmt: skip
APART = {
    "0.jpg": png(0),
    "1.jpg": png(1),
    "0.txt": b"cap zero",
    "1.txt": b"cap one",
    "0.json": b'{"w":1}',
    "1.json": b'{"w":2}',
}


def samples_of(source: str) -> list[str]:
    """Names that scoring gives."""
    return [
        row["sample"]
        for part in find_pictures([source], SourceOptions())
        for block in picture_reader(part.kind).blocks(part, 0, None, SourceOptions())
        for row in block.labels.to_pylist()
    ]


def packed(folder: str) -> dict[str, bytes]:
    """Members of the only tar."""
    with tarfile.open(f"{folder}/00000.tar") as archive:
        found = [(info.name, archive.extractfile(info).read()) for info in archive]  # type: ignore[union-attr]
    assert len(dict(found)) == len(found)
    return dict(found)


def write_archive(path: Path, members: dict[str, bytes]) -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return
    data = tar(members.items())
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz", "t.zip"])
@pytest.mark.parametrize("members", [TWO_OF_A_KEY, APART], ids=["two of a key", "apart"])
def test_every_member_is_copied_and_packed(here: Path, name: str, members: dict[str, bytes]) -> None:
    if name == "t.zip" and members is TWO_OF_A_KEY:  # a zip has no keys: files of one stem belong together
        members = {
            "foo.png": png(0),
            "foo.jpg": png(1),
            "foo.json": b"{}",
            "bar.webp": png(2),
            "bar.gif": png(3),
            "bar.txt": b"x",
        }
    write_archive(here / name, members)
    table = score_table(samples_of(name), [name])
    planned, _ = act(table, copy="out")
    done, said = act(table, copy="out", apply=True)
    pictures = sum(data.startswith(b"\x89PNG") for data in members.values())
    for summary in (planned, done):
        assert (summary.num_done, summary.num_files, summary.exit_status) == (pictures, len(members), 0), said
    assert contents(here / "out") == {f"t/{inner}": data for inner, data in members.items()}
    assert take_back(done.journal)[0].num_files == len(members)
    act(table, tars="shards", apply=True)
    assert set(packed("shards").values()) == set(members.values())
    assert act(table, copy="bare", apply=True, sidecars=False)[0].num_files == pictures


@pytest.mark.parametrize("name", ["t.tar", "t.tar.gz"])
def test_a_copy_that_goes_on_knows_what_was_copied_with_the_first(here: Path, name: str) -> None:
    write_archive(here / name, TWO_OF_A_KEY)
    table = score_table(samples_of(name), [name])
    (here / "out" / "t").mkdir(parents=True)
    (here / "out" / "t" / "foo.right.png").write_bytes(b"in the way")
    done, _ = act(table, copy="out", apply=True)
    assert done.reasons == {"clash": 1}
    (here / "out" / "t" / "foo.right.png").unlink()
    again, _ = act(table, copy="out", apply=True)
    assert (again.num_done, again.num_files, again.exit_status) == (4, 6, 0)
    assert contents(here / "out") == {f"t/{inner}": data for inner, data in TWO_OF_A_KEY.items()}


def test_a_key_that_was_used_again_keeps_its_own_members(here: Path) -> None:
    """Two tars that were joined: each `a` has its own words, and what stands apart goes with the one before it."""
    members = [
        ("a.png", png(0)), ("a.txt", b"one"), ("b.png", png(1)), ("a.png", png(2)), ("a.txt", b"two"), ("b.txt", b"of b"),
        ("a.json", b'{"of": "the second"}'),
    ]  # fmt: skip
    (here / "t.tar").write_bytes(tar(members))
    names = samples_of("t.tar")
    assert len(names) == 3
    act(score_table(names, ["t.tar"]), tars="out", apply=True)
    assert packed("out") == {
        "a.png": png(0), "a.txt": b"one", "b.png": png(1), "b.txt": b"of b", "a_2.png": png(2), "a_2.txt": b"two",
        "a_2.json": b'{"of": "the second"}',
    }  # fmt: skip


def shared_caption(here: Path, **more: Any) -> None:
    for name, data in {"cat.jpg": png(1), "cat.png": png(2), "cat.txt": b"words"}.items():
        (here / "photos" / name).write_bytes(data)


def test_words_of_two_pictures_of_which_the_first_is_left_out(here: Path) -> None:
    shared_caption(here)
    (here / "kept").mkdir()
    (here / "kept" / "cat.jpg").write_bytes(b"in the way")
    for action in ("copy", "move"):
        summary, _ = act(photos("cat.jpg", "cat.png"), **{action: "kept"})
        assert (summary.reasons, summary.num_done) == ({"clash": 1}, 1)
        assert summary.num_files == (2 if action == "copy" else 1)  # cat.jpg stays, and its words with it


def test_words_that_stay_with_a_picture_that_is_not_moved_are_said(here: Path) -> None:
    shared_caption(here)
    planned, said = act(photos("cat.png"), move="kept")
    assert (planned.num_files, planned.num_files_left) == (1, 1)
    assert "would be left where it is: photos/cat.txt, as a picture stays to which it belongs, too" in said
    done, said = act(photos("cat.png"), move="kept", apply=True)
    assert (done.num_files, done.num_files_left, done.exit_status) == (1, 1, 0)
    assert "left where it is: photos/cat.txt, as a picture stays to which it belongs, too" in said
    assert (here / "photos" / "cat.txt").read_bytes() == b"words"
    take_back(done.journal)
    both, _ = act(photos("cat.jpg", "cat.png"), move="kept", apply=True)
    assert (both.num_files, both.num_files_left) == (3, 0)


def test_a_killed_copy_goes_on_with_what_is_shared(here: Path) -> None:
    write_archive(here / "t.tar", TWO_OF_A_KEY)
    table = score_table(samples_of("t.tar"), ["t.tar"])
    act(table, copy="out", apply=True)
    journal = Path("out.journal.jsonl")
    lines = lines_of(journal)
    write_journal(journal, lines[: next(i for i, line in enumerate(lines) if "results" in line)])
    (here / "out" / "t" / "bar.right.png").unlink()
    done, _ = act(table, copy="out", apply=True)
    assert (done.num_done, done.num_files, done.exit_status) == (4, 6, 0)
