"""Jobs on several devices: a process for each (here on the processor), the same bytes, whatever dies on the way."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import beholder
from beholder.errors import BeholderError, InputError
from beholder.scoring.devices import devices_of
from beholder.scoring.pictures import plan_pictures
from beholder.scoring.protocol import Failed, Job
from beholder.scoring.score import embed, score
from beholder.scoring.shards import fingerprint
from beholder.scoring.summary import RunSummary
from beholder.scoring.worker import ShardWorker
from oracles.picture_jobs import embed_options, picture_bytes, plain_scores, score_options
from oracles.processes import children_of, wait_until_gone
from oracles.program import beholder as program
from oracles.result_bytes import check_same
from oracles.tar_making import tar
from oracles.tiers import mostly_slow

NUM_TARS = 5


def write_inputs(folder: Path, names: range = range(NUM_TARS)) -> Path:
    """Tars of 3, 8, 13, ... pictures, and a folder with nine; some are no pictures."""
    (folder / "loose").mkdir(parents=True)
    for number in names:
        members = [(f"{at:03}.jpg", bytes_of(100 * number + at)) for at in range(3 + 5 * number)]
        (folder / f"{number:02}.tar").write_bytes(tar(members))
    for at in range(9):
        (folder / "loose" / f"p{at}.jpg").write_bytes(bytes_of(1000 + at))
    return folder


def bytes_of(seed: int) -> bytes:
    return b"no picture" if seed % 11 == 7 else picture_bytes(seed)


def sources_of(folder: Path) -> tuple[str, ...]:
    return (*sorted(map(str, folder.glob("*.tar"))), str(folder / "loose"))


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    return write_inputs(tmp_path / "in")


def run(inputs: Path, out: Path, tower: Path, head: Path, **more: Any) -> RunSummary:
    return score(score_options(sources_of(inputs), out, tower, head, shard_rows=4, **more))


def on_two(inputs: Path, out: Path, tower: Path, head: Path, **more: Any) -> RunSummary:
    return run(inputs, out, tower, head, device="auto", devices="cpu:2", **more)


@pytest.mark.parametrize("suffix", mostly_slow([".parquet", ""]))
def test_scores_and_kept_embeddings_are_the_same_bytes(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path, suffix: str
) -> None:
    one, two = (tmp_path / place / f"out{suffix}" for place in ("one", "two"))
    alone = run(inputs, one, small_tower, plain_head, keep_embeddings=True)
    before = set(children_of(os.getpid()))
    found = on_two(inputs, two, small_tower, plain_head, keep_embeddings=True)
    wait_until_gone(sorted(set(children_of(os.getpid())) - before), 10)
    check_same(one, two)
    assert not [path for path in all_files(one.parent) if other_bytes(path, one.parent, two.parent)]
    assert (found.num_read, found.num_scored, found.num_new) == (alone.num_read, alone.num_scored, alone.num_new)
    assert (found.reasons, found.stats, found.num_bytes) == (alone.reasons, alone.stats, alone.num_bytes)
    assert found.num_read == sum(3 + 5 * number for number in range(NUM_TARS)) + 9


def all_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not _is_of_one_run(path.name))


def _is_of_one_run(name: str) -> bool:
    """Records, the lock and segments of the index are other ones in each run."""
    return name in ("beholder.json", ".lock") or name.startswith("index-")


def other_bytes(path: Path, folder: Path, other: Path) -> bool:
    """Whether a file differs; records and what packs markers tell of processes and times."""
    there = other / path.relative_to(folder)
    return path.suffix not in (".json", ".zip") and there.read_bytes() != path.read_bytes()


@pytest.mark.slow
def test_scores_are_those_of_the_plain_way(inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    found = beholder.score(
        inputs / "loose", tmp_path / "out.parquet", backbone=small_tower, head=plain_head, devices="cpu:2", precision="fp32",
        shard_rows=2, workers=1,
    )  # fmt: skip
    table = found.scores()
    good = [f"p{at}.jpg" for at in range(9) if bytes_of(1000 + at) != b"no picture"]
    assert [name.rsplit("/", 1)[-1] for name in table.column("sample").to_pylist()] == good
    expected = plain_scores([str(inputs / "loose" / name) for name in good], small_tower, plain_head)
    np.testing.assert_allclose(table.column("aesthetic_score").to_numpy(), expected, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_embeddings_are_embedded_and_scored_as_by_one(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    places = [tmp_path / "one" / "e", tmp_path / "two" / "e"]
    for place, how in zip(places, ({}, {"device": "auto", "devices": "cpu:2"}), strict=True):
        embed(embed_options(sources_of(inputs), place, small_tower, shard_rows=4, **how))
        scored = {"device": "auto", **({"devices": "cpu:2"} if how else {})}
        score(beholder_options(place, place.with_name("s"), plain_head, **scored))
    assert not [path for path in all_files(places[0].parent) if other_bytes(path, places[0].parent, places[1].parent)]
    check_same(places[0], places[1])
    check_same(places[0].with_name("s"), places[1].with_name("s"))


def beholder_options(source: Path, out: Path, head: Path, **more: Any) -> Any:
    from beholder.scoring.options import ScoreOptions

    return ScoreOptions(sources=(str(source),), out=str(out), heads=(str(head),), shard_rows=5, **more)


@pytest.mark.slow
def test_what_has_changed_is_done_anew_and_told_as_by_one(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        run(inputs, out, small_tower, plain_head)
    (inputs / "loose" / "p1.jpg").write_bytes(picture_bytes(5, size=(50, 40)))
    (inputs / "loose" / "p2.jpg").unlink()
    (inputs / "loose" / "new.jpg").write_bytes(picture_bytes(6))
    (inputs / "00.tar").unlink()
    alone = run(inputs, outs[0], small_tower, plain_head, vanished="keep")
    found = on_two(inputs, outs[1], small_tower, plain_head, vanished="keep")
    names = ("num_read", "num_new", "num_changed", "num_vanished", "num_kept", "num_retried", "num_rejected")
    assert [getattr(found, name) for name in names] == [getattr(alone, name) for name in names]
    assert (found.num_changed, found.num_vanished) == (1, 4)
    check_same(*outs)


def line_of(inputs: Path, out: Path, tower: Path, head: Path, *more: str) -> list[str]:
    where = ["-o", str(out), "--backbone", str(tower), "--head", str(head), "--precision", "fp32", "-j", "0"]
    return ["score", *sources_of(inputs), *where, "--shard-rows", "4", *more]


@pytest.mark.slow
def test_processes_that_die_are_replaced_and_a_shard_they_die_over_is_left_out(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    run(inputs, whole, small_tower, plain_head)
    line = line_of(inputs, out, small_tower, plain_head, "--devices", "cpu:2")
    ended = program(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "shard 03 written"})
    assert ended.returncode == 1
    words = (
        "1 shard could not be done, over which 3 workers died (03: its process ended (exit status 137)); all others are done"
    )
    assert words in ended.stderr
    assert "another one is started in its place" in ended.stderr
    done = {path.stem for path in (out / "done").glob("*.json")}
    assert done == {path.stem for path in (whole / "done").glob("*.json")} - {"03"}
    again = program(*line, env=dict(os.environ))
    assert again.returncode == 3, again.stderr  # some are rejected
    check_same(whole, out)


@pytest.mark.soak
def test_with_every_third_shard_a_process_dies_and_nothing_is_lost(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    alone = run(inputs, whole, small_tower, plain_head)
    line = line_of(inputs, out, small_tower, plain_head, "--devices", "cpu:2", "--json")
    ended = program(*line, env={**os.environ, "BEHOLDER_CRASH_AT": "shard done:3"})
    assert ended.returncode == 3, ended.stderr
    said = json.loads(ended.stdout)
    assert (said["num_read"], said["num_new"], said["num_rejected"]) == (alone.num_read, alone.num_read, alone.num_rejected)
    check_same(whole, out)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("cpu", ["cpu"]),
        ("cpu:3", ["cpu"] * 3),
        ("0,1,3", ["cuda:0", "cuda:1", "cuda:3"]),
        ("cuda:2", ["cuda:2"]),
        ("mps", ["mps"]),
    ],
)
def test_devices_by_name(text: str, found: list[str]) -> None:
    assert devices_of(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'nothing' is no device"),
        ("gpu0", "'gpu0' is no device; say all, numbers of GPUs (0,1,3), or cpu:N"),
        ("0,,1", "is no device"),
        ("cpu:0", "is no device"),
        ("0,0", "a device is named twice"),
        ("0,cpu", "name one kind"),
        ("cpu:1000000", "at most 256 processes"),
    ],
)
def test_what_names_no_devices_is_refused(text: str, words: str) -> None:
    with pytest.raises(InputError) as caught:
        devices_of(text)
    assert words in str(caught.value)


def test_wrong_use_is_one_line(inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    rows = tmp_path / "rows.npy"
    np.save(rows, np.ones((20, 24), np.float32))
    for given, words in (
        ({"device": "cpu", "devices": "cpu:2"}, "name devices once"),
        ({"device": "auto", "devices": "cuda:97"}, "cuda:97"),
    ):
        with pytest.raises(BeholderError) as caught:
            run(inputs, tmp_path / "out", small_tower, plain_head, **given)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="embeddings are scored on the processor"):
        score(beholder_options(rows, tmp_path / "out", plain_head, devices="0,1"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_another_tower_at_the_second_look_ends_the_run(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tower is loaded once for the plan, and again by every process that comes later, such as in place of a dead one."""
    monkeypatch.setenv("BEHOLDER_CRASH_AT", "shard done:1")
    tower = tmp_path / "tower"
    shutil.copytree(small_tower.parent, tower)
    other = dict(load_file(small_tower))
    name = next(name for name in other if name.endswith("mlp.fc1.bias"))
    other[name] = other[name] + 1

    def change(_: Any) -> None:
        save_file(other, tower / small_tower.name)

    options = score_options(
        sources_of(inputs), tmp_path / "out", tower / small_tower.name, plain_head, device="auto", devices="cpu:2", shard_rows=2
    )
    with pytest.raises(InputError, match=r"has another tower, or another kind of device, than the first worker: sha256 was"):
        score(options, on_plan=change)


def test_a_worker_that_computes_otherwise_than_the_first_ends_the_run(
    inputs: Path, tmp_path: Path, small_tower: Path, plain_head: Path
) -> None:
    """Its embeddings would differ from the others' under one record."""
    options = score_options(sources_of(inputs), tmp_path / "out", small_tower, plain_head, device="cpu")
    plan = plan_pictures(options, str(tmp_path / "out"))
    recipe, step = plan.recipe, plan.step
    assert recipe.tower is not None
    for name, value, words in (
        ("compiled", True, "compiled was true, now it is false; --no-compile has all of them compute alike"),
        ("form", "other", 'form was "other", now it is "plain"'),
    ):
        tower = replace(recipe.tower, engine={**recipe.tower.engine, name: value})
        job = Job(
            recipe=replace(recipe, tower=tower), folder=str(tmp_path), fingerprint=fingerprint(step.options),
            options=dict(step.options), file_metadata=dict(step.file_metadata), columns=step.columns, earlier=None, done=[],
            retry=False,
        )  # fmt: skip
        said: list[Any] = []
        worker = ShardWorker(said.append, said.append)
        worker.open(options)
        worker.begin(job)
        assert isinstance(said[-1], Failed)
        assert str(said[-1].error).endswith(f"would compute the tower otherwise than the first worker: {words}")


def test_bad_input_that_one_process_meets_ends_the_run_in_one_line(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n" + "1,2\n" * 30)
    with pytest.raises(BeholderError) as caught:
        score(beholder_options(rows, tmp_path / "out", plain_head, devices="cpu:2"))
    assert "\n" not in str(caught.value)
