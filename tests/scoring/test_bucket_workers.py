"""Several processes that write one run into a bucket: parts, devices, actors; the bytes of a local run, whoever dies."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from beholder.scoring.folder import RunFolder
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.bucket_jobs import local_files, make_arrays, stored, url, without_index
from oracles.picture_jobs import picture_bytes, score_options
from oracles.program import Forked, beholder, start
from oracles.ray_nodes import NODE, actor_processes
from oracles.s3 import BUCKET
from oracles.tar_making import tar

pytestmark = pytest.mark.slow

NUM_TARS = 12


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


def left_behind(scratch: Path) -> list[str]:
    """What runs have left of shards' files, of workers as well."""
    return [path.name for path in scratch.rglob("beholder-shard-*")]


def check_same(client: Any, name: str, local: Path) -> None:
    """What stands in the bucket is, to the byte, what the local run of that name wrote, but for the index of a run."""
    found = without_index(stored(client, name), f"{name}/")
    expected = without_index(local_files(local, name), f"{name}/")
    beside = {f"{name}.inputs", f"{name}.beholder.json", f"{name}/beholder.json"}
    assert sorted(found) == sorted(expected)
    assert [key for key in found if key not in beside and found[key] != expected[key]] == []


def make_tars(folder: Path, num_tars: int, each: int) -> Path:
    folder.mkdir()
    for number in range(num_tars):
        members = [
            (f"{at:03}.jpg", b"none" if at % 13 == 7 else picture_bytes(100 * number + at)) for at in range(each + number % 3)
        ]
        (folder / f"{number:03}.tar").write_bytes(tar(members))
    return folder


@pytest.mark.parametrize("suffix", ["", pytest.param(".parquet", marks=pytest.mark.soak)])
def test_all_parts_at_once(tmp_path: Path, s3: Any, small_head: Path, scratch: Path, suffix: str) -> None:
    source = make_arrays(tmp_path / "in")
    (tmp_path / "local").mkdir()
    options = ScoreOptions(
        sources=(str(source),), out=str(tmp_path / "local" / f"out{suffix}"), heads=(str(small_head),), shard_rows=7
    )
    score(options)
    line = ["score", str(source), "-o", url(f"out{suffix}"), "--head", str(small_head), "--shard-rows", "7"]
    how: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [start(*line, "--part", f"{number}/4", **how) for number in range(4)]
    for number, one in enumerate(running):
        said, errors = one.communicate(timeout=200)
        assert one.returncode == 0, errors
        assert f"part {number} of 4" in said
    ended = beholder(*line)
    assert ended.returncode == 3, ended.stderr
    check_same(s3, f"out{suffix}", tmp_path / "local")
    assert left_behind(scratch) == []


def test_a_part_that_works_keeps_a_run_of_the_whole_out_and_no_other_part(tmp_path: Path, s3: Any, small_head: Path) -> None:
    source = make_arrays(tmp_path / "in")
    line = ["score", str(source), "-o", url("out"), "--head", str(small_head), "--shard-rows", "20"]
    with RunFolder(url("out")).locked(is_shared=True):
        assert beholder(*line, "--part", "0/2").returncode == 0
        refused = beholder(*line)
        assert refused.returncode == 1
        assert f"another run is writing {url('out')} (process {os.getpid()} of " in refused.stderr
    with RunFolder(url("out")).locked():
        refused = beholder(*line, "--part", "1/2")
        assert refused.returncode == 1
        assert f"another run is writing {url('out')} (process {os.getpid()} of " in refused.stderr
    assert beholder(*line).returncode == 3
    assert not [key for key in stored(s3, "out/") if ".parts" in key or ".lease" in key]


@pytest.mark.parametrize("suffix", [pytest.param("", marks=pytest.mark.soak), ".parquet"])
def test_two_devices(tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, scratch: Path, suffix: str) -> None:
    tars = make_tars(tmp_path / "tars", 5, 8)
    (tmp_path / "local").mkdir()
    local = str(tmp_path / "local" / f"out{suffix}")
    options = score_options((str(tars),), local, small_tower, plain_head, keep_embeddings=True)
    alone = score(options)
    how: dict[str, Any] = {"keep_embeddings": True, "device": "auto", "devices": "cpu:2"}
    found = score(score_options((str(tars),), url(f"out{suffix}"), small_tower, plain_head, **how))
    assert (found.num_read, found.num_new, found.stats) == (alone.num_read, alone.num_read, alone.stats)
    check_same(s3, f"out{suffix}", tmp_path / "local")
    assert left_behind(scratch) == []


def num_done(client: Any) -> int:
    found = client.list_objects_v2(Bucket=BUCKET, Prefix="out/done/").get("Contents", ())
    return sum(entry["Key"].endswith(".json") for entry in found)


@pytest.mark.parametrize("deaths_after", [(), pytest.param((2, 5), marks=pytest.mark.soak)])
def test_the_driver_actors_and_a_node_die_while_ray_writes_into_the_bucket(
    tmp_path: Path, s3: Any, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch, deaths_after: tuple[int, ...]
) -> None:
    """The driver alone, or an actor each time that so many shards are done, then a node, then the driver."""
    from ray.cluster_utils import Cluster

    monkeypatch.delenv("TMPDIR")  # Ray's sockets need a short path
    tars = make_tars(tmp_path / "tars", NUM_TARS, 8)
    (tmp_path / "local").mkdir()
    alone = score(score_options((str(tars),), tmp_path / "local" / "out", small_tower, plain_head))
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        extra = cluster.add_node(**NODE) if deaths_after else None
        cluster.wait_for_nodes()
        chance, killed = random.Random(5), []
        line = ["score", str(tars), "-o", url("out"), "--backbone", str(small_tower), "--head", str(plain_head)]
        line += ["--precision", "fp32", "-j", "0", "--engine", "ray", "--address", cluster.address, "--actors", "2"]
        driver = Forked(["-m", "beholder", *line], env=dict(os.environ), text=True, stderr=subprocess.DEVNULL)
        for count in deaths_after or (2,):
            until = time.monotonic() + 100
            while num_done(s3) < count and time.monotonic() < until:
                time.sleep(0.05)
            if deaths_after and (victims := actor_processes()):
                killed.append(chance.choice(victims))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
        if extra is not None:
            cluster.remove_node(extra, allow_graceful=False)
        driver.send_signal(signal.SIGKILL)
        driver.wait(30)
        assert bool(killed) == bool(deaths_after)
        before = num_done(s3)
        assert before < NUM_TARS
        last = beholder(*line, "--json")
        assert last.returncode == 3, last.stderr
        assert num_done(s3) == NUM_TARS
        found = score(score_options((str(tars),), url("out"), small_tower, plain_head))
        assert (found.num_new, found.num_read, found.stats) == (0, alone.num_read, alone.stats)
    finally:
        cluster.shutdown()
    check_same(s3, "out", tmp_path / "local")
