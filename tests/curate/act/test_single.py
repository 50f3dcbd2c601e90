"""Copies, links and moves: what was asked for and nothing else, never over anything, and back again."""

from __future__ import annotations

import os
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder import InputError, OutputError
from oracles.acting import NAMES, act, contents, photos, score_table, take_back
from oracles.tar_making import png, tar


@pytest.mark.parametrize("action", ["copy", "link", "symlink", "move"])
def test_folders_are_kept_and_everything_can_be_taken_back(here: Path, action: str) -> None:
    before = contents(here / "photos")
    table = photos()
    planned, said = act(table, **{action: "best"})
    assert contents(here) == {f"photos/{name}": data for name, data in before.items()}
    assert planned.num_done == len(NAMES)
    assert planned.exit_status == 0
    assert said[-1] == "nothing has been touched; add --apply to do it"
    done, _ = act(table, **{action: "best"}, apply=True)
    assert (done.num_done, done.num_files, done.num_skipped) == (len(NAMES), len(NAMES), 0)
    assert done.num_bytes == planned.num_bytes == sum(map(len, before.values()))
    made = contents(here / "best")
    if action == "symlink":
        assert made == {name: f"-> {here}/photos/{name}" for name in NAMES}
    else:
        assert made == before
    assert contents(here / "photos") == ({} if action == "move" else before)
    if action == "link":
        assert (here / "best/b/c.png").samefile(here / "photos/b/c.png")
    if action in ("copy", "move"):
        assert (here / "best/b/c.png").stat().st_mtime_ns == 10**18 + 1
    again, _ = act(table, **{action: "best"}, apply=True)
    assert (again.num_before, again.num_done, again.num_skipped) == (len(NAMES), len(NAMES), 0)
    rehearsed, said = take_back(done.journal, dry_run=True)
    assert rehearsed.num_done == len(NAMES)
    assert contents(here / "best") == made
    undone, _ = take_back(done.journal)
    assert (undone.num_done, undone.num_skipped) == (len(NAMES), 0)
    assert contents(here / "photos") == before
    assert not (here / "best").exists()
    assert take_back(done.journal)[0].num_done == 0
    assert act(table, **{action: "best"})[0].num_before == 0
    afresh, _ = act(table, **{action: "best"}, apply=True)
    assert (afresh.num_done, afresh.num_before) == (len(NAMES), 0)
    assert contents(here / "best") == made
    take_back(done.journal)
    assert contents(here / "photos") == before
    assert len(list(here.glob("best.journal.jsonl.*.undone"))) == 1


def test_names_that_are_not_utf8_go_and_come_back(here: Path) -> None:
    raw = here / "photos" / os.fsdecode(b"\xff\xfe.jpg")
    raw.write_bytes(b"raw")
    table = photos("\\xff\\xfe.jpg")
    done, _ = act(table, move="best", apply=True)
    assert done.num_done == 1
    assert [path.name for path in Path("best").iterdir()] == [raw.name]
    assert not raw.exists()
    take_back(done.journal)
    assert raw.read_bytes() == b"raw"


def test_nothing_is_ever_overwritten(here: Path) -> None:
    (here / "best" / "b").mkdir(parents=True)
    (here / "best" / "a.jpg").write_bytes(b"mine")
    (here / "best" / "b" / "d").write_bytes(b"a file where a folder should be")
    (here / "best" / "-x.jpg").symlink_to("nowhere")
    for action in ("copy", "link", "symlink", "move"):
        planned, said = act(photos(), **{action: "best"})
        assert planned.reasons == {"clash": 3}
        assert any("best/a.jpg is there already" in line for line in said)
    before = contents(here)
    done, _ = act(photos(), move="best", apply=True)
    assert done.reasons == {"clash": 3}
    assert done.exit_status == 3
    assert done.num_done == len(NAMES) - 3
    after = contents(here)
    assert sorted(after.values(), key=repr) == sorted([*before.values(), after["best.journal.jsonl"]], key=repr)
    assert after["best/a.jpg"] == b"mine"
    assert after["photos/a.jpg"] == png(0)
    (here / "best" / "a.jpg").unlink()
    retried, _ = act(photos(), move="best", apply=True)
    assert retried.num_done == len(NAMES) - 2
    assert retried.reasons == {"clash": 2}
    take_back(done.journal)
    assert {name: data for name, data in contents(here).items() if name.startswith("photos/")} == {
        f"photos/{name}": png(i) for i, name in enumerate(NAMES)
    }


def test_two_pictures_that_would_go_to_one_place(here: Path) -> None:
    (here / "more").mkdir()
    (here / "more" / "a.jpg").write_bytes(png(50))
    done, _ = act(score_table(["photos/a.jpg", "more/a.jpg"], ["photos", "more"]), copy="best", apply=True)
    assert contents(here / "best") == {"photos/a.jpg": png(0), "more/a.jpg": png(50)}
    (here / "o" / "more").mkdir(parents=True)
    (here / "o" / "more" / "a.jpg").write_bytes(png(51))
    done, _ = act(score_table(["more/a.jpg", "o/more/a.jpg"], ["more", "o/more"]), copy="best2", apply=True)
    assert contents(here / "best2") == {"more/a.jpg": png(50), "more-2/a.jpg": png(51)}
    done, _ = act(score_table(["photos/a.jpg", "photos/b/a.jpg"], ["photos/a.jpg", "photos/b/a.jpg"]), copy="best3", apply=True)
    assert contents(here / "best3") == {"a.jpg": png(0), "b/a.jpg": png(5)}
    done, _ = act(score_table(["photos/a.jpg", "photos/a.jpg"], ["photos"]), copy="best4", apply=True)
    assert done.reasons == {"clash": 1}


def test_what_has_gone_or_changed_since_it_was_scored(here: Path) -> None:
    (here / "photos" / "a.jpg").unlink()
    sizes = pa.array([len(png(i)) + (name == "b/c.png") for i, name in enumerate(NAMES)], pa.int64())
    done, said = act(photos(num_bytes=sizes), move="best", apply=True)
    assert done.reasons == {"missing": 1, "changed": 1}
    assert any("a.jpg does not exist (any more)" in line for line in said)
    assert any("it had" in line for line in said)
    assert sum("--pictures or --root say where the pictures are now" in line for line in said) == 1
    assert (here / "photos" / "b" / "c.png").exists()


def test_paths_that_lead_elsewhere(here: Path) -> None:
    (here / "out").mkdir()
    (here / "out" / "s.jpg").write_bytes(png(9))
    (here / "photos" / "link.jpg").symlink_to(here / "out" / "s.jpg")
    (here / "photos" / "folder").symlink_to(here / "out")
    table = photos("link.jpg", "folder/s.jpg", "../out/s.jpg")
    done, _ = act(table, move="best", apply=True)
    assert done.reasons == {"link": 1, "outside": 2}
    assert contents(here / "out") == {"s.jpg": png(9)}
    done, _ = act(table, copy="copies", apply=True)
    assert done.reasons == {"outside": 1}
    assert contents(here / "copies") == {"link.jpg": png(9), "folder/s.jpg": png(9)}
    (here / "linked").mkdir()
    (here / "linked" / "b").symlink_to(here / "out")
    done, _ = act(photos("b/c.png"), copy="linked", apply=True)
    assert done.reasons == {"outside": 1}
    assert contents(here / "out") == {"s.jpg": png(9)}


def test_targets_that_cannot_be(here: Path) -> None:
    for target in ("photos/best", "photos", "photos/b/../x"):
        with pytest.raises(InputError, match="lies inside"):
            act(photos(), copy=target)
    (here / "way").symlink_to("photos")
    with pytest.raises(InputError, match="lies inside"):
        act(photos(), copy="way/best")
    (here / "file").write_text("")
    with pytest.raises(OutputError, match="is no folder"):
        act(photos(), copy="file/best")
    with pytest.raises(OutputError, match="not writable|cannot write"):
        act(photos(), copy="/proc/best", apply=True)
    with pytest.raises(InputError, match="one at a time"):
        act(photos(), copy="a", move="b")
    with pytest.raises(InputError, match="--apply needs one of"):
        act(photos(), apply=True)
    with pytest.raises(InputError, match="--shard-count"):
        act(photos(), copy="a", shard_count=3)
    with pytest.raises(InputError, match="this machine"):
        act(photos(), copy="s3://bucket/x")


def test_captions_go_along_and_shared_ones_with_the_last(here: Path) -> None:
    for name in ("a.txt", "a.jpg.json", "b/c.txt", "b/c.html"):
        (here / "photos" / name).write_bytes(name.encode())
    (here / "photos" / "b" / "c.jpg").write_bytes(png(20))
    before = contents(here / "photos")
    done, _ = act(photos("a.jpg", "b/c.png"), move="best", apply=True)
    assert set(contents(here / "best")) == {"a.jpg", "a.txt", "a.jpg.json", "b/c.png"}
    assert (here / "photos" / "b" / "c.txt").exists()
    take_back(done.journal)
    assert contents(here / "photos") == before
    done, _ = act(photos("b/c.jpg", "b/c.png"), move="all", apply=True)
    assert set(contents(here / "all")) == {"b/c.jpg", "b/c.png", "b/c.txt"}
    take_back(done.journal)
    assert contents(here / "photos") == before
    done, _ = act(photos("b/c.jpg", "b/c.png"), copy="copies", apply=True)
    assert set(contents(here / "copies")) == {"b/c.jpg", "b/c.png", "b/c.txt"}
    done, _ = act(photos("a.jpg"), copy="bare", apply=True, sidecars=False)
    assert set(contents(here / "bare")) == {"a.jpg"}
    (here / "clash").mkdir()
    (here / "clash" / "a.txt").write_text("mine")
    done, _ = act(photos("a.jpg"), move="clash", apply=True)
    assert done.reasons == {"clash": 1}
    assert contents(here / "photos") == before


def test_pictures_in_archives_are_copied_out(here: Path) -> None:
    members = [("x/0.jpg", png(0)), ("x/0.json", b"{}"), ("1.png", png(1)), ("1.txt", b"one")]
    (here / "t" / "s").mkdir(parents=True)
    (here / "t" / "s" / "0.tar").write_bytes(tar(members))
    with tarfile.open(here / "t" / "1.tar.gz", "w:gz") as archive:
        for name in ("a.jpg", "b/c.png"):
            archive.add(here / "photos" / name, name)
    with zipfile.ZipFile(here / "z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/e.png", png(7))
        archive.writestr("d/e.txt", "e")
    structs = [{"bytes": png(30), "path": "q.png"}, {"bytes": png(31), "path": "../q"}, {"bytes": png(32), "path": "r"}]
    pq.write_table(pa.table({"image": structs}), here / "p.parquet")
    samples = ["t/s/0.tar/x/0", "t/s/0.tar/1", "t/1.tar.gz/b/c", "z.zip/d/e.png", "q.png", "../q", "r"]
    table = score_table(samples, ["t", "z.zip", "p.parquet"])
    planned, _ = act(table, copy="out")
    done, _ = act(table, copy="out", apply=True)
    assert contents(here / "out") == {
        "s/0/x/0.jpg": png(0), "s/0/x/0.json": b"{}", "s/0/1.png": png(1), "s/0/1.txt": b"one", "1/b/c.png": png(1),
        "z/d/e.png": png(7), "z/d/e.txt": b"e", "q.png": png(30), "r.png": png(32),
    }  # fmt: skip
    assert done.reasons == planned.reasons == {"outside": 1}
    assert (done.num_done, done.num_files) == (planned.num_done, planned.num_files) == (6, 9)
    for action in ("move", "link", "symlink"):
        refused, _ = act(table, **{action: f"out-{action}"})
        assert refused.reasons["in_archive"] == 6 + (refused.reasons.get("outside", 0) == 0)
    undone, _ = take_back(done.journal)
    assert undone.num_done == 6
    assert not (here / "out").exists()


def test_sources_of_a_list_have_folders_of_their_own(here: Path) -> None:
    (here / "more").mkdir()
    (here / "more" / "a.jpg").write_bytes(png(50))
    for i in range(2):
        (here / f"{i}").mkdir()
        (here / f"{i}" / "x.tar").write_bytes(tar([("k.jpg", png(60 + i))]))
    (here / "all.txt").write_text("photos\nmore\n0/x.tar\n1/x.tar\n")
    samples = ["photos/a.jpg", "more/a.jpg", "0/x.tar/k", "1/x.tar/k"]
    act(score_table(samples, ["all.txt"]), copy="best", apply=True)
    assert contents(here / "best") == {
        "photos/a.jpg": png(0), "more/a.jpg": png(50), "0/x/k.jpg": png(60), "1/x/k.jpg": png(61)
    }  # fmt: skip
    (here / "files.txt").write_text("photos/b/c.png\nphotos/b/d/ö.webp\n")
    act(score_table(["photos/b/c.png", "photos/b/d/ö.webp"], ["files.txt"]), copy="listed", apply=True)
    assert contents(here / "listed") == {"c.png": png(1), "d/ö.webp": png(2)}


def test_pictures_on_a_server_are_fetched(here: Path) -> None:
    import fsspec

    server = fsspec.filesystem("memory")
    for i, name in enumerate(("x/a.jpg", "x/s/b.png")):
        server.pipe(f"/act/{name}", png(i))
    try:
        samples = ["memory:///act/x/a.jpg", "memory:///act/x/s/b.png", "memory:///act/x/none.png"]
        for sources in (["memory://act/x"], None):
            name = "out" if sources else "out2"
            planned, _ = act(score_table(samples, sources), copy=name)
            assert planned.num_done == 3
            done, _ = act(score_table(samples, sources), copy=name, apply=True)
            assert contents(here / name) == {"a.jpg": png(0), "s/b.png": png(1)}
            assert done.reasons == {"missing": 1}
            assert act(score_table(samples, sources), move="moved")[0].reasons == {"remote": 3}
            assert take_back(done.journal)[0].num_done == 2
            assert not (here / name).exists()
        packed, _ = act(score_table(samples, ["memory://act/x"]), tars="tars", apply=True)
        assert (packed.num_done, packed.reasons) == (2, {"missing": 1})
    finally:
        server.rm("/act", recursive=True)
