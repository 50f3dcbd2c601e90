"""`beholder bench`: what it measures is plausible, is kept, and ends by its own clock; the line through costs."""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

import fsspec
import numpy as np
import pytest
from scipy.optimize import nnls
from typer.testing import CliRunner

from beholder import OutputError
from beholder.cli.app import app
from beholder.pixels.picture import PixelOptions
from beholder.planning.bench import bench, measure_storage
from beholder.planning.decode_rate import measure_decoding
from beholder.planning.options import BenchOptions
from beholder.planning.rates import SizeRate, fitted, load, through
from beholder.sources.reader import PictureRef
from oracles.library_models import saved, siglip
from oracles.picture_jobs import picture_bytes


class Ticking:
    """A clock that goes on by so many seconds each time it is asked."""

    def __init__(self, step_s: float) -> None:
        self.step_s, self.now, self.num_asked = step_s, 0.0, 0

    def __call__(self) -> float:
        self.num_asked += 1
        self.now += self.step_s
        return self.now


def sizes(pixels: list[float], costs: list[float]) -> list[SizeRate]:
    return [
        SizeRate(what=f"{number}", pixels=number, num_bytes=1.0, core_s=cost, core_s_alone=cost)
        for number, cost in zip(pixels, costs, strict=True)
    ]


def test_the_line_through_costs_is_the_best_in_relative_terms() -> None:
    """Against scipy's least squares with both terms at least 0, rows divided by their cost."""
    rng = np.random.default_rng(3)
    for case in range(50):
        pixels = rng.uniform(1e4, 1e7, rng.integers(2, 6))
        costs = rng.uniform(-1e-3 if case % 2 else 0, 2e-3) + 1e-8 * pixels * rng.uniform(0.6, 1.4, len(pixels))
        costs = np.maximum(costs, 1e-5)
        found = fitted(sizes(pixels.tolist(), costs.tolist()))
        matrix = np.stack([1 / costs, pixels / costs * 1e-6], axis=1)
        wanted, _ = nnls(matrix, np.ones(len(pixels)))
        assert found == (pytest.approx(wanted[0], abs=1e-9), pytest.approx(wanted[1] * 1e-6, rel=1e-6, abs=1e-15))


def test_lines_of_one_size_and_through_the_users_own_pictures() -> None:
    assert fitted(sizes([100.0], [2.0])) == (0.0, 0.02)
    assert fitted(sizes([100.0, 100.0], [2.0, 2.0])) == (0.0, 0.02)
    made = sizes([100.0, 200.0], [3.0, 4.0])  # 2 + 0.01 a pixel
    assert through(*sizes([50.0], [5.0]), made) == (pytest.approx(4.5), pytest.approx(0.01))
    assert through(*sizes([1000.0], [5.0]), made) == (pytest.approx(0.0), pytest.approx(0.005))


def test_everything_is_measured_and_kept(here: Path, small_tower: Path) -> None:
    Path("photos").mkdir()
    for number in range(3):
        Path(f"photos/{number}.jpg").write_bytes(picture_bytes(number))
    words = ["bench", "photos", "--backbone", str(small_tower), "--device", "cpu", "--precision", "fp32", "--max-time", "1"]
    done = CliRunner().invoke(app, [*words, "-o", "rates.json"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, (done.output, done.exception)
    found = load("rates.json")
    assert found.decode is not None
    assert found.run is not None
    assert found.storage is not None
    assert found.rows is not None
    own, *made = found.decode.sizes
    assert (own.what, own.pixels) == ("from the source", 70 * 60)
    assert own.num_bytes == pytest.approx(np.mean([len(picture_bytes(number)) for number in range(3)]), rel=0.2)
    assert [size.pixels for size in made] == [128 * 96, 512 * 512, 1024 * 768, 3000 * 2000]
    assert found.decode.core_s(own.pixels) == pytest.approx(own.core_s)
    assert own.core_s > 0
    (tower,) = found.towers
    assert (tower.backbone, tower.device, tower.precision) == (str(small_tower.resolve()), "cpu", "fp32")
    assert (tower.dim, tower.is_random) == (24, False)
    assert tower.pictures_per_second > 0
    assert 0 < tower.feed_s < tower.core_s
    assert found.run.start_s > 0
    assert 20 < found.run.written_bytes < 2000
    assert (found.storage.place, found.rows.dim, found.rows.num_cores) == (str(here), 24, found.num_cores)
    assert sorted(path.name for path in here.iterdir()) == ["photos", "rates.json"]
    lines = done.stdout.splitlines()
    assert lines[0].startswith("# Rates of this machine, ")
    assert lines[2].startswith("- processor: ")
    assert any(line.startswith("| from the source | 4,200 | ") for line in lines)
    planned = CliRunner().invoke(app, ["plan", "photos", "--rates", "rates.json", "--backbone", str(small_tower), "--json"])
    assert json.loads(planned.stdout)["stage_seconds"]["decode"] == pytest.approx(3 * own.core_s / max(1, found.num_cores // 2))


@pytest.mark.slow
def test_every_stage_ends_by_the_clock(here: Path, small_tower: Path) -> None:
    """Of a clock that jumps 100 s each time, each stage does the least that it can."""
    clock = Ticking(100.0)
    options = BenchOptions(backbone=str(small_tower), device="cpu", precision="fp32", max_time_s=1, out="rates.json")
    found, notes = bench(options, clock=clock)
    assert notes == []
    assert clock.num_asked < 250
    assert found == load("rates.json")
    assert found.storage is not None
    assert found.storage.write_bytes_per_second == pytest.approx((8 << 20) / 200)  # one piece; the clock was asked twice


def test_storage_is_read_past_the_cache_or_said_not_to_be(tmp_path: Path) -> None:
    found = measure_storage(str(tmp_path), seconds=3, clock=Ticking(1.0))
    assert found.read_bytes_per_second > 0
    assert list(tmp_path.iterdir()) == []
    if Path("/dev/shm").is_dir():
        assert measure_storage("/dev/shm", seconds=3, clock=Ticking(1.0)).is_cached
    remote = measure_storage("memory://bench", seconds=3, clock=Ticking(1.0))
    assert remote.write_bytes_per_second > 0
    assert fsspec.filesystem("memory").find("/bench") == []
    with pytest.raises(OutputError, match="cannot write"):
        measure_storage(str(tmp_path / "lost"), seconds=3, clock=Ticking(1.0))


def test_a_write_that_the_system_cuts_short_counts_as_what_was_written(tmp_path: Path) -> None:
    """5 MiB is as large as a file may be here: of the first piece of 8 MiB no more is written, and the clock ends it then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5 << 20, hard))
    try:
        found = measure_storage(str(tmp_path), seconds=3, clock=Ticking(100.0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert found.write_bytes_per_second == pytest.approx((5 << 20) / 200)  # the clock was asked twice
    assert found.read_bytes_per_second == pytest.approx((5 << 20) / 100 / 2)


@pytest.mark.slow
def test_no_room_for_what_is_made_is_one_line(here: Path, small_tower: Path) -> None:
    """Files of 500 kB at most: a photograph of 3000 x 2000 is made that has more."""
    options = BenchOptions(
        backbone=str(small_tower), device="cpu", precision="fp32", max_time_s=1, storage="memory://bench", out="rates.json"
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write /.*; make room for 2 GB, or name another folder \(TMPDIR\)"):
            bench(options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (here / "rates.json").exists()


@pytest.mark.parametrize("small_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_pictures_pay_for_themselves_alone(tmp_path: Path, small_first: bool) -> None:
    """Small ones after large ones, of which some are queued at the worker when the clock ends: processor time, 100 to 1.

    Small ones first: that workers start and import is none of their cost.
    """
    large, small = tmp_path / "large.jpg", tmp_path / "small.jpg"
    large.write_bytes(picture_bytes(0, size=(3000, 2000)))
    small.write_bytes(picture_bytes(0, size=(70, 60)))
    pictures = {"large": [PictureRef(path=str(large))], "small": [PictureRef(path=str(small))]}
    if small_first:
        pictures = dict(reversed(pictures.items()))
    found = measure_decoding(pictures, PixelOptions(), own=None, seconds=0.4, clock=time.monotonic)
    first, second = sorted(found.sizes, key=lambda size: -size.pixels)
    assert (first.pixels, second.pixels) == (6_000_000, 4200)
    assert second.core_s < first.core_s / 8
    assert second.core_s_alone < first.core_s_alone / 8


def test_a_published_tower_by_any_of_its_names(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beholder.planning.rates import tower_name

    assert tower_name("ViT-L/14") == tower_name("vit_l14_pn_quick_gelu_openai-clip") == "openai/clip-vit-large-patch14"
    assert tower_name("org/other") == "org/other"
    Path("tower").mkdir()
    assert tower_name("tower") == str(here.resolve() / "tower")
    assert tower_name("timm:some_vit.tag@./weights.pt#0123456789ab") == tower_name("timm:some_vit.tag") == "timm:some_vit.tag"
    assert tower_name("transformers:./tower") == f"transformers:{here.resolve() / 'tower'}"
    assert tower_name("open_clip:ViT-L-14-quickgelu/openai") == "openai/clip-vit-large-patch14"


def bench_and_plan(*words: str) -> tuple[str, int]:
    done = CliRunner().invoke(app, words)
    return str(done.exception) if done.exit_code else done.stdout, done.exit_code


@pytest.mark.soak
def test_a_tower_of_another_library(here: Path) -> None:
    """It is measured with its own preprocessing, and planned with by its name; what it cannot do is one line."""
    saved(Path("tower"), siglip)
    where = ["--device", "cpu", "--max-time", "1", "-o", "rates.json"]
    told, status = bench_and_plan("bench", "--backbone", "transformers:./tower", "--decoder", "scaled", *where)
    assert (status, "--decoder scaled: a tower of another library comes with its own resize" in told) == (1, True), told
    told, status = bench_and_plan("bench", "--backbone", "timm:no_such_tower", *where)
    assert (status, "timm" in told) == (1, True), told
    _, status = bench_and_plan("bench", "--backbone", "transformers:./tower", *where)
    assert status == 0
    found = load("rates.json")
    assert found.decode is not None
    assert found.decode.image_px == 64
    assert {tower.backbone for tower in found.towers} == {f"transformers:{here.resolve() / 'tower'}"}
    assert (found.towers[0].precision, found.towers[0].dim, found.towers[0].is_random) == ("fp32", 48, False)
    planned, status = bench_and_plan(
        "plan", "--count", "1000", "--rates", "rates.json", "--backbone", "transformers:tower/../tower@./tower", "--json"
    )
    assert status == 0, planned
    assert json.loads(planned)["stage_seconds"]["tower"] > 0
    told, status = bench_and_plan("plan", "--count", "9", "--rates", "rates.json", "--backbone", "timm:vit_other")
    assert (status, "beholder bench --backbone timm:vit_other measures it" in told) == (1, True), told
