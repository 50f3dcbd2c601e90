"""Damage to what says who works where and what was done: journals of acts, locks, leases, files of parts of a run."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from beholder import BeholderError
from beholder.scoring import lock
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles import damaged_journals
from oracles.bucket_jobs import make_arrays, stored, url
from oracles.damaged_runs import DAMAGES, interrupted
from oracles.fault_table import FaultTable, compare, rows_of
from oracles.program import python
from oracles.s3 import BUCKET
from oracles.tiers import sizes


@sizes("quick", "soak")
def test_no_damage_to_a_journal_has_a_wrong_end(tmp_path: Path, fault_table: FaultTable, num_faults: int) -> None:
    """Acts are taken back by damaged journals: the damage is noticed, or does no harm."""
    num = len(damaged_journals.DAMAGES) * (4 if num_faults == 1 else num_faults)
    ran = python(damaged_journals.__file__, str(tmp_path / "work"), str(num), "11")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in ran.stdout.splitlines()[: len(damaged_journals.DAMAGES)]:
        words = line.split()
        damage, (injected, wrong) = " ".join(words[:-8]), (int(words[-8]), int(words[-2]))
        fault_table.record(f"journals of acts: {damage}", injected=injected, lost=0, doubled=0, wrong=wrong)


def job(source: Path, out: Path | str, head: Path) -> ScoreOptions:
    return ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),), shard_rows=20, num_threads=1)


def gone_holder(**changes: Any) -> bytes:
    """What a run that was killed has left in its lock or lease: a process that is no more."""
    return json.dumps(json.loads(lock.Holder.here(20).data()) | {"started": 1, "token": "x", **changes}).encode()


OTHERS: list[Callable[[random.Random], bytes]] = [
    lambda rng: b"",
    lambda rng: bytes(512),
    lambda rng: rng.randbytes(300),
    lambda rng: gone_holder()[: rng.randrange(1, 100)],
    lambda rng: gone_holder(pid=-1),
    lambda rng: gone_holder(interval_s="soon"),
]
"""What stands in a lock after damage."""


@sizes("quick", "soak")
@pytest.mark.parametrize("name", [lock.LOCK_FILE, f"{lock.PARTS_FOLDER}/0123456789abcdef"])
def test_damaged_locks_of_runs_that_are_gone_keep_nobody_out(
    tmp_path: Path, small_head: Path, fault_table: FaultTable, num_faults: int, name: str
) -> None:
    source, rng = make_arrays(tmp_path / "in"), random.Random(name)
    score(job(source, tmp_path / "calm", small_head))
    expected = rows_of(tmp_path / "calm")
    options = job(source, tmp_path / "out", small_head)
    interrupted(lambda out, **more: score(options, **more), tmp_path / "out", 60)
    shutil.copytree(tmp_path / "out", tmp_path / "half")
    for make in OTHERS:
        for _ in range(num_faults):
            shutil.rmtree(tmp_path / "out")
            shutil.copytree(tmp_path / "half", tmp_path / "out")
            (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "out" / name).write_bytes(make(rng))
            score(options)
            fault_table.compared("damaged locks", expected, tmp_path / "out")


def test_a_damaged_lease_in_a_bucket_is_waited_for_and_said(tmp_path: Path, s3: Any, small_head: Path) -> None:
    """Nobody knows whose it is, so it counts as another machine's; one that is whole tells that its process has ended."""
    source, rng = make_arrays(tmp_path / "in"), random.Random(4)
    options = job(source, url("out"), small_head)
    for make in OTHERS[:4]:
        s3.put_object(Bucket=BUCKET, Key="out/.lease", Body=make(rng))
        with pytest.raises(BeholderError, match=r"another run is writing s3://data/out.*this works \d+ s after its last sign"):
            score(options)
        assert set(stored(s3)) == {"out/.lease"}
    s3.put_object(Bucket=BUCKET, Key="out/.lease", Body=gone_holder())
    assert score(options).num_read == 90
    assert "out/.lease" not in stored(s3)


@sizes("slow", "soak")
def test_damage_in_a_bucket_is_mended_by_the_same_command(
    tmp_path: Path, s3: Any, small_head: Path, fault_table: FaultTable, num_faults: int
) -> None:
    """Shards, markers, the index: what is there afterwards is what an undisturbed run puts there."""
    source, rng = make_arrays(tmp_path / "in"), random.Random(5)
    score(job(source, tmp_path / "calm", small_head))
    expected = rows_of(tmp_path / "calm")
    options = job(source, url("out"), small_head)
    score(options)
    whole = {key: data for key, data in stored(s3).items() if not key.endswith(("beholder.json", "run.json"))}
    for damage, spoil in DAMAGES.items():
        for _ in range(num_faults):
            files = _as_files(tmp_path / "files", whole)
            before = {path: path.read_bytes() for path in files}
            spoil(rng.choice(files), files, rng)
            for path, data in before.items():
                key = path.relative_to(tmp_path / "files").as_posix()
                if not path.exists():
                    s3.delete_object(Bucket=BUCKET, Key=key)
                elif path.read_bytes() != data:
                    s3.put_object(Bucket=BUCKET, Key=key, Body=path.read_bytes())
            score(options)
            shutil.rmtree(tmp_path / "found", ignore_errors=True)
            _as_files(tmp_path / "found", stored(s3))
            found = compare(expected, rows_of(tmp_path / "found" / "out"))
            fault_table.record(f"results in a bucket: {damage}", injected=1, **found.counts())
            whole = {key: data for key, data in stored(s3).items() if not key.endswith(("beholder.json", "run.json"))}


def _as_files(folder: Path, files: dict[str, bytes]) -> list[Path]:
    shutil.rmtree(folder, ignore_errors=True)
    for key, data in files.items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
