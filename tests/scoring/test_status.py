"""`beholder status`: what it says during a run, after it and after a crash, on a disk and in a bucket; it writes nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from beholder import InputError, OutputError
from beholder.cli.status import status_lines
from beholder.columns import EARLIER_FOLDER
from beholder.io.places import listing
from beholder.scoring import lock
from beholder.scoring.check import check_result, is_result
from beholder.scoring.folder import RunFolder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import embed, score
from beholder.scoring.status import RunStatus, status_of
from oracles.bucket_jobs import make_photos, url
from oracles.picture_jobs import embed_options
from oracles.program import beholder, start
from oracles.s3 import BUCKET
from oracles.tar_making import tar
from oracles.tiers import mostly_slow

NUM_ROWS, SHARD_ROWS = 100, 20
"""Rows of each of two files: five shards a file."""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(2):
        made = np.random.default_rng(number).standard_normal((NUM_ROWS, 24)).astype(np.float32)
        made[2], made[50] = np.nan, 0
        np.save(folder / f"e{number}.npy", made)
    return folder


@pytest.fixture(params=["here", pytest.param("s3", marks=pytest.mark.slow)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Below it outputs are written."""
    if request.param == "s3":
        request.getfixturevalue("s3")
    return str(tmp_path) if request.param == "here" else f"s3://{BUCKET}"


def job(rows: Path, out: str, head: Path, **more: Any) -> ScoreOptions:
    return ScoreOptions(sources=(str(rows),), out=out, heads=(str(head),), shard_rows=SHARD_ROWS, num_threads=1, **more)


def command(options: ScoreOptions) -> list[str]:
    line = ["score", *options.sources, "-o", str(options.out), "--head", options.heads[0], "--threads", "1"]
    return [*line, "--shard-rows", str(SHARD_ROWS)]


def counts(found: RunStatus) -> tuple[int | None, ...]:
    return found.num_shards_done, found.num_shards, found.num_read, found.num_rows, found.num_scored, found.num_rejected


@pytest.mark.parametrize("suffix", ["", ".parquet"])
def test_a_run_that_stops_in_the_middle_and_is_finished(rows: Path, place: str, small_head: Path, suffix: str) -> None:
    out, seen = f"{place}/out{suffix}", []

    def look(done: int, num_bytes: int) -> None:
        found = status_of(out)
        seen.append(found)
        if found.num_shards_done >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(job(rows, out, small_head), on_progress=look)
    (holder,) = seen[-1].at_work
    assert (seen[-1].state, holder.pid, seen[-1].gone) == ("running", os.getpid(), [])
    # The first five shards are those of the first file: rows 2 and 50 of it are rejected. The sixth one has row 2 of the next.
    num_done = seen[-1].num_shards_done
    assert num_done in (6, 7), "one is written while the next one is computed"
    assert counts(seen[-1]) == (num_done, 10, 20 * num_done, 200, 20 * num_done - 3, 3)
    assert seen[-1].reasons == {"nan": 2, "zero_norm": 1}
    assert [found.num_read for found in seen] == sorted(found.num_read for found in seen)
    before = listing(out + (".partial" if suffix else ""))
    stopped = status_of(out)
    assert stopped.state == "stopped"
    assert num_done <= stopped.num_shards_done < 10
    assert stopped.num_read == SHARD_ROWS * stopped.num_shards_done
    assert (stopped.at_work, stopped.gone, stopped.rows_per_second, stopped.seconds_left) == ([], [], None, None)
    assert stopped.seconds_since is not None
    assert listing(out + (".partial" if suffix else "")) == before, "nothing is written"
    score(job(rows, out, small_head))
    found = status_of(out)
    assert found.state == "finished"
    assert found.reasons == {"nan": 2, "zero_norm": 2}
    assert counts(found) == ((0, None, 200, 200, 196, 4) if suffix else (10, 10, 200, 200, 196, 4))


def test_the_rate_and_the_time_left_are_those_of_the_markers_times(rows: Path, tmp_path: Path, small_head: Path) -> None:
    """Ten shards of 20 rows; seven are done, one every four seconds until two seconds ago, by a run that began a minute ago."""
    out = tmp_path / "out"
    score(job(rows, str(out), small_head))
    now, names = time.time(), sorted(path.stem for path in (out / "done").glob("*.json"))
    for number, name in enumerate(names):
        marker = out / "done" / f"{name}.json"
        os.utime(marker, (now, now - 2 - 4 * (6 - number)))
        if number >= 7:
            marker.unlink()
    assert status_of(str(out)).rows_per_second is None
    with RunFolder(out).locked():
        held = out / ".lock"
        holder = json.loads(held.read_text())
        holder["since"] = time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(now - 60))
        held.write_text(json.dumps(holder))
        found = status_of(str(out))
        # From the end of the first shard, 26 s ago: six shards of 20 rows.
        assert found.rows_per_second == pytest.approx(6 * 20 / 26, rel=0.1)
        assert found.rate_s == pytest.approx(26, rel=0.1)
        assert found.seconds_left == pytest.approx(3 * 20 / (6 * 20 / 26), rel=0.1)
        assert found.seconds_since == pytest.approx(2, abs=1)
        shown = beholder("status", str(out)).stdout.splitlines()
        assert shown[0] == f"{out}: running, 7 of 10 shards, 140 of 200 rows (70.0 %)"
        assert shown[1] == "  scored 137, rejected 3: 2 nan, 1 zero_norm"
        assert re.fullmatch(r"  [1-4]\.\d+ rows/s in the last \d\d s; about \d\d s left", shown[2])
        assert re.fullmatch(rf"  at work: process {os.getpid()} of \S+ on \S+, since \S+", shown[3])
        assert len(shown) == 4


def test_only_what_was_done_since_the_run_began_counts_for_its_rate(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, str(out), small_head))
    (out / "done" / "e1-from-000000000080.json").unlink()
    for path in (out / "done").glob("*.json"):
        os.utime(path, (time.time() - 100,) * 2)
    with RunFolder(out).locked():
        found = status_of(str(out))
        assert (found.state, found.rows_per_second, found.seconds_left) == ("running", None, None)
        assert "  no shard is done since it began" in beholder("status", str(out)).stdout.splitlines()


def test_after_a_crash(rows: Path, place: str, small_head: Path) -> None:
    out = f"{place}/out"
    line = command(job(rows, out, small_head))
    died = beholder(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "shard e1 written".replace("e1", "e1-from-000000000000")})
    assert died.returncode == 137, died.stderr
    found = status_of(out)
    assert (found.state, found.at_work, len(found.gone)) == ("stopped", [], 1)
    assert counts(found) == (5, 10, 100, 200, 98, 2)
    shown = beholder("status", out).stdout
    assert re.search(r"ended without finishing: process \d+ of ", shown)
    assert "run the same command again to continue" in shown
    assert beholder(*line).returncode == 3
    found = status_of(out)
    assert (found.state, found.gone, found.num_shards_done) == ("finished", [], 10)


@pytest.mark.parametrize("point", ["result recorded", "shards removed"])
def test_a_run_that_dies_once_its_result_is_whole_is_finished(rows: Path, place: str, small_head: Path, point: str) -> None:
    out = f"{place}/out.parquet"
    line = command(job(rows, out, small_head))
    died = beholder(*line, env={**os.environ, "BEHOLDER_CRASH_AT": point})
    assert died.returncode == 137, died.stderr
    found = status_of(out)
    assert (found.state, found.num_read, found.num_scored, found.num_rejected) == ("finished", 200, 196, 4)
    np.save(rows / "e2.npy", np.random.default_rng(2).standard_normal((NUM_ROWS, 24)).astype(np.float32))
    died = beholder(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "shard e2-from-000000000000 written"})
    assert died.returncode == 137, died.stderr
    found = status_of(out)
    assert (found.state, found.num_shards, found.num_rows) == ("stopped", 15, 300)


@pytest.mark.parametrize("when", mostly_slow(["shards last", "equal", "shards first"]))
@pytest.mark.parametrize(
    ("point", "state"),
    [
        ("result opened", "stopped"),
        ("opened result set aside", "stopped"),
        ("shard e2-from-000000000000 written", "stopped"),
        ("result recorded", "finished"),
    ],
)
def test_a_copy_of_a_grown_run_that_died(
    rows: Path, tmp_path: Path, small_head: Path, point: str, state: str, when: str
) -> None:
    """Its files have other times than those that were written."""
    out = tmp_path / "out.parquet"
    score(job(rows, str(out), small_head))
    np.save(rows / "e2.npy", np.random.default_rng(2).standard_normal((NUM_ROWS, 24)).astype(np.float32))
    died = beholder(*command(job(rows, str(out), small_head)), env={**os.environ, "BEHOLDER_CRASH_AT": point})
    assert died.returncode == 137, died.stderr
    for path in (tmp_path / "out.parquet.partial").rglob("*"):
        os.utime(path, (1e9 + {"equal": 0, "shards first": -9, "shards last": 9}[when],) * 2)
    os.utime(f"{out}.beholder.json", (1e9, 1e9))
    found = status_of(str(out))
    assert (found.state, found.num_read) == (state, 300 if state == "finished" else found.num_read)
    if point == "result opened" and when == "equal":  # it died just before
        shutil.rmtree(tmp_path / "out.parquet.partial" / EARLIER_FOLDER)
        assert status_of(str(out)).state == "stopped"


def test_a_copy_of_a_run_that_kept_rows_and_died_once_its_result_was_whole(
    rows: Path, tmp_path: Path, small_head: Path
) -> None:
    out = tmp_path / "out.parquet"
    score(job(rows, str(out), small_head))
    (rows / "e0.npy").unlink()
    line = [*command(job(rows, str(out), small_head)), "--vanished", "keep"]
    assert beholder(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "result recorded"}).returncode == 137
    os.utime(f"{out}.beholder.json", (1e9, 1e9))
    assert (status_of(str(out)).state, status_of(str(out)).num_read) == ("finished", 200)
    score(job(rows, str(tmp_path / "other.parquet"), small_head, columns=("*",)))
    shutil.copy(tmp_path / "other.parquet.beholder.json", f"{out}.beholder.json")
    assert status_of(str(out)).state == "stopped", "a result of other options"


def test_parts_of_a_run_are_all_named(rows: Path, place: str, small_head: Path) -> None:
    out, seen = f"{place}/out", []
    with RunFolder(out).locked(is_shared=True):
        score(job(rows, out, small_head, part="1/2"), on_progress=lambda *_: seen.append(status_of(out)))
    assert [holder.pid for holder in seen[-1].at_work] == [os.getpid()] * 2
    assert len({holder.token for holder in seen[-1].at_work}) == 2
    found = status_of(out)
    assert (found.state, found.num_shards_done, found.num_shards) == ("stopped", 5, 10)
    score(job(rows, out, small_head, part="0/2"))
    assert status_of(out).state == "finished"


def test_of_tars_only_reading_tells_the_rows(tmp_path: Path, small_tower: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    for number in range(3):
        pictures = [(f"{number}{path.name}", path.read_bytes()) for path in sorted(photos.glob("*"))]
        (tmp_path / f"{number}.tar").write_bytes(tar(pictures))
    out = tmp_path / "out"
    embed(embed_options((str(tmp_path / "*.tar"),), out, small_tower))
    found = status_of(str(out))
    assert (found.noun, found.state, *counts(found)) == ("embeddings", "finished", 3, 3, 12, None, 9, 3)
    assert "embedded 9, rejected 3: 3 not_an_image" in beholder("status", str(out)).stdout


def test_rows_kept_of_inputs_that_have_gone_are_no_planned_shards(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = str(tmp_path / "out")
    score(job(rows, out, small_head))
    (rows / "e0.npy").unlink()
    assert score(job(rows, out, small_head, vanished="keep")).num_kept == 100
    found = status_of(out)
    assert (found.state, found.num_shards_done, found.num_shards, found.num_read, found.num_rows) == (
        "finished", 5, 5, 200, 100
    )  # fmt: skip


def test_as_json_and_watched_until_it_ends(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = str(tmp_path / "out")
    score(job(rows, out, small_head))
    found = json.loads(beholder("status", out, "--json").stdout)
    assert found == {
        "output": out, "state": "finished", "num_planned_shards": 10, "num_shards_done": 10, "num_planned_rows": 200,
        "num_read": 200, "num_scored": 196, "num_rejected": 4, "reasons": {"nan": 2, "zero_norm": 2}, "num_damaged_shards": 0,
        "rows_per_second": None, "seconds_of_rate": None, "seconds_left": None,
        "seconds_since_last_shard": found["seconds_since_last_shard"], "at_work": [], "ended_without_finishing": [],
    }  # fmt: skip
    assert 0 <= found["seconds_since_last_shard"] < 100
    with RunFolder(out).locked():
        watching = start("status", out, "--watch", "--json", stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["state"] == "running"
    lines = watching.communicate(timeout=60)[0].splitlines()
    assert json.loads(lines[-1])["state"] == "finished"
    assert watching.returncode == 0


@pytest.mark.slow
def test_ctrl_c_ends_watching(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = str(tmp_path / "out")
    score(job(rows, out, small_head))
    with RunFolder(out).locked():
        watching = start("status", out, "--watch", stdout=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith(f"{out}: running")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(timeout=30) == 130


def test_damaged_markers_are_counted(rows: Path, place: str, small_head: Path) -> None:
    from oracles.bucket_jobs import SEGMENT

    out = f"{place}/out"
    score(job(rows, out, small_head))
    folder = RunFolder(out)
    folder.remove([name for name in folder.names() if SEGMENT.fullmatch(name)])
    (marker,) = [name for name in folder.names() if name == "done/e0-from-000000000020.json"]
    folder.put(marker, b"{}")
    found = status_of(out)
    assert (found.state, found.num_damaged, found.num_shards_done) == ("stopped", 1, 9)
    assert "1 done-marker is damaged" in beholder("status", out).stdout


def test_a_run_of_an_earlier_version_says_what_it_has(rows: Path, tmp_path: Path, small_head: Path) -> None:
    from beholder.io import records

    out = tmp_path / "out"
    score(job(rows, str(out), small_head))
    record = records.parse((out / "beholder.json").read_bytes())
    (out / "beholder.json").write_bytes(records.sealed({key: value for key, value in record.items() if key != "planned"}))
    found = status_of(str(out))
    assert counts(found) == (10, None, 200, None, 196, 4)
    assert "10 shards, 200 rows" in beholder("status", str(out)).stdout


@pytest.mark.parametrize("out", ["nothing", "rows", "nothing.parquet", pytest.param("s3-nothing", marks=pytest.mark.slow)])
def test_what_is_no_run_is_refused_in_one_line(rows: Path, tmp_path: Path, out: str, request: pytest.FixtureRequest) -> None:
    if out.startswith("s3"):
        request.getfixturevalue("s3")
    place = url(out) if out.startswith("s3") else str(tmp_path / out)
    told = (
        "is no run of beholder, or one that has not begun to write: there is no"
        if out == "rows"
        else "nothing.* does not exist"
    )
    with pytest.raises(InputError, match=told) as caught:
        status_of(place)
    assert "\n" not in str(caught.value)
    refused = beholder("status", place)
    assert (refused.returncode, refused.stderr.count("\n"), refused.stdout) == (1, 1, "")


@pytest.mark.parametrize("record", [{"format": ["x"]}, {"format": {}, "a": {"format": "beholder-x"}}, {"format": None}])
def test_records_of_others_are_no_runs(tmp_path: Path, record: dict[str, Any]) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "beholder.json").write_text(json.dumps(record))
    (tmp_path / "o.parquet").write_bytes(b"PAR1")
    (tmp_path / "o.parquet.beholder.json").write_text(json.dumps(record))
    for place in (tmp_path / "run", tmp_path / "o.parquet"):
        with pytest.raises(InputError, match="is no run of beholder"):
            status_of(str(place))
    assert not is_result(str(tmp_path / "o.parquet"))


def test_who_is_at_work_on_another_machine_is_told_by_its_lease(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, str(out), small_head))
    (out / "done" / "e1-from-000000000080.json").unlink()
    lease = json.loads(lock.Holder.here(20.0).data()) | {"host": "gpu-7", "machine": "another", "token": "x"}
    (out / ".lease").write_text(json.dumps(lease))
    assert [holder.host for holder in status_of(str(out)).at_work] == ["gpu-7"]
    os.utime(out / ".lease", (time.time() - 300,) * 2)
    found = status_of(str(out))
    assert (found.state, [holder.host for holder in found.gone]) == ("stopped", ["gpu-7"])


def test_a_lock_that_is_none_of_ours_says_nothing(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, str(out), small_head))
    lease = json.loads(lock.Holder.here(20.0).data()) | {"machine": "another"}
    for damage in ({"since": "yesterday"}, {"interval_s": float("inf")}, {"pid": "1"}):
        (out / ".lease").write_text(json.dumps(lease | damage))
        found = status_of(str(out))
        assert (found.state, found.at_work, found.gone) == ("finished", [], [])


class Moving(MemoryFileSystem):
    """A server on which somebody does something just after a folder has been listed."""

    protocol = "moving"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    then: ClassVar[dict[str, Callable[[], None]]] = {}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return super()._strip_protocol(path.removeprefix("moving://"))

    def find(self, path: str, *args: Any, **more: Any) -> Any:
        found = super().find(path, *args, **more)
        self.then.pop(path, lambda: None)()
        return found


@pytest.fixture
def moving() -> Iterator[Moving]:
    fsspec.register_implementation("moving", Moving, clobber=True)
    yield fsspec.filesystem("moving")
    Moving.store.clear()
    Moving.then.clear()


def test_a_run_that_ends_while_it_is_looked_at_has_not_stopped(rows: Path, small_head: Path, moving: Moving) -> None:
    score(job(rows, "moving://out", small_head))
    marker = moving.cat_file("/out/done/e1-from-000000000080.json")
    lease = json.loads(lock.Holder.here(20.0).data()) | {"host": "gpu-7", "machine": "another"}
    moving.rm_file("/out/done/e1-from-000000000080.json")
    moving.pipe_file("/out/.lease", json.dumps(lease).encode())

    def end() -> None:
        moving.pipe_file("/out/done/e1-from-000000000080.json", marker)
        moving.rm_file("/out/.lease")

    Moving.then["/out"] = end
    found = status_of("moving://out")
    assert (found.state, found.num_shards_done) == ("running", 9)
    assert (Moving.then, status_of("moving://out").state) == ({}, "finished")


@pytest.mark.parametrize("when", ["/out.csv.partial/.parts", "/out.csv.partial"])
def test_shards_that_are_joined_while_they_are_looked_at(rows: Path, small_head: Path, moving: Moving, when: str) -> None:
    score(job(rows, "moving://out.csv", small_head, part="0/1"))
    assert (status_of("moving://out.csv").state, status_of("moving://out.csv").num_shards_done) == ("stopped", 10)
    assert "all shards are done; the same command, without --part, puts moving://out.csv together" in "".join(
        status_lines(status_of("moving://out.csv.partial/"))
    )
    Moving.then[when] = lambda: score(job(rows, "moving://out.csv", small_head)) and None
    found = status_of("moving://out.csv")
    assert (Moving.then, found.state, found.num_scored, found.num_damaged) == ({}, "finished", 196, 0)


def test_a_folder_that_an_earlier_version_finished_in_a_bucket(rows: Path, small_head: Path, tmp_path: Path) -> None:
    score(job(rows, str(tmp_path / "out.csv"), small_head))
    (tmp_path / "out").mkdir()
    (tmp_path / "out.csv.beholder.json").rename(tmp_path / "out" / "beholder.json")
    found = status_of(str(tmp_path / "out"))
    assert (found.state, found.num_read, found.num_scored, found.num_rejected) == ("finished", 200, 196, 4)


def test_a_part_that_was_killed_and_done_again_is_not_told_of(rows: Path, small_head: Path, tmp_path: Path) -> None:
    score(job(rows, str(tmp_path / "out"), small_head))
    part = tmp_path / "out" / ".parts" / "x"
    part.parent.mkdir()
    part.write_bytes(json.dumps(json.loads(lock.Holder.here(0).data()) | {"started": 1}).encode())
    assert len(status_of(str(tmp_path / "out")).gone) == 1
    assert "ended without" not in beholder("status", tmp_path / "out").stdout
    next((tmp_path / "out" / "done").glob("*.json")).unlink()
    assert "ended without" in beholder("status", tmp_path / "out").stdout


@pytest.mark.parametrize(
    "planned", [{}, {"shards": "x", "rows": None}, {"shards": -1, "rows": 10**400}, {"shards": 2.5}, [1], None]
)
def test_a_record_that_plans_no_count(planned: Any, rows: Path, small_head: Path, tmp_path: Path) -> None:
    """A record that was changed by hand, and has no checksum any more."""
    score(job(rows, str(tmp_path / "out"), small_head))
    path = tmp_path / "out" / "beholder.json"
    record = json.loads(path.read_text()) | {"planned": planned}
    del record["sha256"]
    path.write_text(json.dumps(record))
    found = status_of(str(tmp_path / "out"))
    assert (found.num_shards, found.num_rows, found.num_shards_done, found.num_read) == (None, None, 10, 2 * NUM_ROWS)
    assert check_result(str(tmp_path / "out")).num_planned is None
    beholder("status", str(tmp_path / "out"), check=True)


@pytest.mark.parametrize("result", [None, {}, {"num_read": 5}, "x"])
def test_a_joined_result_whose_record_has_no_counts(result: Any, rows: Path, small_head: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    score(job(rows, str(out), small_head))
    path = Path(f"{out}.beholder.json")
    record = json.loads(path.read_text()) | {"result": result}
    del record["sha256"]
    path.write_text(json.dumps(record))
    with pytest.raises(OutputError, match=r"out.parquet.beholder.json is damaged: ") as caught:
        status_of(str(out))
    assert "\n" not in str(caught.value)
