"""Stars into sidecars that are there, in the way, damaged, shared or linked; changed since; and pictures that have no place."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest

from beholder.curate.act.messages import ActionSummary
from oracles.acting import act, contents, photos, score_table, take_back
from oracles.journals import lines_of, write_journal
from oracles.sidecars import DARKTABLE, LIGHTROOM, said, stars_below
from oracles.tar_making import png

ALL = {"xmp": True, "xmp_stars": "100%", "journal": "j.jsonl"}
"""Five stars to each."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(png(i))
    return tmp_path


def rate(*names: str, **options: Any) -> tuple[ActionSummary, list[str]]:
    return act(photos(*names), **(ALL | {"apply": True} | options))


def put(name: str, text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    Path("photos", name).write_bytes(data)
    return data


def test_only_the_rating_changes_and_undo_gives_every_byte_back(here: Path) -> None:
    """A sidecar of Lightroom's, one of darktable's, one in UTF-16, one that has no rating; new ones beside them."""
    (here / "photos" / "d.jpg").write_bytes(png(9))
    put("a.xmp", LIGHTROOM.format(stars=0))
    put("b.jpg.xmp", DARKTABLE.format(stars=0, label="Red"))
    put("c.xmp", b"\xff\xfe" + LIGHTROOM.format(stars=0).encode("utf-16-le"))
    put("d.jpg.XMP", LIGHTROOM.format(stars=0).replace('   xmp:Rating="0"\n', ""))
    (here / "photos" / "e.jpg").write_bytes(png(8))
    os.chmod(here / "photos" / "a.xmp", 0o640)  # noqa: PTH101
    before = contents(here / "photos")
    summary, _ = rate("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    assert (summary.num_done, summary.num_changed, summary.exit_status) == (5, 4, 0)
    after = contents(here / "photos")
    assert after["a.xmp"] == LIGHTROOM.format(stars=5).encode()
    assert after["b.jpg.xmp"] == DARKTABLE.format(stars=5, label="Red").encode()
    assert after["c.xmp"] == b"\xff\xfe" + LIGHTROOM.format(stars=5).encode("utf-16-le")
    assert said("photos/d.jpg.XMP") == ("5", None)
    assert 'crs:Exposure2012="+0.35"' in Path("photos/d.jpg.XMP").read_text()
    assert said("photos/e.jpg.xmp") == ("5", None)
    assert {name for name in after if name not in before} == {"e.jpg.xmp"}
    assert (here / "photos" / "a.xmp").stat().st_mode & 0o777 == 0o640
    undone, _ = take_back("j.jsonl")
    assert (undone.num_files, undone.num_changed, undone.exit_status) == (5, 4, 0)
    assert contents(here / "photos") == before
    assert (here / "photos" / "a.xmp").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("there", "names", "used"),
    [
        ([], "darktable", "a.jpg.xmp"),
        ([], "adobe", "a.xmp"),
        (["a.xmp"], "darktable", "a.xmp"),
        (["a.jpg.xmp"], "adobe", "a.jpg.xmp"),
        (["a.jpg.xmp", "a.xmp"], "darktable", "a.jpg.xmp"),
        (["a.jpg.xmp", "a.xmp"], "adobe", "a.xmp"),
    ],
)
def test_which_sidecar_is_used(there: list[str], names: str, used: str) -> None:
    for name in there:
        put(name, LIGHTROOM.format(stars=0))
    rate("a.jpg", xmp_names=names)
    assert stars_below("photos") == dict.fromkeys(there, "0") | {used: "5"}


@pytest.mark.parametrize("stars", ["3", "-1", "2.5", "five"])
def test_what_somebody_has_rated_stays(here: Path, stars: str) -> None:
    before = put("a.xmp", LIGHTROOM.format(stars=stars))
    summary, said_lines = rate("a.jpg", "b.jpg")
    assert (summary.reasons, summary.num_done, summary.exit_status) == ({"rated": 1}, 1, 0)
    assert contents(here / "photos")["a.xmp"] == before
    told = {"3": "has 3 stars", "-1": "has -1 (rejected)", "2.5": "has 2.5 stars", "five": "is rated 'five'"}[stars]
    assert f"    photos/a.xmp {told}" in said_lines
    replaced, _ = rate("a.jpg", xmp_replace=True, journal="second.jsonl")
    assert (replaced.num_done, said("photos/a.xmp")[0]) == (1, "5")
    take_back("second.jsonl")
    assert contents(here / "photos")["a.xmp"] == before


def test_a_label_stays_beside_new_stars_and_stars_beside_a_new_label() -> None:
    put("a.jpg.xmp", DARKTABLE.format(stars=0, label="Red"))
    put("b.jpg.xmp", DARKTABLE.format(stars=2, label=""))
    summary, _ = rate("a.jpg", "b.jpg", xmp_labels="Green=100%")
    assert (said("photos/a.jpg.xmp"), said("photos/b.jpg.xmp")) == (("5", "Red"), ("2", "Green"))
    assert (summary.ratings, summary.reasons) == ({"5": 1, "label": 1}, {})
    rate("a.jpg", "b.jpg", xmp_labels="Green=100%", xmp_replace=True, journal="second.jsonl")
    assert (said("photos/a.jpg.xmp"), said("photos/b.jpg.xmp")) == (("5", "Green"), ("5", "Green"))


def test_what_says_so_already_is_not_written_again(here: Path) -> None:
    put("a.xmp", LIGHTROOM.format(stars=5))
    looked = (here / "photos" / "a.xmp").stat()
    summary, _ = rate("a.jpg", xmp_replace=True)
    assert (summary.reasons, summary.exit_status) == ({"same": 1}, 0)
    assert (here / "photos" / "a.xmp").stat() == looked


@pytest.mark.parametrize("is_continued", [False, True])
def test_of_pictures_that_share_a_sidecar_the_best_decides(here: Path, is_continued: bool) -> None:
    """a.jpg and a.png, with the raw file beside them; one run, or a second one that goes on with what the first left."""
    put("a.png", png(7))
    put("a.CR2", b"raw")
    put("a.xmp", LIGHTROOM.format(stars=0))
    names = ("a.png", "b.jpg", "a.jpg")
    summary, lines = rate(*names, xmp_stars="40%,0,60%", xmp_replace=True)
    if is_continued:  # as if it was killed before the last picture was looked at
        whole = lines_of(Path("j.jsonl"))
        planned = next(line for line in whole if "planned" in line)
        kept = [line for line in whole if "skip" not in line and "end" not in line]
        kept[kept.index(planned)] = planned | {"planned": 2}
        write_journal(Path("j.jsonl"), kept)
        summary, lines = rate(*names, xmp_stars="40%,0,60%", xmp_replace=True)
    assert stars_below("photos") == {"a.xmp": "5", "b.jpg.xmp": "5"}
    assert (summary.reasons, summary.num_done, summary.exit_status) == ({"shared": 1}, 2, 0)
    assert any("a.xmp is the sidecar of a better picture than photos/a.jpg, too, which decides" in line for line in lines)
    if not is_continued:
        assert "1 sidecar of them also named as that of a raw file beside the picture" in lines


def test_a_sidecar_that_cannot_be_changed_is_left_alone(here: Path) -> None:
    damaged = {
        "a.xmp": b"no XML at all",
        "b.jpg.xmp": b'<!DOCTYPE x [<!ENTITY e "eeee">]>' + LIGHTROOM.format(stars=0).encode(),
        "c.xmp": LIGHTROOM.format(stars=0).encode()[:-30],
        "d.xmp": b"",
        "e.jpg.xmp": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    }
    for name, data in damaged.items():
        put(name, data)
        put(f"{name.partition('.')[0]}.jpg", png(3))
    before = contents(here)
    for apply in (False, True):
        summary, lines = rate("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", xmp_replace=True, apply=apply)
        assert (summary.reasons, summary.exit_status) == ({"damaged": 5}, 3)
        assert "  5 whose sidecar is no XMP that can be read and changed safely" in lines
    assert contents(here / "photos") == {
        name.removeprefix("photos/"): data for name, data in before.items() if name.startswith("photos/")
    }
    put("a.xmp", LIGHTROOM.format(stars=0))  # mended: the same command again does it
    summary, _ = rate("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", xmp_replace=True)
    assert (summary.num_done, summary.reasons) == (1, {"damaged": 4})
    assert said("photos/a.xmp")[0] == "5"


def test_links_folders_and_what_is_read_only_are_left_alone(here: Path) -> None:
    (here / "else.xmp").write_text(LIGHTROOM.format(stars=0))
    (here / "photos" / "a.xmp").symlink_to(here / "else.xmp")
    (here / "photos" / "b.jpg.xmp").symlink_to("nowhere")
    (here / "photos" / "c.xmp").mkdir()
    put("d.jpg", png(4))
    put("d.xmp", LIGHTROOM.format(stars=0))
    (here / "photos" / "d.xmp").chmod(0o444)
    (here / "photos" / "far").symlink_to(here / "far")
    (here / "far").mkdir()
    (here / "far" / "f.jpg").write_bytes(png(5))
    before = contents(here)
    summary, lines = rate("a.jpg", "b.jpg", "c.jpg", "d.jpg", "far/f.jpg")
    assert summary.reasons == {"link": 2, "unreadable": 1, "not_permitted": 1, "outside": 1}
    assert summary.exit_status == 3
    assert "    photos/a.xmp is a symbolic link, which is left alone" in lines
    after = contents(here)
    del after["j.jsonl"]
    assert after == before


def test_a_hard_link_elsewhere_keeps_what_was_there(here: Path) -> None:
    before = put("a.xmp", LIGHTROOM.format(stars=0))
    (here / "snapshot.xmp").hardlink_to(here / "photos" / "a.xmp")
    _, lines = rate("a.jpg")
    assert "1 changed sidecar with hard links: its other names keep what was there" in lines
    assert said("photos/a.xmp")[0] == "5"
    assert (here / "snapshot.xmp").read_bytes() == before
    take_back("j.jsonl")
    assert (here / "photos" / "a.xmp").read_bytes() == before


def test_pictures_without_a_place_for_a_sidecar_are_counted(here: Path) -> None:
    with zipfile.ZipFile(here / "z.zip", "w") as archive:
        archive.writestr("k.png", png(1))
    samples = ["z.zip/k.png", "https://127.0.0.1:9/x.jpg", "photos/gone.jpg", "photos/a.jpg"]
    table = score_table(samples, ["z.zip", "https://127.0.0.1:9/x.jpg", "photos"])
    summary, lines = act(table, **ALL, apply=True)
    assert (summary.reasons, summary.num_done) == ({"in_archive": 1, "remote": 1, "missing": 1}, 1)
    assert "  1 inside an archive or table, where no sidecar can be" in lines
    assert "  1 on a server, where no sidecar can be written" in lines
    assert stars_below(here) == {"photos/a.jpg.xmp": "5"}


def test_odd_names(here: Path) -> None:
    """Bytes that are no UTF-8, a line break, a dash, a name that has no room for a suffix."""
    raw = os.fsdecode(b"\xff\xfe.jpg")
    long = "z" * 251 + ".jpg"
    for i, name in enumerate((raw, "n\nl.jpg", "-x.jpg", "e.f.jpg", "none", long)):
        (here / "photos" / name).write_bytes(png(i))
    before = contents(here / "photos")
    summary, _ = rate("\\xff\\xfe.jpg", "n\nl.jpg", "-x.jpg", "e.f.jpg", "none", long)
    assert (summary.num_done, summary.reasons) == (5, {"name": 1})
    names = {name for name in contents(here / "photos") if name not in before}
    assert names == {f"{raw}.xmp", "n\nl.jpg.xmp", "-x.jpg.xmp", "e.f.jpg.xmp", "none.xmp"}
    assert said(f"photos/{raw}.xmp") == ("5", None)
    assert take_back("j.jsonl")[0].exit_status == 0
    assert contents(here / "photos") == before


def test_what_somebody_changed_since_is_left_and_counted(here: Path) -> None:
    """Sidecars and new ones that are edited, or deleted; one that was put back by hand; untouched ones."""
    for i, name in enumerate("defg"):
        put(f"{name}.jpg", png(i + 3))
    first = LIGHTROOM.format(stars=0)
    for name in ("a.xmp", "c.xmp", "e.xmp", "f.xmp"):
        put(name, first)
    rate("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg", "f.jpg", "g.jpg")
    put("a.xmp", LIGHTROOM.format(stars=2))
    put("b.jpg.xmp", LIGHTROOM.format(stars=2))
    (here / "photos" / "c.xmp").unlink()
    (here / "photos" / "d.jpg.xmp").unlink()
    put("e.xmp", first)
    for dry_run in (True, False):
        undone, lines = take_back("j.jsonl", dry_run=dry_run)
        assert undone.reasons == {"changed": 2, "missing": 1}
        assert (undone.num_files, undone.num_changed, undone.exit_status) == (2, 1, 3)
        assert "    photos/a.xmp has changed since it was written" in lines
    assert stars_below("photos") == {"a.xmp": "2", "b.jpg.xmp": "2", "e.xmp": "0", "f.xmp": "0"}
    assert (here / "photos" / "f.xmp").read_text() == first


def test_an_undo_goes_back_where_the_picture_is_gone(here: Path) -> None:
    first = put("a.xmp", LIGHTROOM.format(stars=0))
    rate("a.jpg", "b.jpg")
    for name in ("a.jpg", "b.jpg"):
        (here / "photos" / name).unlink()
    assert take_back("j.jsonl")[0].exit_status == 0
    assert contents(here / "photos") == {"a.xmp": first, "c.jpg": png(2)}


def test_programs_see_by_the_time_that_a_sidecar_has_changed(here: Path) -> None:
    put("a.xmp", LIGHTROOM.format(stars=0))
    path = here / "photos" / "a.xmp"
    os.utime(path, ns=(10**18, 10**18))
    rate("a.jpg")
    written = path.stat().st_mtime_ns
    assert written > 10**18
    os.utime(path, ns=(10**18, 10**18))  # what counts for an undo are the bytes
    assert take_back("j.jsonl")[0].num_changed == 1
    assert path.stat().st_mtime_ns > 10**18


def test_a_picture_that_changed_since_it_was_scored_gets_no_stars() -> None:
    summary, _ = act(photos("a.jpg", "b.jpg", num_bytes=[1, len(png(1))]), **ALL, apply=True)
    assert (summary.reasons, summary.num_done) == ({"changed": 1}, 1)
    assert stars_below("photos") == {"b.jpg.xmp": "5"}


def test_an_undo_by_a_journal_without_its_end_says_that_it_may_not_know_all(here: Path) -> None:
    before = contents(here / "photos")
    rate("a.jpg", "b.jpg")
    text = Path("j.jsonl").read_bytes()
    lines = text.splitlines(keepends=True)
    Path("j.jsonl").write_bytes(b"".join(lines[:1]))  # nothing is known any more
    undone, told = take_back("j.jsonl")
    assert (undone.exit_status, undone.reasons) == (3, {"unnamed": 1})
    assert any("of 2 pictures it is not known whether their sidecars were written" in line for line in told)
    assert stars_below("photos") == {"a.jpg.xmp": "5", "b.jpg.xmp": "5"}
    Path("j.jsonl").write_bytes(b"".join(lines[:-1]))  # all sidecars are named in lines that are left
    assert take_back("j.jsonl")[0].exit_status == 0
    assert contents(here / "photos") == before
