"""Jobs on a Ray cluster of three nodes on this machine: the bytes of a local run, whatever dies on the way."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder.errors import BeholderError, InputError
from beholder.scoring.options import ScoreOptions
from beholder.scoring.ray_engine import resources_of
from beholder.scoring.score import embed, score
from beholder.scoring.summary import RunSummary
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.program import Forked
from oracles.ray_nodes import NODE, actor_processes, cluster_of
from oracles.result_bytes import check_same
from oracles.tar_making import tar

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Three nodes of four logical processors."""
    with cluster_of(3) as made:
        yield made


def on_ray(cluster: Any, **more: Any) -> dict[str, Any]:
    return {"engine": "ray", "address": cluster.address, "device": "auto", **more}


def write_tars(folder: Path, num_tars: int, each: int) -> Path:
    folder.mkdir()
    for number in range(num_tars):
        members = [
            (f"{at:03}.jpg", b"none" if at % 23 == 7 else picture_bytes(1000 * number + at)) for at in range(each + number % 3)
        ]
        (folder / f"{number:03}.tar").write_bytes(tar(members))
    return folder


def write_rows(folder: Path, num_files: int, num_rows: int) -> Path:
    folder.mkdir()
    for number in range(num_files):
        rows = np.random.default_rng(number).standard_normal((num_rows, 24)).astype(np.float32)
        rows[3] = np.nan
        np.save(folder / f"e{number}.npy", rows)
    return folder


def score_rows(rows: Path, out: Path, head: Path, **more: Any) -> RunSummary:
    return score(ScoreOptions(sources=(str(rows),), out=str(out), heads=(str(head),), shard_rows=200, **more))


def test_everything_is_what_a_local_run_writes(cluster: Any, tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    tars = write_tars(tmp_path / "tars", 9, 20)
    here, there = tmp_path / "here" / "o.parquet", tmp_path / "there" / "o.parquet"
    alone = score(score_options((str(tars),), here, small_tower, plain_head, keep_embeddings=True))
    how = on_ray(cluster, workers=1)
    found = score(score_options((str(tars),), there, small_tower, plain_head, keep_embeddings=True, **how))
    assert (found.num_read, found.num_new, found.num_rejected, found.stats) == (
        alone.num_read, alone.num_read, alone.num_rejected, alone.stats
    )  # fmt: skip
    check_same(here, there)
    rows = write_rows(tmp_path / "rows", 5, 1000)
    score_rows(rows, tmp_path / "here" / "s.csv", plain_head)
    score_rows(rows, tmp_path / "there" / "s.csv", plain_head, engine="ray", address=cluster.address)
    check_same(tmp_path / "here" / "s.csv", tmp_path / "there" / "s.csv")


@pytest.mark.soak
@pytest.mark.parametrize("out", ["e", "e.parquet"])
def test_embeddings_are_what_a_local_run_writes(cluster: Any, tmp_path: Path, small_tower: Path, out: str) -> None:
    tars = write_tars(tmp_path / "tars", 9, 20)
    embed(embed_options((str(tars),), tmp_path / "here" / out, small_tower))
    embed(embed_options((str(tars),), tmp_path / "there" / out, small_tower, **on_ray(cluster, actors=2)))
    check_same(tmp_path / "here" / out, tmp_path / "there" / out)


def test_begun_on_two_devices_continued_on_ray_finished_as_a_part(
    cluster: Any, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    tars = write_tars(tmp_path / "tars", 12, 12)
    whole, out = tmp_path / "whole", tmp_path / "out"
    score(score_options((str(tars),), whole, small_tower, plain_head))
    sources = [str(tars)]
    line = ["score", *sources, "-o", str(out), "--backbone", str(small_tower), "--head", str(plain_head), "--precision", "fp32"]
    hows = [["--devices", "cpu:2", "-j", "0"], ["--engine", "ray", "--address", cluster.address, "--actors", "2", "-j", "0"]]
    for how, wanted in zip(hows, (3, 7), strict=True):
        running = Forked(["-m", "beholder", *line, *how], env=dict(os.environ), text=True, stderr=subprocess.DEVNULL)
        kill_when(running, lambda wanted=wanted: num_done(out) >= wanted)  # type: ignore[misc]
    assert 7 <= num_done(out) < 12
    last = score(score_options(tuple(sources), out, small_tower, plain_head, part="0/1"))
    assert last.num_new > 0
    assert score(score_options(tuple(sources), out, small_tower, plain_head)).num_new == 0
    check_same(whole, out)


def num_done(out: Path) -> int:
    return len(list((out / "done").glob("*.json")))


def kill_when(running: Forked, is_time: Callable[[], bool]) -> None:
    until = time.monotonic() + 100
    while running.poll() is None and not is_time() and time.monotonic() < until:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait(30)


def test_actors_and_a_node_that_die_cost_nothing(cluster: Any, tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    tars = write_tars(tmp_path / "tars", 24, 12)
    whole, out = tmp_path / "whole", tmp_path / "out"
    alone = score(score_options((str(tars),), whole, small_tower, plain_head))
    extra = cluster.add_node(**NODE)
    killed: list[int] = []

    def kill() -> None:
        chance = random.Random(4)
        for count in (4, 8, 12):
            while num_done(out) < count:
                time.sleep(0.02)
            victims = [number for number in actor_processes() if number not in killed]
            if victims:
                killed.append(chance.choice(victims))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)
        cluster.remove_node(extra, allow_graceful=False)

    killing = threading.Thread(target=kill, daemon=True)
    killing.start()
    found = score(score_options((str(tars),), out, small_tower, plain_head, **on_ray(cluster, actors=4, workers=0)))
    killing.join(60)
    assert killed
    assert (found.num_read, found.num_new, found.num_rejected) == (alone.num_read, alone.num_read, alone.num_rejected)
    check_same(whole, out)


def one_line(work: Callable[[], Any]) -> str:
    with pytest.raises(BeholderError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_node_that_sees_other_inputs_or_none_says_so(cluster: Any, tmp_path: Path, plain_head: Path) -> None:
    rows = write_rows(tmp_path / "rows", 2, 500)
    options = ScoreOptions(
        sources=(str(rows),), out=str(tmp_path / "out"), heads=(str(plain_head),), engine="ray", address=cluster.address
    )
    text = one_line(lambda: score(options, on_plan=lambda plan: (rows / "e1.npy").write_bytes(b"x" * 1000)))
    assert "node " in text
    assert f"sees another {rows}/e1.npy: 1,000 bytes, not" in text
    shutil.rmtree(rows)
    write_rows(rows, 2, 500)
    text = one_line(lambda: score(options, on_plan=lambda plan: (rows / "e0.npy").unlink()))
    assert "cannot see the input" in text


def test_another_version_on_a_node_is_one_line(cluster: Any, tmp_path: Path, plain_head: Path) -> None:
    import beholder

    copy = tmp_path / "other" / "beholder"
    shutil.copytree(Path(str(beholder.__file__)).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / "__init__.py").read_text()
    assert beholder.__version__ in text
    (copy / "__init__.py").write_text(text.replace(beholder.__version__, "9.9.9"))
    node = cluster.add_node(**NODE, resources={"old": 4}, env_vars={"PYTHONPATH": str(copy.parent)})
    try:
        rows = write_rows(tmp_path / "rows", 1, 50)
        how = {"engine": "ray", "address": cluster.address, "actors": 1, "actor_resources": "num_cpus=1,old=1"}
        text = one_line(lambda: score_rows(rows, tmp_path / "out", plain_head, **how))
        assert f"has beholder 9.9.9, this machine {beholder.__version__}; install the same on every node" in text
    finally:
        cluster.remove_node(node)


def test_a_node_without_the_program_is_one_line(cluster: Any, tmp_path: Path, plain_head: Path) -> None:
    stub = tmp_path / "none" / "beholder"
    stub.mkdir(parents=True)
    (stub / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'beholder'\")\n")
    node = cluster.add_node(**NODE, resources={"bare": 4}, env_vars={"PYTHONPATH": str(stub.parent)})
    try:
        rows = write_rows(tmp_path / "rows", 1, 50)
        how = {"engine": "ray", "address": cluster.address, "actors": 1, "actor_resources": "num_cpus=1,bare=1"}
        text = one_line(lambda: score_rows(rows, tmp_path / "out", plain_head, **how))
        assert "beholder is not installed there as it is here; install the same on every node" in text
    finally:
        cluster.remove_node(node)


def test_without_ray_or_a_cluster_it_is_one_line(tmp_path: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_rows(tmp_path / "rows", 1, 50)
    text = one_line(lambda: score_rows(rows, tmp_path / "out", plain_head, engine="ray", address="127.0.0.1:1"))
    assert text.startswith("--engine ray: no cluster at 127.0.0.1:1 (")
    assert "ray start --head" in text
    assert "RAY_AUTH_MODE=token" in text
    monkeypatch.setitem(sys.modules, "ray", None)
    text = one_line(lambda: score_rows(rows, tmp_path / "out", plain_head, engine="ray"))
    assert text == "--engine ray: Ray is not installed; pip install 'beholder[ray]'"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["gpu", "=1", "num_cpus=x", "num_cpus=1,,", "num_gpus=-1"])
def test_wrong_resources_are_one_line(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME=NUMBER"):
        resources_of(text)


def test_resources_by_name() -> None:
    assert resources_of("num_gpus=0.5, num_cpus=8,big=1") == {"num_gpus": 0.5, "num_cpus": 8.0, "big": 1.0}
    assert resources_of(None) == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"address": "auto"}, "--address has no effect without --engine ray"),
        ({"engine": "ray", "devices": "cpu:2"}, "name one"),
        ({"engine": "ray", "actors": 0}, "--actors must be at least 1"),
    ],
)
def test_flags_that_do_not_go_together(more: dict[str, Any], words: str, tmp_path: Path, plain_head: Path) -> None:
    assert words in one_line(lambda: score_rows(tmp_path, tmp_path / "out", plain_head, **more))
