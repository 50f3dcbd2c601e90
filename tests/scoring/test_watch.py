"""`--log-json`, `--metrics` and `run.json`: what a run tells of itself, in every engine and through kills."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from beholder import BeholderError
from beholder.errors import OutputError
from beholder.io import records
from beholder.notices import told_to
from beholder.scoring.options import ScoreOptions
from beholder.scoring.run_log import METRICS, RunLog
from beholder.scoring.score import embed, score
from oracles.picture_jobs import embed_options, picture_bytes, score_options
from oracles.processes import children_of
from oracles.program import beholder, start
from oracles.result_bytes import check_same

NUM_ROWS, SHARD_ROWS = 100, 20
PAGE = Path(__file__).parents[2] / "docs" / "formats.md"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two files of a hundred rows, of which two are rejected: ten shards of 20."""
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(2):
        made = np.random.default_rng(number).standard_normal((NUM_ROWS, 24)).astype(np.float32)
        made[2], made[50] = np.nan, 0
        np.save(folder / f"e{number}.npy", made)
    return folder


def job(rows: Path, out: Path, head: Path, **more: Any) -> ScoreOptions:
    return ScoreOptions(
        sources=(str(rows),), out=str(out), heads=(str(head),), shard_rows=SHARD_ROWS, num_threads=1, space_check="off",
        log_json=str(out.with_name("log.jsonl")), metrics=str(out.with_name("m.prom")), **more,
    )  # fmt: skip


def events(path: Path, run: int = -1) -> list[dict[str, Any]]:
    """The lines of one run in a log, of the last one unless told otherwise; every line is whole."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    names = list(dict.fromkeys(line["run"] for line in lines))
    return [line for line in lines if line["run"] == names[run]]


def of_kind(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [line for line in lines if line["event"] == kind]


def metrics_in(path: Path) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Name -> labels -> value, as Prometheus' own parser reads the file; type and help as `METRICS` has them."""
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus-client is not installed")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in parser.text_string_to_metric_families(path.read_text()):
        for sample in family.samples:
            assert METRICS[sample.name] == (family.type, family.documentation)
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {}), "a sample stands there twice"
            found[sample.name][labels] = sample.value
    return found


def check_log(lines: list[dict[str, Any]], *, workers: bool) -> None:
    """The events of an undisturbed run of the ten shards, with the numbers that they must have."""
    kinds = [line["event"] for line in lines]
    assert kinds[-1] == "run_ended"
    begun = of_kind(lines, "run_begun")[0]
    assert (begun["shards"], begun["shards_done"], begun["shards_pending"], begun["rows"]) == (10, 0, 10, 200)
    done = {line["shard"]: line for line in of_kind(lines, "shard_done")}
    assert len(done) == kinds.count("shard_done") == kinds.count("shard_begun") == 10
    assert sum(line["rows"] for line in done.values()) == 200
    assert sum(line["scored"] for line in done.values()) == 196
    assert done["e0-from-000000000000"]["reasons"] == {"nan": 1}
    assert done["e1-from-000000000040"]["reasons"] == {"zero_norm": 1}
    for name, line in done.items():
        at = next(number for number, one in enumerate(lines) if one["event"] == "shard_begun" and one["shard"] == name)
        assert lines[at]["worker"] == line["worker"]
        assert (line["worker"] is not None) == workers
        assert at < lines.index(line)
        then, now = (datetime.fromisoformat(one["time"]).timestamp() for one in (lines[at], line))
        assert line["seconds"] == pytest.approx(now - then, abs=0.1)
    times = [line["time"] for line in lines]
    assert times == sorted(times)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", one) for one in times)
    assert abs(datetime.fromisoformat(times[-1]).timestamp() - datetime.now(UTC).timestamp()) < 600
    ended = lines[-1]
    assert (ended["outcome"], ended["exit_status"]) == ("done", 3)
    assert (ended["summary"]["num_scored"], ended["summary"]["reasons"]) == (196, {"nan": 2, "zero_norm": 2})
    assert {"plan", "read", "score", "write"} <= ended["stage_seconds"].keys()


def check_metrics(path: Path, out: Path) -> None:
    """What the metrics of that run say at its end."""
    found = metrics_in(path)
    own = (("output", str(out)),)
    expected = {
        "beholder_run_finished": 1, "beholder_run_exit_status": 3, "beholder_job_shards": 10, "beholder_job_shards_done": 10,
        "beholder_job_rows": 200, "beholder_job_rows_done": 200, "beholder_shards_total": 10, "beholder_rows_total": 200,
        "beholder_shards_retried_total": 0, "beholder_worker_deaths_total": 0, "beholder_read_bytes_total": 200 * 24 * 4,
        "beholder_workers": 0, "beholder_shards_under_way": 0,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == {name: {own: value} for name, value in expected.items()}
    reasons = {dict(labels)["reason"]: value for labels, value in found["beholder_rejected_rows_total"].items()}
    assert reasons == {"nan": 2, "zero_norm": 2}
    stages = {dict(labels)["stage"] for labels in found["beholder_stage_seconds_total"]}
    assert {"plan", "read", "score", "write"} <= stages
    assert abs(found["beholder_last_success_timestamp_seconds"][own] - time.time()) < 600


@pytest.mark.parametrize("devices", [None, pytest.param("cpu:2", marks=pytest.mark.slow)])
def test_log_metrics_and_times_of_a_run(rows: Path, tmp_path: Path, small_head: Path, devices: str | None) -> None:
    out = tmp_path / "out"
    summary = score(job(rows, out, small_head, devices=devices))
    lines = events(tmp_path / "log.jsonl")
    check_log(lines, workers=devices is not None)
    check_metrics(tmp_path / "m.prom", out)
    assert sum(line["bytes_written"] for line in of_kind(lines, "shard_done")) == sum(
        path.stat().st_size for name in ("scores", "rejects") for path in (out / name).iterdir()
    )
    record = records.parse((out / "run.json").read_bytes())
    assert "sha256" in json.loads((out / "run.json").read_text())
    (run,) = record["runs"]
    assert (run["rows"], run["rows_new"], run["scored"], run["rejected"], run["shards_done"]) == (200, 200, 196, 4, 10)
    assert run["reasons"] == summary.reasons
    ended = lines[-1]["stage_seconds"]
    assert run["stage_seconds"] == pytest.approx(ended)
    if devices is None:  # one process: no stage took longer than the whole
        assert 0 < run["stage_seconds"]["plan"] + run["stage_seconds"]["read"] + run["stage_seconds"]["score"] < run["seconds"]
    else:
        assert [line["worker"] for line in of_kind(lines, "worker_started")] == run["workers"]
        assert len(run["workers"]) == 2
    assert len(pd.read_parquet(out / "scores")) == 196
    score(job(rows, out, small_head))
    assert records.parse((out / "run.json").read_bytes()) == record, "nothing was done"
    (begun,) = of_kind(events(tmp_path / "log.jsonl"), "run_begun")
    assert (begun["shards_done"], begun["shards_pending"], begun["rows_done"]) == (10, 0, 200)
    score(job(rows, out, small_head, overwrite=True))
    assert len(records.parse((out / "run.json").read_bytes())["runs"]) == 1


def test_one_file_has_no_record_of_times_and_tells_of_joining(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out.parquet"
    score(job(rows, out, small_head))
    assert not list(tmp_path.rglob("run.json"))
    assert events(tmp_path / "log.jsonl")[-1]["stage_seconds"]["join"] > 0
    score(job(rows, out, small_head))
    again = events(tmp_path / "log.jsonl")
    assert (of_kind(again, "run_begun")[0]["shards_pending"], of_kind(again, "run_begun")[0]["rows_done"]) == (0, 200)
    assert again[-1]["exit_status"] == 3
    found = metrics_in(tmp_path / "m.prom")
    assert [list(found[f"beholder_job_{name}"].values()) for name in ("rows", "rows_done", "shards_done")] == [
        [200],
        [200],
        [10],
    ]


def test_each_part_has_files_of_its_own(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out, whole = tmp_path / "out", tmp_path / "whole" / "out"
    whole.parent.mkdir()
    score(job(rows, whole, small_head))
    for number in range(3):
        score(job(rows, out, small_head, part=f"{number}/3"))
        lines = events(tmp_path / f"log.part-{number}-of-3.jsonl")
        assert of_kind(lines, "run_begun")[0]["part"] == f"{number}/3"
        assert lines[-1]["exit_status"] == 0
        found = metrics_in(tmp_path / f"m.part-{number}-of-3.prom")
        assert found["beholder_shards_total"] == {(("output", str(out)), ("part", f"{number}/3")): [4, 3, 3][number]}
        (run,) = records.parse((out / f"run.part-{number}-of-3.json").read_bytes())["runs"]
        assert (run["part"], run["shards_done"]) == (f"{number}/3", [4, 3, 3][number])
    score(job(rows, out, small_head))
    check_same(out, whole)
    lines = events(tmp_path / "log.jsonl")
    assert (of_kind(lines, "run_begun")[0]["shards_pending"], lines[-1]["summary"]["num_read"]) == (0, 200)
    score(job(rows, out, small_head, overwrite=True))
    assert sorted(path.name for path in out.glob("run*")) == ["run.json"]


def test_pictures_and_their_embeddings_as_a_source(tmp_path: Path, small_tower: Path, plain_head: Path) -> None:
    photos, log = tmp_path / "photos", tmp_path / "log.jsonl"
    photos.mkdir()
    for number in range(7):
        (photos / f"{number}.png").write_bytes(picture_bytes(number, "PNG") if number != 3 else b"no picture")
    embed(embed_options(str(photos), tmp_path / "e", small_tower, shard_rows=3, log_json=str(log)))
    lines = events(log)
    assert [line["rows"] for line in of_kind(lines, "shard_done")] == [3, 3, 1]
    assert lines[-1]["stage_seconds"].keys() == {"plan", "decode", "tower", "write"}
    (run,) = records.parse((tmp_path / "e" / "run.json").read_bytes())["runs"]
    assert (run["command"], run["rows"], run["reasons"]) == ("embed", 7, {"not_an_image": 1})
    assert run["hardware"]["device"]
    found = score(ScoreOptions(sources=(str(tmp_path / "e"),), out=str(tmp_path / "s"), heads=(str(plain_head),)))
    assert (found.num_read, found.num_scored) == (6, 6), "the record of times is no source"
    more = score(score_options(str(tmp_path), tmp_path / "all" / "out", small_tower, plain_head))
    assert more.num_read == 7


def test_a_run_that_is_killed_and_continued_tells_it(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out, log, prom = tmp_path / "out", tmp_path / "log.jsonl", tmp_path / "m.prom"
    line = ["score", str(rows), "-o", str(out), "--head", str(small_head), "--shard-rows", "20", "--threads", "1"]
    line += ["--space-check", "off", "--log-json", str(log), "--metrics", str(prom)]
    crash = os.environ | {"BEHOLDER_CRASH_AT": "shard e0-from-000000000060 written"}
    assert beholder(*line, env=crash).returncode not in (0, 3)
    first = events(log)
    assert first[-1]["event"] != "run_ended"
    num_done = len(of_kind(first, "shard_done"))
    assert 3 <= num_done < 10
    before = metrics_in(prom)
    assert list(before["beholder_run_finished"].values()) == [0]
    with log.open("a") as file:  # cut off in the middle of a line
        file.write('{"time": "2026')
    assert beholder(*line).returncode == 3
    texts = log.read_text().splitlines()
    assert texts.count('{"time": "2026') == 1
    log.write_text("\n".join(text for text in texts if text != '{"time": "2026') + "\n")
    second = events(log)
    begun = of_kind(second, "run_begun")[0]
    assert begun["shards_done"] == 10 - begun["shards_pending"] >= num_done
    done = Counter(one["shard"] for one in of_kind(first, "shard_done") + of_kind(second, "shard_done"))
    assert len(of_kind(second, "shard_done")) == begun["shards_pending"]
    assert max(done.values()) == 1
    assert second[-1]["summary"]["num_read"] == 200
    after = metrics_in(prom)
    assert list(after["beholder_job_shards_done"].values()) == [10]
    assert list(after["beholder_shards_total"].values()) == [begun["shards_pending"]]


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_says_so(rows: Path, tmp_path: Path, small_head: Path, number: signal.Signals) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    line = ["score", str(rows), "-o", str(out), "--head", str(small_head), "--shard-rows", "1", "--threads", "1"]
    running = start(*line, "--space-check", "off", "--log-json", str(log), "--metrics", str(tmp_path / "m.prom"), "-q")
    while not (log.exists() and "shard_done" in log.read_text()) and running.poll() is None:
        time.sleep(0.002)
    running.send_signal(number)
    assert running.wait(60) == 128 + number
    ended = events(log)[-1]
    assert (ended["event"], ended["outcome"], ended["exit_status"]) == ("run_ended", "interrupted", 128 + number)
    assert ended["error"] == f"interrupted ({number.name})"
    assert "summary" not in ended
    found = metrics_in(tmp_path / "m.prom")
    assert list(found["beholder_run_exit_status"].values()) == [128 + number]
    assert "beholder_last_success_timestamp_seconds" not in found


@pytest.mark.slow
def test_a_worker_that_dies_is_told_with_its_shard(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log.jsonl"
    is_killed, others = [], set(children_of(os.getpid()))

    def kill(done: int, _: int) -> None:
        if not is_killed:
            is_killed.append(True)
            begun = set(children_of(os.getpid())) - others
            victim = next(pid for pid in begun if b"beholder" in Path(f"/proc/{pid}/cmdline").read_bytes())
            os.kill(victim, signal.SIGKILL)

    score(job(rows, out, small_head, devices="cpu:2"), on_progress=kill)
    lines = events(log)
    (died,) = of_kind(lines, "worker_died")
    assert died["replaced"]
    assert "signal 9" in died["why"] or "SIGKILL" in died["why"] or "killed" in died["why"]
    retried = of_kind(lines, "shard_retried")
    assert {line["worker"] for line in retried} <= {died["worker"]}
    assert len(of_kind(lines, "shard_begun")) == 10 + len(retried)
    assert len({line["shard"] for line in of_kind(lines, "shard_done")}) == 10
    assert [line for line in of_kind(lines, "notice") if "another one is started in its place" in line["text"]]
    found = metrics_in(tmp_path / "m.prom")
    assert list(found["beholder_worker_deaths_total"].values()) == [1]
    assert list(found["beholder_shards_retried_total"].values()) == [len(retried)]


def test_a_damaged_shard_is_told_as_begun_again(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    score(job(rows, out, small_head))
    (out / "scores" / "e0-from-000000000020.parquet").unlink()
    score(job(rows, out, small_head))
    (again,) = of_kind(events(tmp_path / "log.jsonl"), "shard_retried")
    assert (again["shard"], again["why"]) == ("e0-from-000000000020", "it was damaged, or lacked a file")
    assert len(records.parse((out / "run.json").read_bytes())["runs"]) == 2


def test_a_full_disk_costs_the_log_and_one_warning(rows: Path, tmp_path: Path, small_head: Path) -> None:
    """/dev/full takes nothing; a device is no file that could be somebody else's."""
    out = tmp_path / "out"
    line = ["score", str(rows), "-o", str(out), "--head", str(small_head), "--space-check", "off"]
    ended = beholder(*line, "--log-json", "/dev/full")
    assert ended.returncode == 3
    assert ended.stderr.count("the log /dev/full cannot be written, and the run goes on without it: the disk is full") == 1


def test_lines_that_were_lost_are_counted(tmp_path: Path) -> None:
    """No file may grow for a while, as on a disk that is full and then is not."""
    path, said = tmp_path / "log.jsonl", []
    line = {"time": "t", "run": "r", "event": "e"}
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    log = RunLog(str(path))
    log.open()
    log.write(line)
    try:
        with told_to(said.append):
            resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
            log.write(line)
            log.write(line)
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            log.write(line)
            log.write(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    log.close()
    assert len(said) == 1
    assert "the file would grow past the size limit of this system" in said[0]
    whole = json.dumps(line)
    assert path.read_text().splitlines() == [whole, whole[:10], json.dumps({**line, "lines_lost": 2}), whole]


def test_a_pipe_needs_a_reader_and_is_never_waited_for(tmp_path: Path) -> None:
    path, said = tmp_path / "pipe", []
    os.mkfifo(path)
    with pytest.raises(OutputError, match="is a pipe that nobody reads"):
        RunLog(str(path)).open()
    log, line = RunLog(str(path)), {"time": "t", "run": "r", "event": "e" * 4000}
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    log.open()
    with told_to(said.append):
        for _ in range(100):  # 400 kB, and a pipe holds 64
            log.write(line)
    log.close()
    read = b"".join(iter(lambda: os.read(reader, 1 << 20), b""))
    os.close(reader)
    assert read.startswith(json.dumps(line).encode() + b"\n")
    assert len(said) == 1


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--log-json", "OUT/log.jsonl"], "would lie in the result"),
        (["--metrics", "OUT"], "would lie in the result"),
        (["--log-json", "s3://bucket/log"], "name a file of this machine"),
        (["--log-json", "IN/e0.npy"], "is no log of beholder; choose another name"),
        (["--metrics", "IN/e0.npy"], "holds no metrics of beholder; choose another name"),
        (["--log-json", "IN"], "is a folder; name a file"),
        (["--metrics", "/dev/null"], "is no plain file"),
        (["--log-json", "IN/same", "--metrics", "IN/same"], "name the same file; name two"),
        (["--log-json", "/proc/nowhere/log"], "cannot write /proc/nowhere/log"),
        (["--log-json", ""], "one of the names given is empty"),
    ],
)
def test_files_that_cannot_be_are_refused_and_nothing_is_touched(
    rows: Path, tmp_path: Path, small_head: Path, flags: list[str], said: str
) -> None:
    before = (rows / "e0.npy").read_bytes()
    flags = [flag.replace("OUT", str(tmp_path / "out")).replace("IN", str(rows)) for flag in flags]
    ended = beholder("score", str(rows), "-o", str(tmp_path / "out"), "--head", str(small_head), "--space-check", "off", *flags)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert said in ended.stderr.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["e0.npy", "e1.npy", "rows"]
    assert (rows / "e0.npy").read_bytes() == before


def test_a_run_that_fails_before_it_begins(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("no run")
    with pytest.raises(BeholderError, match="is not a beholder run"):
        score(job(rows, out, small_head))
    ended = events(tmp_path / "log.jsonl")[-1]
    assert (ended["outcome"], ended["exit_status"]) == ("failed", 1)
    assert "is not a beholder run" in ended["error"]
    found = metrics_in(tmp_path / "m.prom")
    assert list(found["beholder_run_exit_status"].values()) == [1]
    assert sorted(path.name for path in out.iterdir()) == ["mine.txt"]


def test_the_last_success_stays_and_odd_names_are_escaped(rows: Path, tmp_path: Path, small_head: Path) -> None:
    out = tmp_path / 'o"u\\t {x="1"}é'
    score(job(rows, out, small_head))
    own = (("output", str(out)),)
    first = metrics_in(tmp_path / "m.prom")["beholder_last_success_timestamp_seconds"][own]
    (rows / "e0.npy").write_bytes(b"no array")
    with pytest.raises(BeholderError):
        score(job(rows, out, small_head))
    found = metrics_in(tmp_path / "m.prom")
    assert found["beholder_last_success_timestamp_seconds"] == {own: first}
    assert found["beholder_run_exit_status"] == {own: 1}
    assert not list(tmp_path.glob(".beholder-*"))


def test_the_page_has_every_metric_and_event(rows: Path, tmp_path: Path, small_head: Path) -> None:
    text = PAGE.read_text(encoding="utf-8").split("## What a run tells of itself", 1)[1]
    listed = re.findall(r"^\| `(beholder_\w+)` \| (counter|gauge) \|", text, re.MULTILINE)
    assert listed == [(name, kind) for name, (kind, _) in METRICS.items()]
    source = "".join((Path(score.__code__.co_filename).with_name("watch.py")).read_text(encoding="utf-8"))
    told = set(re.findall(r'_tell\(\s*"(\w+)"', source))
    assert told | {"event"} == set(re.findall(r"^\| `([a-z_]+)` \|", text.split("### Metrics")[0], re.MULTILINE))


@pytest.mark.slow
def test_metrics_are_replaced_while_it_runs(rows: Path, tmp_path: Path, small_head: Path) -> None:
    seen: list[float] = []

    def slowly(done: int, _: int) -> None:
        if not seen or seen[-1] == 0:
            time.sleep(1.5)
        seen.extend(metrics_in(tmp_path / "m.prom")["beholder_rows_total"].values())

    score(job(rows, tmp_path / "out", small_head), on_progress=slowly)
    assert seen == sorted(seen)
    assert 0 < seen[-1] < 200


@pytest.mark.slow
def test_on_a_ray_cluster(rows: Path, tmp_path: Path, small_head: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "out"
    score(job(rows, out, small_head, engine="ray", address="local", actors=2, actor_resources="num_cpus=1"))
    check_log(events(tmp_path / "log.jsonl"), workers=True)
    check_metrics(tmp_path / "m.prom", out)
    (run,) = records.parse((out / "run.json").read_bytes())["runs"]
    assert all(re.fullmatch(r"node .*, process \d+", name) for name in run["workers"])
