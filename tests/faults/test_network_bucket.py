"""Runs whose sources and results are in a bucket behind a network that delays, breaks off, refuses and loses answers."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from beholder import BeholderError
from beholder.cli.app import app
from beholder.io import remote, writing
from beholder.scoring.check import check_result
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles.bad_proxy import PASSING, BadProxy, Schedule, behind_a_bad_network
from oracles.bucket_jobs import stored, url
from oracles.fault_table import FaultTable, ManyKinds, Row, compare, rows_of
from oracles.picture_jobs import picture_bytes, score_options
from oracles.s3 import BUCKET, fill_bucket
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow, sized, sizes

ROWS = np.random.default_rng(5).standard_normal((90, 24)).astype(np.float32)
ROWS[[0, 40, 41]] = 0  # which are rejected
SILENCE_S = 1.0
"""How long the S3 client waits for a byte; where the network is silent, it is so for half as long again."""


@pytest.fixture
def network(s3_server: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[BadProxy]:
    """The network before the bucket, which does no harm until it is told; `s3`, a client of its own, is not behind it."""
    import s3fs

    fill_bucket(s3, _sources())
    with behind_a_bad_network(s3_server) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        monkeypatch.setattr(s3fs.S3FileSystem, "retries", 5)  # as they are outside of tests
        wait_for_a_byte(SILENCE_S, monkeypatch)
        yield proxy
        proxy.schedule = Schedule(kinds=())
        s3fs.S3FileSystem.clear_instance_cache()


def wait_for_a_byte(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the S3 client wait so long, and no longer."""
    import s3fs

    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": seconds, "connect_timeout": 2}})
    s3fs.S3FileSystem.clear_instance_cache()


def _sources() -> dict[str, bytes]:
    """What is scored: arrays, a table of vectors, a tar of pictures and pictures of their own, by their key."""
    files = {}
    for number, some in enumerate(np.array_split(ROWS, 3)):
        data = io.BytesIO()
        np.save(data, some)
        files[f"npy/e{number}.npy"] = data.getvalue()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 24)
    data = io.BytesIO()
    pq.write_table(pa.table({"sample": [f"r{at}" for at in range(90)], "embedding": vectors}), data, row_group_size=30)
    files["table/x.parquet"] = data.getvalue()
    files["tars/x.tar"] = tar([(f"{at:03d}.png", png(at, 30) if at != 3 else b"no picture") for at in range(8)])
    files |= {f"photos/p{at}.png": picture_bytes(at, "PNG") if at != 5 else b"no picture" for at in range(7)}
    return files


def job(name: str, out: str, tower: Path, small: Path, plain: Path, **more: Any) -> ScoreOptions:
    """A run over one of the sources in the bucket."""
    if name in ("arrays", "table"):
        source = url("npy" if name == "arrays" else "table/x.parquet")
        return ScoreOptions(sources=(source,), out=out, heads=(str(small),), num_threads=1, **{"shard_rows": 20, **more})
    source = url("tars/x.tar" if name == "tar" else "photos")
    pictures = score_options((source,), Path(), tower, plain, shard_rows=3, keep_embeddings=name == "tar", **more)
    return replace(pictures, out=out)


JOBS = {"arrays": "", "table": ".parquet", "tar": "", "photos": ".csv"}
"""What is scored, and how its result is named behind."""


def fetched(client: Any, name: str, folder: Path) -> Path:
    """A result in the bucket as local files."""
    for key, data in stored(client, name).items():
        (folder / key).parent.mkdir(parents=True, exist_ok=True)
        (folder / key).write_bytes(data)
    return folder / name


def strays(client: Any) -> list[str]:
    """What only a run that works has in the bucket: leases, half-written files, uploads that were not ended."""
    uploads = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    keys = [key for key in stored(client) if ".lease" in key or ".beholder-" in key or ".partial" in key]
    return keys + [one["Key"] for one in uploads]


@pytest.mark.parametrize(("name", "size"), sized(zip(JOBS), [("arrays",)], [("tar",)]))
def test_a_run_comes_through_what_passes(
    tmp_path: Path, network: BadProxy, s3: Any, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, num_faults: int, name: str,
) -> None:  # fmt: skip
    """Every request may fail once in any way but a refusal; it is made again, and the result is that of an undisturbed run."""
    models, suffix, harmed = (small_tower, small_head, plain_head), JOBS[name], ManyKinds()
    calm = score(job(name, str(tmp_path / f"calm{suffix}"), *models))
    expected = rows_of(tmp_path / f"calm{suffix}")
    for seed in itertools.count():
        network.schedule = schedule = Schedule(seed=seed, share=0.6, stall_s=1.5 * SILENCE_S)
        remote.forget_listings(url("x"))
        summary = score(job(name, url(f"out{seed}{suffix}"), *models))
        network.schedule = Schedule(kinds=())
        assert (summary.num_read, summary.num_scored) == (calm.num_read, calm.num_scored)
        found = rows_of(fetched(s3, f"out{seed}{suffix}", tmp_path / str(seed)))
        harmed.add(schedule.injected, compare(expected, found))
        if harmed.is_enough(PASSING, -(-num_faults // len(JOBS))):
            break
    assert strays(s3) == []
    harmed.record(fault_table, "network")


LASTING = ("500", "503 SlowDown", "403", "drop before", "lost answer", "cut body", "reset", "refuse", "stall")
FILES = ("arrays", "table")
SOME_KINDS = [
    ("500", "arrays"), ("503 SlowDown", "table"), ("403", "arrays"),
    ("lost answer", "table"), ("reset", "arrays"), ("stall", "table"),
]  # fmt: skip
"""Others are tried with a web server."""


@pytest.fixture
def kind() -> str:
    """What the network does."""
    return ""


@pytest.fixture
def impatient(network: BadProxy, monkeypatch: pytest.MonkeyPatch, kind: str) -> BadProxy:
    """The network, and a client that asks twice, not five times five times."""
    import s3fs

    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    wait_for_a_byte(SILENCE_S if kind == "stall" else 20, monkeypatch)
    return network


@pytest.mark.parametrize(("kind", "name", "size"), sized(itertools.product(LASTING, FILES), SOME_KINDS[:1], SOME_KINDS))
def test_what_lasts_ends_in_one_line_and_the_same_command_finishes_later(
    tmp_path: Path, impatient: BadProxy, s3: Any, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, num_faults: int, kind: str, name: str,
) -> None:  # fmt: skip
    """From some request on, each fails: nothing half-written stands as done, and nothing finished is done again."""
    models, suffix = (small_tower, small_head, plain_head), JOBS[name]
    score(job(name, str(tmp_path / f"calm{suffix}"), *models))
    expected = rows_of(tmp_path / f"calm{suffix}")
    impatient.log.clear()
    score(job(name, url(f"first{suffix}"), *models))
    num_requests, num_injected = len(impatient.log), 0
    for number in itertools.count():
        start = (number * 2 + 1) * num_requests // 7 % num_requests
        options, asked = job(name, url(f"out{number}{suffix}"), *models), itertools.count()
        impatient.schedule = schedule = Schedule(
            kinds=[kind], share=1, most_in_a_row=1 << 30, stall_s=1.5 * SILENCE_S,
            wanted=lambda method, path, asked=asked, start=start: next(asked) >= start,
        )  # fmt: skip
        remote.forget_listings(url("x"))
        with pytest.raises(BeholderError) as caught:
            score(options)
        impatient.schedule = Schedule(kinds=())
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 600
        work = f"out{number}{suffix}.partial" if suffix else f"out{number}"
        remote.forget_listings(url("x"))
        if stored(s3, f"{work}/beholder.json"):
            assert check_result(url(f"out{number}{suffix}")).counts.keys() <= {"extra"}, "half-written and done"
        done = len([key for key in stored(s3, f"{work}/done/") if key.endswith(".json")])
        told: list[tuple[int, int]] = []
        score(options, on_resume=lambda shards, rows, told=told: told.append((shards, rows)))
        assert done == 0 or told[0][0] == done
        found = rows_of(fetched(s3, f"out{number}{suffix}", tmp_path / str(number)))
        num_injected += schedule.injected[kind]
        injected = schedule.injected[kind]
        fault_table.record(f"network, lasting: {kind}", injected=injected, **compare(expected, found).counts())
        if 2 * num_injected >= num_faults:
            break
    assert strays(s3) == []


@pytest.mark.parametrize("kind", mostly_slow(["403", "500"], quick=0))
def test_pictures_that_a_server_refused_are_rejects_that_are_done_again(
    tmp_path: Path, impatient: BadProxy, s3: Any, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, kind: str,
) -> None:  # fmt: skip
    models = (small_tower, small_head, plain_head)
    score(job("photos", str(tmp_path / "calm.csv"), *models))
    expected = rows_of(tmp_path / "calm.csv")
    options = job("photos", url("out.csv"), *models)
    impatient.schedule = schedule = Schedule(
        kinds=[kind], share=1, most_in_a_row=1 << 30, wanted=lambda method, path: method == "GET" and "/photos/p2" in path
    )
    summary = score(options)
    impatient.schedule = Schedule(kinds=())
    assert (summary.num_read, summary.num_rejected, summary.reasons.get("unreadable")) == (7, 2, 1)
    score(replace(options, retry_rejects=True))
    found = rows_of(fetched(s3, "out.csv", tmp_path / "found"))
    injected = schedule.injected[kind]
    fault_table.record(f"network, a picture refused: {kind}", injected=injected, **compare(expected, found).counts())


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("done by the server, answer lost", marks=pytest.mark.slow),
        pytest.param("reset", marks=pytest.mark.slow), pytest.param("500", marks=pytest.mark.soak),
    ],
)  # fmt: skip
def test_a_large_file_is_put_whole_though_answers_of_its_upload_are_lost(
    network: BadProxy, s3: Any, fault_table: FaultTable, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beginning it, every piece, and ending it."""
    wait_for_a_byte(60, monkeypatch)
    kind = "lost answer" if where.startswith("done") else where
    data = np.random.default_rng(0).bytes(53 << 20)
    network.schedule = schedule = Schedule(kinds=[kind], share=1, wanted=lambda method, path: "upload" in path)
    with writing.open_whole(url("large")) as out:
        for at in range(0, len(data), 5 << 20):
            out.write(data[at : at + (5 << 20)])
    network.schedule = Schedule(kinds=())
    wrong = int(s3.get_object(Bucket=BUCKET, Key="large")["Body"].read() != data)
    assert schedule.injected[kind] >= 4
    fault_table.record(
        f"network, an upload in pieces: {kind}", injected=schedule.injected[kind], lost=0, doubled=0, wrong=wrong
    )


def test_an_upload_that_fails_for_good_leaves_nothing(impatient: BadProxy, s3: Any) -> None:
    s3.put_object(Bucket=BUCKET, Key="large", Body=b"before")
    impatient.schedule = Schedule(
        kinds=["500"], share=1, most_in_a_row=1 << 30, wanted=lambda method, path: "uploadId" in path and method == "POST"
    )

    def put() -> None:
        with writing.open_whole(url("large")) as out:
            for _ in range(11):
                out.write(bytes(5 << 20))

    with pytest.raises(BeholderError, match="cannot write s3://data/large"):
        put()
    assert stored(s3, "large") == {"large": b"before"}
    assert strays(s3) == []


def _lists(client: Any, folder: Path) -> dict[str, list[Row]]:
    """The rows of both lists that select writes, which must come in the same order."""
    found: dict[str, list[Row]] = {}
    for name in ("kept.csv", "all.parquet"):
        rows = rows_of(fetched(client, name, folder))
        found |= {f"{name} {sample}": [(at, *row) for row in some] for at, (sample, some) in enumerate(rows.items())}
    return found


@sizes("slow", "soak")
def test_select_reads_and_writes_through_it(
    tmp_path: Path, network: BadProxy, s3: Any, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, num_faults: int,
) -> None:  # fmt: skip
    harmed, models = ManyKinds(), (small_tower, small_head, plain_head)
    score(job("arrays", url("set"), *models))
    words = ["select", url("set"), "--top", "30", "-o", url("kept.csv"), "--decisions-out", url("all.parquet"), "--overwrite"]
    assert CliRunner().invoke(app, words).exit_code == 0
    expected = _lists(s3, tmp_path / "calm")
    for seed in itertools.count():
        for key in ("kept.csv", "all.parquet"):
            s3.delete_object(Bucket=BUCKET, Key=key)
        network.schedule = schedule = Schedule(seed=seed, share=0.6, stall_s=1.5 * SILENCE_S)
        result = CliRunner().invoke(app, words)
        network.schedule = Schedule(kinds=())
        assert result.exit_code == 0, (result.output, result.exception)
        harmed.add(schedule.injected, compare(expected, _lists(s3, tmp_path / str(seed))))
        if harmed.is_enough(PASSING, num_faults) or num_faults == 1:
            break
    harmed.record(fault_table, "network, select")


def test_a_list_that_cannot_be_written_is_one_line(
    impatient: BadProxy, s3: Any, small_tower: Path, small_head: Path, plain_head: Path
) -> None:
    score(job("arrays", url("set"), small_tower, small_head, plain_head))
    impatient.schedule = Schedule(kinds=["403"], share=1, most_in_a_row=1 << 30, wanted=lambda method, path: method == "PUT")
    result = CliRunner().invoke(app, ["select", url("set"), "--top", "30", "-o", url("kept.csv")])
    assert isinstance(result.exception, BeholderError)
    assert "\n" not in str(result.exception)
    assert stored(s3, "kept.csv") == {}
