"""Jobs done in parts, as the tasks of a scheduler's array: each its share, in any order, several at once, then the whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import BeholderError, InputError, OutputError
from beholder.scoring.options import ScoreOptions, Share, share_of
from beholder.scoring.score import score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import picture_bytes, score_options
from oracles.program import beholder as program
from oracles.program import start
from oracles.result_bytes import check_same

NUM_ROWS = (40, 7, 23, 11, 60)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    folder = tmp_path / "rows"
    folder.mkdir()
    for number, count in enumerate(NUM_ROWS):
        some = np.random.default_rng(number).standard_normal((count, 24)).astype(np.float32)
        some[0] = np.nan
        np.save(folder / f"e{number}.npy", some)
    return folder


def run(rows: Path, out: Path, head: Path, **more: Any) -> RunSummary:
    return score(ScoreOptions(sources=(str(rows),), out=str(out), heads=(str(head),), shard_rows=10, num_threads=1, **more))


def test_shares_in_any_order_come_to_the_whole(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    for suffix in ("", ".parquet", ".csv"):
        whole, out = tmp_path / "whole" / f"o{suffix}", tmp_path / "parts" / f"o{suffix}"
        alone = run(rows, whole, plain_head)
        num_shards = sum(-(-count // 10) for count in NUM_ROWS)
        found = [run(rows, out, plain_head, part=f"{number}/4") for number in (2, 0, 3)]
        assert [summary.part for summary in found] == [
            f"part {number} of 4 ({len(range(number, num_shards, 4))} of {num_shards} shards)" for number in (2, 0, 3)
        ]
        assert run(rows, out, plain_head, part="0/4").num_new == 0  # again: nothing is left
        last = run(rows, out, plain_head)  # part 1 was never done
        assert last.part is None
        assert last.num_new == alone.num_read - sum(summary.num_read for summary in found)
        assert (last.num_read, last.num_rejected, last.stats) == (alone.num_read, len(NUM_ROWS), alone.stats)
        check_same(whole, out)


def test_more_parts_than_shards_and_one_part(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    run(rows, tmp_path / "whole", plain_head)
    empty = run(rows, tmp_path / "out", plain_head, part="70/100")
    assert (empty.num_read, empty.part) == (0, "part 70 of 100 (0 of 16 shards)")
    assert run(rows, tmp_path / "out", plain_head, part="0/1").num_read == sum(NUM_ROWS)
    assert run(rows, tmp_path / "out", plain_head).num_new == 0
    check_same(tmp_path / "whole", tmp_path / "out")


def test_all_parts_at_once(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    run(rows, tmp_path / "whole" / "out.parquet", plain_head)
    line = ["score", str(rows), "-o", str(tmp_path / "out.parquet"), "--head", str(plain_head), "--shard-rows", "10"]
    running = []
    for number in range(4):
        task = {"SLURM_ARRAY_TASK_ID": str(10 + number), "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "10"}
        how = {"env": os.environ | task, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        running.append(start(*line, "--part", "slurm", **how))
    for number, one in enumerate(running):
        said, errors = one.communicate(timeout=200)
        assert one.returncode == 0, errors  # though rows are rejected
        assert f"part {number} of 4" in said
        assert "the same command without --part puts" in said
    ended = program(*line, "--json")
    assert ended.returncode == 3, ended.stderr
    assert (json.loads(ended.stdout)["num_new"], json.loads(ended.stdout)["part"]) == (0, None)
    check_same(tmp_path / "whole" / "out.parquet", tmp_path / "out.parquet")


def test_pictures_in_parts_after_some_were_done_elsewhere(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        (photos / f"p{number}.jpg").write_bytes(b"none" if number == 3 else picture_bytes(number))

    def job(out: str, **more: Any) -> RunSummary:
        return score(score_options((str(photos),), tmp_path / out, small_tower, plain_head, shard_rows=2, **more))

    job("whole")
    job("out", part="1/2", precision="auto")
    job("out", part="0/2", precision="auto")
    assert job("out", precision="auto").num_new == 0
    check_same(tmp_path / "whole", tmp_path / "out")


def test_a_run_of_the_whole_waits_for_no_part_and_no_part_for_it(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    from beholder.scoring.folder import RunFolder

    out = tmp_path / "out"
    with RunFolder(out).locked(is_shared=True):
        assert run(rows, out, plain_head, part="0/2").num_new > 0
        with pytest.raises(OutputError, match="another run is writing"):
            run(rows, out, plain_head)
    with RunFolder(out).locked(), pytest.raises(OutputError, match="another run is writing"):
        run(rows, out, plain_head, part="1/2")


def test_other_inputs_need_a_run_of_the_whole_first(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    for suffix in ("", ".parquet"):
        out = tmp_path / f"out{suffix}"
        run(rows, out, plain_head)
        changed = np.load(rows / "e1.npy")
        changed[1:] *= 2
        np.save(rows / "e1.npy", changed)
        with pytest.raises(OutputError, match="run the same command once without --part"):
            run(rows, out, plain_head, part="0/1")
        assert run(rows, out, plain_head).num_changed == NUM_ROWS[1]
        assert run(rows, out, plain_head, part="0/1").num_new == 0


def test_damage_in_a_share_is_mended(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    run(rows, tmp_path / "whole", plain_head)
    run(rows, tmp_path / "out", plain_head, part="0/1")
    (tmp_path / "out" / "scores" / "e1.parquet").write_bytes(b"damaged")
    again = run(rows, tmp_path / "out", plain_head, part="0/1")
    assert (again.num_new, again.damaged) == (NUM_ROWS[1], ["e1"])
    run(rows, tmp_path / "out", plain_head)
    check_same(tmp_path / "whole", tmp_path / "out")


def test_a_finished_file_is_no_failure_of_a_part_that_is_run_again(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    out = tmp_path / "out.parquet"
    run(rows, out, plain_head)
    line = ["score", str(rows), "-o", str(out), "--head", str(plain_head), "--shard-rows", "10"]
    assert program(*line, "--part", "1/3", env=dict(os.environ)).returncode == 0
    assert program(*line, env=dict(os.environ)).returncode == 3


@pytest.mark.parametrize(
    ("text", "environment", "found"),
    [
        ("0/1", {}, Share(0, 1)),
        ("63/64", {}, Share(63, 64)),
        ("slurm", {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}, Share(3, 8)),
        ("slurm", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "5", "SLURM_ARRAY_TASK_MIN": "1",
                   "SLURM_ARRAY_TASK_STEP": "2"}, Share(4, 5)),
    ],
)  # fmt: skip
def test_parts_by_name(text: str, environment: dict[str, str], found: Share) -> None:
    assert share_of(text, environment) == found


@pytest.mark.parametrize("text", ["64/64", "0/0", "-1/4", "3", "a/b", "1/2/3", "", "slurm"])
def test_what_is_no_part_is_refused(text: str, rows: Path, tmp_path: Path, plain_head: Path) -> None:
    with pytest.raises(InputError) as caught:
        run(rows, tmp_path / "out", plain_head, part=text)
    assert str(caught.value).startswith(f"--part {text}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["1" * 5000 + "/2", "0/" + "9" * 5000, "slurm"])
def test_numbers_of_thousands_of_digits_are_no_part(text: str) -> None:
    with pytest.raises(InputError, match="^--part "):
        share_of(text, {"SLURM_ARRAY_TASK_ID": "9" * 5000, "SLURM_ARRAY_TASK_COUNT": "5"})


@pytest.mark.parametrize("more", [{"overwrite": True}, {"retry_rejects": True}, {"vanished": "keep"}])
def test_what_is_for_the_whole_is_refused(more: dict[str, Any], rows: Path, tmp_path: Path, plain_head: Path) -> None:
    with pytest.raises(BeholderError, match="without --part"):
        run(rows, tmp_path / "out", plain_head, part="0/2", **more)


@pytest.mark.slow
def test_the_job_file_of_the_docs_under_a_stand_in_for_the_scheduler(rows: Path, tmp_path: Path, plain_head: Path) -> None:
    """`srun` runs what follows; each task has the variables that SLURM sets. SLURM itself was not there."""
    page = (Path(__file__).parents[2] / "docs" / "scale.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) if "srun" in block]
    job, afterwards = (block.replace("-o ", f"--head {plain_head} --shard-rows 10 -o ") for block in blocks)
    assert "#SBATCH --array=0-63\n" in job
    shims = tmp_path / "shims"
    shims.mkdir()
    for name, line in (("srun", '"$@"'), ("beholder", f'{sys.executable} -m beholder "$@"')):
        (shims / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (shims / name).chmod(0o755)
    run(rows, tmp_path / "whole" / "out.parquet", plain_head)
    settings = {"PATH": f"{shims}:{os.environ['PATH']}", "SOURCES": str(rows), "OUT": str(tmp_path / "out.parquet")}
    settings |= {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "0"}
    for task in (2, 0):  # one was never run
        done = subprocess.run(
            ["bash", "-c", job],
            env={**os.environ, **settings, "SLURM_ARRAY_TASK_ID": str(task)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert f"part {task} of 3" in done.stdout
    done = subprocess.run(["bash", "-c", afterwards], env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr  # some are rejected
    check_same(tmp_path / "whole" / "out.parquet", tmp_path / "out.parquet")
