"""Damage to what is kept between runs: machine code, measurements, models, tables of tars; made anew, or told in one line."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beholder import BeholderError, load_head
from beholder.engine.drift import Remembered
from beholder.io.user_folders import cache_folder, data_folder
from beholder.locate.archives import tar_members
from beholder.models import download, transfer
from beholder.models.clip import random_tensors
from beholder.models.store import add_own
from beholder.models.towers import load_tower
from beholder.planning import rates
from oracles import checkpoints as made
from oracles.damaged_runs import DAMAGES
from oracles.fault_table import FaultTable
from oracles.hub import Hub
from oracles.program import python
from oracles.small_towers import PICTURES, SHAPE
from oracles.tar_making import png, tar
from oracles.tiers import mostly_slow, sizes
from oracles.web import running

KERNEL = """
import sys, numba
numba.config.CACHE_DIR = sys.argv[1]
sys.path.insert(0, sys.argv[2])
from a_kernel import added, scaled
print(added(2.0, 3.0), scaled(2.0, 3.0), added.stats.cache_hits, scaled.stats.cache_hits)
"""
FUNCTIONS = """
from beholder.kernels.compiled import compiled

@compiled
def added(x, y):
    return x + 10.0 * y

@compiled
def scaled(x, y):
    return x * y + 0.5
"""


@sizes("quick", "soak")
def test_damaged_machine_code_is_compiled_anew(tmp_path: Path, fault_table: FaultTable, num_faults: int, size: str) -> None:
    (tmp_path / "a_kernel.py").write_text(FUNCTIONS)
    (tmp_path / "run.py").write_text(KERNEL)
    rng, wrong = random.Random(1), 0

    def run() -> list[str]:
        return python(str(tmp_path / "run.py"), str(tmp_path / "cache"), str(tmp_path), check=True).stdout.split()

    assert run() == ["32.0", "6.5", "Counter()", "Counter()"]
    files = sorted(path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert sorted({path.suffix for path in files}) == [".nbc", ".nbi"]
    whole = {path: path.read_bytes() for path in files}
    for damage, spoil in list(DAMAGES.items())[: 2 if size == "quick" else None]:
        for _ in range(num_faults):
            for path, data in whole.items():
                path.write_bytes(data)
            path = rng.choice(files)
            spoil(path, files, rng)
            wrong += run()[:2] != ["32.0", "6.5"]
        fault_table.record(f"cached machine code: {damage}", injected=num_faults, lost=0, doubled=0, wrong=wrong)
    assert run()[2] != "Counter()", "it is kept again"


def spoil_and_look(folder: Path, look: Callable[[], Any], table: FaultTable, what: str, num: int, *, may_refuse: bool) -> None:
    """Damage a file below a folder in each way; `look` then gives what it gave before, or is refused in one line if it may be.

    Links, and what the hub's client itself keeps beside its files, stay.
    """
    rng, expected, kept = random.Random(what), look(), folder.with_name(f"{folder.name} as it was")
    shutil.copytree(folder, kept, symlinks=True)
    for damage, spoil in DAMAGES.items():
        wrong = 0
        if damage == "swapped" and len(_own_files(folder)) < 2:
            continue
        for _ in range(num):
            files = _own_files(folder)
            spoil(rng.choice(files), files, rng)
            try:
                wrong += look() != expected
            except BeholderError as error:
                wrong += not may_refuse or "\n" in str(error)
            shutil.rmtree(folder)
            shutil.copytree(kept, folder, symlinks=True)
        table.record(f"cached {what}: {damage}", injected=num, lost=0, doubled=0, wrong=wrong)


def _own_files(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size)
    return [path for path in files if not {"refs", ".locks"} & set(path.parts)]


@sizes("quick", "soak")
def test_what_was_measured(fault_table: FaultTable, num_faults: int) -> None:
    """Another number would choose another precision; there is none rather than another one."""
    kept = Remembered("test", {"device": "cpu", "tower": "x"})
    result = {"typical_drift": {"bf16": 0.0123}, "rows": {"fp32": {"dim": 2, "float32": "AAAA"}}, "seconds": 1.5}
    kept.save(result)

    def look() -> bool:
        return kept.load() in (None, result)

    assert kept.load() == result
    spoil_and_look(kept.path.parent, look, fault_table, "measurements", 20 * num_faults, may_refuse=False)


@sizes("quick", "soak")
def test_where_members_of_tars_are(tmp_path: Path, fault_table: FaultTable, num_faults: int) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(tar([(f"{at}.png", png(at, 20)) for at in range(30)]))

    def look() -> Any:
        found = tar_members(str(path))
        return found.rows, found.is_plain, found.broken

    look()
    spoil_and_look(cache_folder() / "tar-members", look, fault_table, "members of tars", 8 * num_faults, may_refuse=False)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    with running(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield server


def weights_of(head: Any) -> Any:
    """All of a head that makes scores."""
    return [(layer.weight.tobytes(), layer.bias.tobytes()) for layer in head.layers], head.is_affine


def pickled_head(path: Path) -> Path:
    make = torch.Generator().manual_seed(3)
    torch.save({"weight": torch.randn(1, 24, generator=make), "bias": torch.zeros(1)}, path)
    return path


@sizes("quick", "soak")
@pytest.mark.parametrize("offline", mostly_slow([False, True]))
def test_heads(tmp_path: Path, hub: Hub, plain_head: Path, fault_table: FaultTable, num_faults: int, offline: bool) -> None:
    """A conversion of a pickled one, one of the hub, one by URL, and one of one's own."""
    pickled = pickled_head(tmp_path / "head.pth")
    hub.add_hub_file("some/head", "model.safetensors", plain_head.read_bytes())
    np.save(tmp_path / "head.npy", np.arange(64.0))
    hub.add("/plain/head.npy", (tmp_path / "head.npy").read_bytes())
    add_own(load_head(str(plain_head)), "mine")
    names = [str(pickled), "some/head", f"{hub.url}/plain/head.npy", "mine"]

    def look() -> Any:
        return [weights_of(load_head(name, offline=offline)) for name in names]

    for name in names:
        load_head(name)
    look()
    folders = [cache_folder(), data_folder(), download.hub_cache_folder()]
    for folder in folders:
        spoil_and_look(
            folder, look, fault_table, f"heads{', offline' if offline else ''}", num_faults,
            may_refuse=offline or folder == data_folder(),
        )  # fmt: skip


@sizes("slow", "soak")
@pytest.mark.parametrize("offline", [False, True])
def test_towers(tmp_path: Path, hub: Hub, fault_table: FaultTable, num_faults: int, offline: bool) -> None:
    """A part of one on the hub, a whole one of the hub, and one by URL."""
    tensors = random_tensors(SHAPE, seed=9)
    for name, text in (("clip", {"text_model.big": torch.zeros(600_000)}), ("tower", {})):
        (tmp_path / name).mkdir()
        made.write_safetensors(tmp_path / name / "model.safetensors", made.hf_state(tensors) | text)
        made.write_json(tmp_path / name / "config.json", made.hf_config(SHAPE))
        hub.publish(f"some/{name}", tmp_path / name)
    torch.save(made.openai_state(tensors), tmp_path / "tower.pt")
    hub.add("/plain/tower.pt", (tmp_path / "tower.pt").read_bytes(), headers={"ETag": '"1"'})
    names = ["some/clip", "some/tower", f"{hub.url}/plain/tower.pt"]

    def look() -> Any:
        found = [load_tower(name, offline=offline, activation="quick_gelu") for name in names]
        return [tower.module(PICTURES).numpy().tobytes() for tower in found]

    for name in names:
        load_tower(name, activation="quick_gelu")
    folders = [cache_folder() / "towers", download.hub_cache_folder()]
    for folder in folders:
        what = f"towers{', offline' if offline else ''}"
        spoil_and_look(folder, look, fault_table, what, num_faults, may_refuse=offline)


@sizes("quick", "soak")
def test_a_digest_that_is_noted(tmp_path: Path, fault_table: FaultTable, num_faults: int) -> None:
    """Of a large file; a damaged note would have it taken for another file, or fetched again."""
    path = tmp_path / "large.bin"
    with path.open("wb") as file:
        file.truncate(transfer.LARGE_BYTES)
    download.file_sha256(path)
    notes = cache_folder() / "digests"
    spoil_and_look(notes, lambda: download.file_sha256(path), fault_table, "digests", 3 * num_faults, may_refuse=False)


@sizes("quick", "soak")
def test_rates_of_this_machine(fault_table: FaultTable, num_faults: int) -> None:
    path = str(rates.kept_path())
    rates.save(rates.Rates(date="2026-01-02", num_cores=8, about=("- a machine",), busy=0.125), path)
    spoil_and_look(Path(path).parent, lambda: rates.load(path), fault_table, "rates", 20 * num_faults, may_refuse=True)
