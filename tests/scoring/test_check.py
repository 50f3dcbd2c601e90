"""`beholder verify RUN`: every kind of damage to a result is found, by one line, and the same command mends what it says."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from beholder.scoring.check import check_result, is_result, scores_beside
from beholder.scoring.folder import RunFolder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.program import beholder
from oracles.result_bytes import check_same
from oracles.s3 import BUCKET

SHARDS = [f"e{number}-from-{row:012}" for number in range(2) for row in range(0, 100, 20)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two files of a hundred rows, of which two are rejected: ten shards of 20."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(2):
        made = np.random.default_rng(number).standard_normal((100, 24)).astype(np.float32)
        made[2], made[50] = np.nan, 0
        np.save(folder / f"e{number}.npy", made)
    return folder


def job(rows: Path, out: str | Path, head: Path, **more: object) -> ScoreOptions:
    return ScoreOptions(
        sources=(str(rows),), out=str(out), heads=(str(head),), shard_rows=20, num_threads=1, space_check="off", **more
    )  # type: ignore[arg-type]


def flip(path: Path) -> None:
    """One bit in the middle, behind the back of the file system: size and time stay."""
    status, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def found_in(out: str | Path) -> list[tuple[str, str]]:
    return sorted((one.kind, one.file.removeprefix(f"{out}/")) for one in check_result(str(out)).findings)


def test_a_flipped_bit_in_any_file_is_found_and_the_same_command_mends_it(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out, scratch = tmp_path / "out", tmp_path / "scratch"
    for place in (out, scratch):
        score(job(rows, place, small_head))
    whole = check_result(str(out))
    assert whole.is_whole
    assert (whole.num_shards, whole.num_planned, whole.num_unchecked) == (10, 10, 0)
    files = [path for path in out.rglob("*") if path.is_file() and not path.name.startswith("index-")]
    assert len(files) == 10 + 4 + 10 + 2  # scores, rejects, markers, the record and the times
    assert (whole.num_files, whole.num_bytes) == (len(files), sum(path.stat().st_size for path in files))
    for path in [path for path in out.rglob("*") if path.is_file()]:
        name = path.relative_to(out).as_posix()
        if not path.exists():  # a segment of the index, which was written anew
            continue
        before = path.read_bytes()
        flip(path)
        assert found_in(out) == [("damaged", name)], name
        if "/" not in name or "index" in name:
            path.write_bytes(before)
            continue
        again = score(job(rows, out, small_head))
        assert again.damaged == [path.stem]
        assert again.num_new == 20
        assert found_in(out) == []
    check_same(out, scratch)


def test_what_is_missing_extra_or_cut_short(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, out, small_head))
    (out / "scores" / f"{SHARDS[1]}.parquet").unlink()
    (out / "done" / f"{SHARDS[2]}.json").unlink()
    cut = out / "rejects" / f"{SHARDS[0]}.parquet"
    cut.write_bytes(cut.read_bytes()[:-1])
    shutil.copy(out / "scores" / f"{SHARDS[3]}.parquet", out / "scores" / "old.parquet")
    (out / "scores" / "mine.csv").write_text("a\n1\n")
    (out / "scores" / "README.md").write_text("of no interest")
    ended = beholder("verify", str(out))
    assert ended.returncode == 1
    lines = ended.stdout.splitlines()
    assert sorted(lines[:6]) == [
        f"damaged  {cut}: it has {cut.stat().st_size:,} bytes, and {cut.stat().st_size + 1:,} were written",
        f"extra    {out}/rejects/{SHARDS[2]}.parquet: no shard that is finished has it",
        f"extra    {out}/scores/{SHARDS[2]}.parquet: no shard that is finished has it",
        f"extra    {out}/scores/mine.csv: no shard that is finished has it",
        f"extra    {out}/scores/old.parquet: no shard that is finished has it",
        f"missing  {out}/scores/{SHARDS[1]}.parquet: it is gone",
    ]
    assert "1 of 10 shards are not done" in ended.stderr
    assert "1 damaged" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    again = beholder("verify", str(out), "--json")
    told = json.loads(again.stdout)
    assert (told["is_whole"], told["num_shards"], told["num_planned_shards"], told["num_damaged_shards"]) == (False, 9, 10, 2)
    assert told["num_findings"] == {"damaged": 1, "missing": 1, "extra": 4}
    score(job(rows, out, small_head))
    assert found_in(out) == [("extra", "scores/mine.csv")]
    (out / "scores" / "mine.csv").unlink()
    assert beholder("verify", str(out)).returncode == 0


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_result_that_is_one_file(rows: Path, tmp_path: Path, small_head: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    score(job(rows, out, small_head))
    whole = check_result(str(out))
    assert whole.is_whole
    assert (whole.num_files, whole.num_shards, whole.num_unchecked) == (4, None, 0)  # it, rejects, what it was made of, record
    for path in sorted(tmp_path.glob("out*")):
        before = path.read_bytes()
        flip(path)
        ended = beholder("verify", str(out))
        assert ended.returncode == 1
        assert ended.stdout.startswith(f"damaged  {path}: ")
        assert "with --overwrite" in ended.stderr
        score(job(rows, out, small_head, overwrite=True))
        assert check_result(str(out)).is_whole
        assert path.read_bytes() == before
    (tmp_path / f"out{suffix}.rejects.parquet").unlink()
    assert [kind for kind, _ in found_in(out)] == ["missing"]


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_a_run_that_stopped_is_not_whole_and_its_shards_are_checked(
    rows: Path, tmp_path: Path, small_head: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"

    def stop(done: int, _: int) -> None:
        if len(list(tmp_path.glob("out*/done/e*.json"))) >= 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job(rows, out, small_head), on_progress=stop)
    found = check_result(str(out))
    assert not found.is_whole
    assert found.num_planned == 10
    assert found.num_shards is not None
    assert found.num_not_done == 10 - found.num_shards
    assert not found.counts["damaged"]
    work = out if not suffix else out.with_name("out.parquet.partial")
    flip(work / "scores" / f"{SHARDS[0]}.parquet")
    assert ("damaged", f"{work}/scores/{SHARDS[0]}.parquet") in [
        (one.kind, one.file) for one in check_result(str(out)).findings
    ]
    with RunFolder(work).locked():
        assert check_result(str(out)).is_running
    assert score(job(rows, out, small_head)).damaged == [SHARDS[0]]
    assert check_result(str(out)).is_whole


@pytest.mark.parametrize("layout", ["npy", "parquet", "birder-csv", "birder-parquet"])
def test_embeddings_in_every_layout(tmp_path: Path, small_tower: Path, layout: str) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(5):
        (photos / f"a, {number}.png").write_bytes(picture_bytes(number, "PNG") if number else b"no picture")
    embed(embed_options(str(photos), out, small_tower, shard_rows=2, format=layout))
    assert check_result(str(out)).is_whole
    for path in [path for path in out.rglob("*") if path.is_file() and path.suffix in (".npy", ".csv", ".parquet")]:
        before = path.read_bytes()
        flip(path)
        assert found_in(out) == [("damaged", path.relative_to(out).as_posix())]
        path.write_bytes(before)
    marker = next(iter((out / "done").glob("*.json")))
    flip(marker)
    assert found_in(out) == [("damaged", f"done/{marker.name}")], "nothing is called extra for it"


def some_pictures(folder: Path, count: int = 3) -> str:
    """A folder of so many pictures, behind a file that is none."""
    folder.mkdir()
    (folder / "0.png").write_bytes(b"no picture")
    for number in range(1, 1 + count):
        (folder / f"{number}.png").write_bytes(picture_bytes(number, "PNG"))
    return str(folder)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_embeddings_in_one_file_beside_a_reject(tmp_path: Path, small_tower: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    summary = embed(embed_options(some_pictures(tmp_path / "photos"), out, small_tower))
    assert (summary.num_scored, summary.num_rejected) == (3, 1)
    assert check_result(str(out)).is_whole


def test_pictures_kept_embeddings_and_what_is_told_apart(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.png").write_bytes(picture_bytes(number, "PNG"))
    score(score_options(str(photos), out, small_tower, plain_head, keep_embeddings=True))
    assert check_result(str(out)).is_whole
    flip(out / "embeddings" / "beholder.json")
    assert found_in(out) == [("damaged", "embeddings/beholder.json")]
    assert [is_result(str(path)) for path in (photos, out, photos / "0.png", tmp_path / "nothing")] == [
        False,
        True,
        False,
        False,
    ]
    (photos / "beholder.json").write_text('{"backbone": "openai/clip-vit-large-patch14"}')
    assert not is_result(str(photos)), "a stamp that somebody wrote"
    both = beholder("verify", str(photos), str(out))
    assert both.returncode == 1
    assert f"{out} is what a run wrote, which is checked alone" in both.stderr
    idle = beholder("verify", str(out), "--preset", "rgb", "--precision", "fp32")
    assert f"--preset, --precision have no effect on {out}, which is what a run wrote" in idle.stderr
    (out / "beholder.json").unlink()
    gone = beholder("verify", str(out))
    assert gone.returncode == 1
    assert f"missing  {out}/beholder.json: the record of the run is gone" in gone.stdout


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_kept_embeddings_are_checked_with_their_scores(
    tmp_path: Path, small_tower: Path, plain_head: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / f"out{suffix}"
    score(score_options(some_pictures(tmp_path / "photos"), out, small_tower, plain_head, keep_embeddings=True))
    kept = tmp_path / (f"{out.name}.embeddings" if suffix else "out/embeddings")
    for named in (str(kept), f"{kept}/"):
        refused = beholder("verify", named)
        assert (refused.returncode, refused.stdout, refused.stderr.count("\n")) == (1, "", 1)
        told = f"{named} holds embeddings that were kept beside scores and are checked with them: beholder verify {out}"
        assert told in refused.stderr
    monkeypatch.chdir(kept.parent)
    assert scores_beside(kept.name) == (out.name if suffix else ".")
    shutil.copytree(kept, tmp_path / "alone")
    assert scores_beside(str(tmp_path / "alone")) == out.name
    assert [scores_beside(str(path)) for path in (out, tmp_path / "photos", tmp_path / "nothing")] == [None] * 3


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_in_a_bucket(s3: None, rows: Path, small_head: Path, suffix: str) -> None:
    from beholder.io import storage, writing

    out = f"s3://{BUCKET}/out{suffix}"
    score(job(rows, out, small_head))
    assert is_result(out)
    found = check_result(out)
    assert found.is_whole
    assert found.num_unchecked == (3 if suffix else 0)
    victim = f"s3://{BUCKET}/out.parquet" if suffix else f"{out}/scores/{SHARDS[4]}.parquet"
    data = bytearray(storage.read_range(victim, 0, 1 << 20))
    data[60 if suffix else len(data) // 2] ^= 1  # (of one file in a bucket no more is known than its pages say)
    writing.write_bytes(victim, bytes(data))
    assert [(one.kind, one.file) for one in check_result(out).findings] == [("damaged", victim)]
    if not suffix:
        assert score(job(rows, out, small_head)).damaged == [SHARDS[4]]
        assert check_result(out).is_whole


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_kept_embeddings_without_their_stamp_and_with_more_beside_them(
    tmp_path: Path, small_tower: Path, plain_head: Path, suffix: str
) -> None:
    out = tmp_path / f"out{suffix}"
    score(score_options(some_pictures(tmp_path / "photos"), out, small_tower, plain_head, keep_embeddings=True))
    kept = Path(f"{out}.embeddings") if suffix else out / "embeddings"
    assert check_result(str(out)).is_whole
    np.save(kept / "img_emb" / "img_emb_9999.npy", np.zeros((2, 3)))
    (kept / "metadata" / "more.parquet").write_bytes(b"of somebody's")
    stamp = (kept / "beholder.json").read_bytes()
    (kept / "beholder.json").unlink()
    found = sorted((one.kind, one.file) for one in check_result(str(out)).findings)
    assert found == [
        ("extra", f"{kept}/img_emb/img_emb_9999.npy"),
        ("extra", f"{kept}/metadata/more.parquet"),
        ("missing", f"{kept}/beholder.json"),
    ]
    (kept / "img_emb" / "img_emb_9999.npy").unlink()
    (kept / "metadata" / "more.parquet").unlink()
    (kept / "beholder.json").write_bytes(stamp[:-20])
    assert [(one.kind, one.file) for one in check_result(str(out)).findings] == [("damaged", f"{kept}/beholder.json")]


def test_what_no_run_wrote_down_is_no_result(tmp_path: Path) -> None:
    folder = tmp_path / "hand-made"
    folder.mkdir()
    np.save(folder / "x.npy", np.ones((3, 4), np.float32))
    (folder / "beholder.json").write_text(json.dumps({"format": "beholder-embeddings", "version": 1, "options": {"dim": 4}}))
    ended = beholder("verify", str(folder))
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        f"beholder: {folder} is no result of a run, so there is nothing to compare it with: its beholder.json says what made "
        "the files, and no run has written down what is in them"
    )


def test_a_record_that_does_not_say_how_many_shards_there_are(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, out, small_head))
    folder = RunFolder(out)
    record = folder.read_record()
    assert record is not None
    folder.write_record({key: value for key, value in record.items() if key not in ("planned", "sha256")})
    found = check_result(str(out))
    assert (found.is_whole, found.findings, found.num_planned) == (False, [], None)
    ended = beholder("verify", str(out))
    assert ended.returncode == 1
    assert "its record does not say how many shards there are; run the same command again" in ended.stderr


def test_a_file_whose_time_cannot_be_changed(
    rows: Path, tmp_path: Path, small_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    out = tmp_path / "out"
    score(job(rows, out, small_head))
    flip(out / "scores" / f"{SHARDS[1]}.parquet")
    monkeypatch.setattr(os, "utime", refuse)
    (finding,) = check_result(str(out)).findings
    assert (finding.kind, "run the same command with --overwrite" in finding.mend) == ("damaged", True)


def test_a_run_at_work_is_not_to_be_run_again(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, out, small_head))
    (out / "done" / f"{SHARDS[2]}.json").unlink()
    with RunFolder(out).locked():
        ended = beholder("verify", str(out))
    assert ended.returncode == 1
    assert "1 of 10 shards are not done; a run works on it: wait until that has ended" in ended.stderr
