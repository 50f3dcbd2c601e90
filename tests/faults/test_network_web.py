"""Lists of URLs, archives and arrays on a web server, and models of a hub, behind a poor network."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from beholder import BeholderError, Head, load_head
from beholder.models import download
from beholder.models.clip import random_tensors
from beholder.models.towers import load_tower
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score
from oracles import checkpoints as made
from oracles.bad_proxy import PASSING, BadProxy, Schedule, behind_a_bad_network
from oracles.fault_table import Difference, FaultTable, ManyKinds, compare, rows_of
from oracles.hub import Hub
from oracles.picture_jobs import picture_bytes, score_options
from oracles.small_towers import PICTURES, SHAPE
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow, sized
from oracles.web import running, serving

SILENCE_S = 1.0
ROWS = np.random.default_rng(5).standard_normal((90, 24)).astype(np.float32)
FOR_EVER = 1 << 30


def _files() -> dict[str, bytes]:
    array, table = io.BytesIO(), io.BytesIO()
    np.save(array, ROWS)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(ROWS.ravel()), 24)
    pq.write_table(pa.table({"sample": [f"r{at}" for at in range(90)], "embedding": vectors}), table, row_group_size=30)
    members = [(f"{at:03d}.png", png(at, 30) if at != 3 else b"no picture") for at in range(8)]
    files = {"x.npy": array.getvalue(), "x.parquet": table.getvalue(), "x.tar": tar(members)}
    return files | {f"p{at}.png": picture_bytes(at, "PNG") if at != 5 else b"no picture" for at in range(12)}


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Iterator[BadProxy]:
    """A web server with the files, behind a network that does no harm until it is told; clients wait a second."""
    silence = aiohttp.ClientTimeout(total=None, sock_connect=2, sock_read=SILENCE_S)
    monkeypatch.setitem(fsspec.config.conf, "http", {"client_kwargs": {"timeout": silence}})
    with serving(_files()) as server, behind_a_bad_network(server.url) as proxy:
        yield proxy


def job(name: str, network: BadProxy, out: Path, tower: Path, small: Path, plain: Path, **more: Any) -> ScoreOptions:
    """A run over the pictures of a list of URLs, or over one of the other files."""
    if name in ("x.npy", "x.parquet"):
        source = f"{network.url}/{name}"
        return ScoreOptions(sources=(source,), out=str(out), heads=(str(small),), num_threads=1, shard_rows=20)
    source = f"{network.url}/{name}"
    if name == "urls":
        source = str(out.parent / "urls.txt")
        Path(source).write_text("".join(f"{network.url}/p{at}.png\n" for at in range(12)))
    return score_options((source,), out, tower, plain, shard_rows=3, **more)


JOBS = ("urls", "x.npy", "x.parquet", "x.tar")


@pytest.mark.parametrize(("name", "size"), sized(zip(JOBS), [("urls",)], [("x.npy",), ("x.tar",)]))
def test_a_run_comes_through_what_passes(
    tmp_path: Path, network: BadProxy, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, num_faults: int, name: str,
) -> None:  # fmt: skip
    """Every request may fail once; silence is none to pictures, which have a time limit of their own."""
    models, harmed = (small_tower, small_head, plain_head), ManyKinds()
    kinds = [kind for kind in PASSING if name != "urls" or "stall" not in kind]
    score(job(name, network, tmp_path / "calm.parquet", *models))
    expected = rows_of(tmp_path / "calm.parquet")
    for seed in itertools.count():
        network.schedule = schedule = Schedule(seed=seed, kinds=kinds, share=1, stall_s=1.5 * SILENCE_S)
        score(job(name, network, tmp_path / f"out{seed}.parquet", *models))
        network.schedule = Schedule(kinds=())
        found = rows_of(tmp_path / f"out{seed}.parquet")
        harmed.add(schedule.injected, compare(expected, found))
        if harmed.is_enough(kinds, -(-num_faults // len(JOBS))):
            break
    harmed.record(fault_table, "network, web")


LASTING = ("drop before", "500", "403", "cut body", "reset", "stall", "refuse")
OF_EACH_KIND = list(zip(LASTING, itertools.cycle(JOBS[1:])))


@pytest.mark.parametrize(("kind", "name", "size"), sized(itertools.product(LASTING, JOBS[1:]), OF_EACH_KIND[:1], OF_EACH_KIND))
def test_what_lasts_is_one_line_and_the_same_command_finishes_later(
    tmp_path: Path, network: BadProxy, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, num_faults: int, kind: str, name: str,
) -> None:  # fmt: skip
    models = (small_tower, small_head, plain_head)
    network.log.clear()
    score(job(name, network, tmp_path / "calm.parquet", *models))
    expected, num_requests, num_injected = rows_of(tmp_path / "calm.parquet"), len(network.log), 0
    for number in itertools.count():
        start = number * 2 % num_requests
        asked = itertools.count()
        network.schedule = schedule = Schedule(
            kinds=[kind], share=1, most_in_a_row=FOR_EVER, stall_s=1.5 * SILENCE_S,
            wanted=lambda method, path, asked=asked, start=start: next(asked) >= start,
        )  # fmt: skip
        options = job(name, network, tmp_path / f"out{number}.parquet", *models)
        with pytest.raises(BeholderError) as caught:
            score(options)
        network.schedule = Schedule(kinds=())
        assert "\n" not in str(caught.value)
        assert not (tmp_path / f"out{number}.parquet").exists()
        score(options)
        found = rows_of(tmp_path / f"out{number}.parquet")
        injected = schedule.injected[kind]
        num_injected += injected
        fault_table.record(f"network, web, lasting: {kind}", injected=injected, **compare(expected, found).counts())
        if 3 * num_injected >= num_faults:
            break


@pytest.mark.parametrize(
    "kind", mostly_slow(["stall", "403", "cut body", "500", "stall in body", "drop before", "slow"], slow=2)
)
def test_pictures_that_did_not_come_are_rejects_that_are_done_again(
    tmp_path: Path, network: BadProxy, small_tower: Path, small_head: Path, plain_head: Path,
    fault_table: FaultTable, kind: str,
) -> None:  # fmt: skip
    models = (small_tower, small_head, plain_head)
    score(job("urls", network, tmp_path / "calm.parquet", *models))
    expected = rows_of(tmp_path / "calm.parquet")
    options = job("urls", network, tmp_path / "out.parquet", *models, timeout_s=1.0)
    network.schedule = schedule = Schedule(
        kinds=[kind], share=1, most_in_a_row=FOR_EVER, stall_s=1.5, wanted=lambda method, path: path in ("/p2.png", "/p7.png")
    )
    summary = score(options)
    network.schedule = Schedule(kinds=())
    assert summary.num_rejected == (1 if kind == "slow" else 3)
    assert set(summary.reasons) <= {"unreadable", "timed_out", summary_reason(expected)}
    score(replace(options, retry_rejects=True))
    found = rows_of(tmp_path / "out.parquet")
    injected = schedule.injected[kind]
    fault_table.record(f"network, pictures by URL: {kind}", injected=injected, **compare(expected, found).counts())


def summary_reason(rows: Any) -> str:
    """Why the one picture that is none was rejected."""
    (row,) = [dict(row) for name, found in rows.items() if name.startswith("rejects") for row in found]
    return str(row["reason"]).strip("'")


# Models


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Hub, BadProxy]]:
    """A hub, and the network before it."""
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with running(Hub()) as server, behind_a_bad_network(server.url) as proxy:
        monkeypatch.setenv("HF_ENDPOINT", proxy.url)
        yield server, proxy


NO_SILENCE = [kind for kind in PASSING if "stall" not in kind]
"""The hub's client waits a quarter of a minute for an answer."""


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """A whole CLIPModel, of which the image tower is a half."""
    folder = tmp_path / "clip"
    folder.mkdir()
    state = made.hf_state(random_tensors(SHAPE, seed=9)) | made.hf_text_state() | {"text_model.big": torch.zeros(600_000)}
    made.write_safetensors(folder / "model.safetensors", state)
    made.write_json(folder / "config.json", made.hf_config(SHAPE))
    return folder


@pytest.mark.parametrize(
    ("kind", "size"), sized(zip(NO_SILENCE), [("cut body",)], [("500",), ("drop before",), ("lost answer",)])
)
def test_models_come_through_what_passes(
    tmp_path: Path, hub: tuple[Hub, BadProxy], clip: Path, plain_head: Path, fault_table: FaultTable, num_faults: int,
    kind: str, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A tower of which a part is fetched, a head that is fetched whole, both of the hub, and a head by URL."""
    server, network = hub
    server.publish("some/clip", clip)
    server.add_hub_file("some/head", "model.safetensors", plain_head.read_bytes())
    server.add("/plain/head.safetensors", plain_head.read_bytes())
    calm = load_tower(str(clip)).module
    injected = wrong = 0
    for seed in itertools.count():
        monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / f"cache{seed}"))
        monkeypatch.setenv("HF_HOME", str(tmp_path / f"hf{seed}"))
        network.schedule = schedule = Schedule(seed=seed, kinds=[kind], share=1, most_in_a_row=1)
        tower = load_tower("some/clip")
        heads = [load_head("some/head"), load_head(f"{network.url}/plain/head.safetensors")]
        network.schedule = Schedule(kinds=())
        wrong += not torch.equal(tower.module(PICTURES), calm(PICTURES))
        wrong += sum(_weights(head) != _weights(load_head(str(plain_head))) for head in heads)
        injected += schedule.injected[kind]
        if injected >= num_faults:
            break
    fault_table.record(f"network, models: {kind}", injected=injected, lost=0, doubled=0, wrong=wrong)


def _weights(head: Head) -> bytes:
    """Of its first layer."""
    return head.layers[0].weight.tobytes()


@pytest.mark.parametrize("kind", mostly_slow(["cut body", "500", "refuse", "403", "drop before", "reset in body"], slow=2))
def test_models_that_do_not_come_are_one_line_and_nothing_is_kept(
    hub: tuple[Hub, BadProxy], clip: Path, plain_head: Path, fault_table: FaultTable, kind: str
) -> None:
    server, network = hub
    server.publish("some/clip", clip)
    server.add("/plain/head.safetensors", plain_head.read_bytes())
    for load, name in ((load_tower, "some/clip"), (load_head, f"{network.url}/plain/head.safetensors")):
        network.schedule = schedule = Schedule(kinds=[kind], share=1, most_in_a_row=FOR_EVER)
        with pytest.raises(BeholderError) as caught:
            load(name)
        network.schedule = Schedule(kinds=())
        assert "\n" not in str(caught.value)
        with pytest.raises(BeholderError):
            load(name, offline=True)
        if load is load_tower:
            is_right = torch.equal(load_tower(name).module(PICTURES), load_tower(str(clip)).module(PICTURES))
        else:
            is_right = _weights(load_head(name)) == _weights(load_head(str(plain_head)))
        cost = Difference(wrong=int(not is_right))
        fault_table.record(f"network, models, lasting: {kind}", injected=schedule.injected[kind], **cost.counts())


def test_a_large_download_that_breaks_is_taken_up_where_it_stopped(hub: tuple[Hub, BadProxy], fault_table: FaultTable) -> None:
    server, network = hub
    data = np.random.default_rng(1).bytes(24 << 20)
    server.add_hub_file("some/large", "model.safetensors", data)
    network.schedule = schedule = Schedule(
        seed=1,
        kinds=["cut body"],
        share=1,
        most=2,
        wanted=lambda method, path: method == "GET" and path.endswith("model.safetensors"),
    )
    path = download.from_hub(download.Source(repo="some/large", file="model.safetensors"))
    cost = Difference(wrong=int(path.read_bytes() != data))
    first, *others = [span for method, path, span, _ in network.log if method == "GET" and path.endswith("model.safetensors")]
    assert first in ("", "bytes=0-")
    assert len(others) == 2
    assert all(int(span.removeprefix("bytes=").partition("-")[0]) > 0 for span in others)
    fault_table.record("network, models: broken off twice", injected=schedule.injected.total(), **cost.counts())
