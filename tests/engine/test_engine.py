"""The engine on the processor, on small towers; on a GPU where there is one."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from beholder.engine import self_check
from beholder.engine.backends import CpuBackend, build_backend, padded
from beholder.engine.devices import find_device, float32_products
from beholder.engine.drift import check_pictures, score_drift, typical_drift, worst_case_drift
from beholder.engine.engine import Engine
from beholder.engine.onednn import _bf16_fault, find_fault, int8_support
from beholder.errors import BeholderError, InputError
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tower
from beholder.models.heads import Head
from beholder.models.library_towers import weights_sha256
from beholder.notices import told_to
from oracles.tiers import mostly_slow

SHAPE = TowerShape.small(image_px=42, width=64, num_layers=3, dim=32)
TOWER = random_tower(SHAPE)
PIXELS = check_pictures(42)
ON_CPU = ["fp32", "bf16", "fp16", *(["int8"] if find_fault("quick_gelu", int8=True) is None else [])]
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "cache"))


def exact(pixels: np.ndarray = PIXELS) -> np.ndarray:
    with torch.no_grad():
        return random_tower(SHAPE).double()(torch.from_numpy(pixels)).numpy()


def head(scale: float = 1.0) -> Head:
    weight = np.random.default_rng(5).standard_normal(32)
    return Head(name="made", math=Affine(scale * 18 * weight / np.linalg.norm(weight), 5.0), sha256=f"{scale}" * 4)


def test_float32_agrees_with_float64() -> None:
    found = Engine(TOWER, device="cpu", precision="fp32").embed(PIXELS)
    assert found.dtype == np.float32
    assert np.abs(found - exact()).max() < 2e-5


@pytest.mark.parametrize("precision", ON_CPU)
@pytest.mark.parametrize("batch_size", mostly_slow([3, None]))
def test_a_picture_has_the_same_bits_in_any_company(precision: str, batch_size: int | None) -> None:
    engine = Engine(TOWER, device="cpu", precision=precision, batch_size=batch_size)  # type: ignore[arg-type]
    whole = engine.embed(PIXELS)
    assert len({row.tobytes() for row in whole}) == len(PIXELS)
    for count in range(len(PIXELS) + 1):
        assert np.array_equal(engine.embed(PIXELS[:count]), whole[:count])
    order = np.random.default_rng(1).permutation(len(PIXELS))
    assert np.array_equal(engine.embed(PIXELS[order]), whole[order])
    for index, row in enumerate(whole):
        assert np.array_equal(engine.embed(PIXELS[index : index + 1])[0], row)
    one_lane = Engine(TOWER, device="cpu", precision=precision, batch_size=batch_size, num_threads=1)  # type: ignore[arg-type]
    assert np.array_equal(one_lane.embed(PIXELS), whole)


@pytest.mark.slow
@pytest.mark.parametrize("precision", mostly_slow([name for name in reversed(ON_CPU) if name != "fp16"], quick=0, slow=1))
def test_the_same_holds_at_the_real_width_and_number_of_tokens(precision: str) -> None:
    tower = random_tower(TowerShape(224, 14, 1024, 2, 16, 4096, 768))
    pixels = check_pictures(224)[:5]
    engine = Engine(tower, device="cpu", precision=precision)  # type: ignore[arg-type]
    whole = engine.embed(pixels)
    assert np.array_equal(engine.embed(pixels[::-1])[::-1], whole)
    assert np.array_equal(engine.embed(pixels[:1]), whole[:1])


def test_calls_may_overlap_and_arguments_may_be_tensors_or_strided() -> None:
    engine = Engine(TOWER, device="cpu", precision="fp32")
    first, second = engine.submit(PIXELS), engine.submit(torch.from_numpy(PIXELS[::-1].copy()))
    assert np.array_equal(engine.result(second)[::-1], engine.result(first))
    wide = np.concatenate([PIXELS, PIXELS], axis=2)
    wide.setflags(write=False)
    assert np.array_equal(engine.embed(wide[:, :, :42]), engine.embed(PIXELS))
    engine.close()
    assert len(engine.embed(PIXELS[:1])) == 1  # it can be used again


def test_no_pictures_give_no_rows() -> None:
    assert Engine(TOWER, device="cpu", precision="fp32").embed(PIXELS[:0]).shape == (0, 32)


@pytest.mark.parametrize("pixels", [PIXELS.astype(np.float32), PIXELS[0], PIXELS[:, :, :20], torch.from_numpy(PIXELS).float()])
def test_what_are_no_pixels_is_refused(pixels: object) -> None:
    with pytest.raises(InputError, match="pictures must be"):
        Engine(TOWER, device="cpu", precision="fp32").embed(pixels)  # type: ignore[arg-type]


class Crowded:
    """A real tower on a device that holds no more than `most` pictures at a time."""

    def __init__(self, most: int) -> None:
        self.most, self.sizes = most, []  # type: ignore[var-annotated]

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(pixels))
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return TOWER(pixels)


@pytest.mark.parametrize("at_once", [False, True])
def test_the_batch_is_halved_when_memory_runs_out_and_no_picture_is_lost(at_once: bool) -> None:
    engine = Engine(TOWER, device="cpu", precision="fp32", batch_size=8)
    many = np.concatenate([PIXELS, PIXELS[::-1], PIXELS[:3]])
    crowded = Crowded(2)
    engine._backend = CpuBackend(crowded, "plain", num_lanes=1)
    if at_once:  # as on a GPU, where the failure is met by `submit`
        submit = engine._backend.submit
        engine._backend.submit = lambda *arguments: (lambda rows: lambda: rows)(submit(*arguments)())  # type: ignore[method-assign]
    found = engine.embed(many)
    assert np.abs(found - exact(many)).max() < 2e-5
    assert engine.batch_size == 2
    assert set(crowded.sizes) == {8, 4, 2}
    crowded.sizes.clear()
    engine.embed(many)
    assert set(crowded.sizes) == {2}  # it stays halved


def test_no_memory_for_one_picture_is_one_clear_line() -> None:
    engine = Engine(TOWER, device="cpu", precision="fp32", batch_size=4)
    engine._backend = CpuBackend(Crowded(0), "plain", num_lanes=2)
    with pytest.raises(BeholderError, match="no memory for a single picture"):
        engine.embed(PIXELS)


def test_the_batch_grows_until_memory_ends() -> None:
    class Steady(Crowded):
        def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(pixels))
            if len(pixels) > self.most:
                raise torch.OutOfMemoryError("full")
            threading.Event().wait(0.02)  # the same for any batch: doubling always pays
            return torch.zeros(len(pixels), 4)

    def best(most: int) -> int:
        return self_check.best_batch_size(CpuBackend(Steady(most), "plain", num_lanes=1), 14, first=8, last=64)

    assert (best(40), best(1000), best(3)) == (32, 64, 2)
    with pytest.raises(BeholderError, match="no memory"):
        best(0)


def kept_checks(folder: Path) -> list[Path]:
    return sorted((folder / "cache" / "engine").glob("self-check-*.json"))


def test_auto_is_decided_once_for_a_tower_whatever_the_heads(tmp_path: Path) -> None:
    lines: list[str] = []
    with told_to(lines.append):
        without = Engine(TOWER, device="cpu")
    check = without.describe()["self_check"]
    assert without.check_seconds == check["seconds"]
    assert check["chosen"] == check["chosen_for_tower"] == without.precision
    assert set(check["failed"]) | set(check["drift"]) == {"fp32", "bf16", "int8"}
    assert set(check["pictures_per_second"]) <= {name for name, drift in check["typical_drift"].items() if drift <= 0.02}
    assert len(lines) == 2  # what is measured, and what came out
    assert "fp32, int8, bf16" in lines[0]
    assert re.match(r"measured in \d+ s: ", lines[1])
    (kept,) = kept_checks(tmp_path)
    content = kept.read_bytes()

    with told_to(lines.append):
        loose = Engine(TOWER, device="cpu", heads=[head(1e-3)])
        strict = Engine(TOWER, device="cpu", heads=[head(1e5)])  # a head that long sees every rounding
    assert (loose.check_seconds, strict.check_seconds) == (0, 0)  # remembered, however long it took to read that
    assert loose.precision == without.precision
    assert loose.describe()["drift"] < 1e-3
    record = strict.describe()
    assert strict.precision == "fp32"
    assert record["drift"] == 0
    assert record["self_check"]["chosen_for_tower"] == without.precision
    assert all(drift > 0.02 for name, drift in record["self_check"]["drift"].items() if name != "fp32")
    assert (len(lines), kept_checks(tmp_path), kept.read_bytes()) == (2, [kept], content)  # nothing was measured again
    json.dumps(record)


def test_auto_keeps_to_what_was_measured_before(tmp_path: Path) -> None:
    first = Engine(TOWER, device="cpu").describe()["self_check"]
    (kept,) = kept_checks(tmp_path)
    record = json.loads(kept.read_text())
    for name in set(record["result"]["rows"]) - {"fp32"}:
        record["result"]["typical_drift"][name] = 0.001
        for faster, chosen in ((9.0, name), (1.1, "fp32")):  # another afternoon, as it were
            record["result"]["pictures_per_second"] = {"fp32": 10.0, name: 10.0 * faster}
            kept.write_text(json.dumps(record))
            assert Engine(TOWER, device="cpu").precision == chosen
    record["result"]["rows"] = ["edited"]
    kept.write_text(json.dumps(record))
    again = Engine(TOWER, device="cpu").describe()["self_check"]
    both = set(again["drift"]) & set(first["drift"])  # measured again, with the same bits
    assert {name: again["drift"][name] for name in both} == {name: first["drift"][name] for name in both}


def test_what_auto_chooses() -> None:
    rates = {"fp32": 1.0, "int8": 9.0, "bf16": 8.5, "tf32": 3.0}
    assert self_check.chosen(rates, {"fp32": 0, "int8": 0.015, "bf16": 0.005, "tf32": 0.001}) == "bf16"  # as fast, and nearer
    assert self_check.chosen(rates, {"fp32": 0, "int8": 0.03, "bf16": 0.021, "tf32": 0.02}) == "tf32"
    assert self_check.chosen(rates | {"int8": 11.0}, {"fp32": 0, "int8": 0.015, "bf16": 0.005, "tf32": 0.001}) == "int8"
    assert self_check.chosen({"fp32": 1.0, "int8": 2.0}, {"fp32": 0, "int8": 0.019}) == "int8"
    assert self_check.chosen({"fp32": 1.0, "int8": 1.2}, {"fp32": 0, "int8": 0.001}) == "fp32"
    assert self_check.chosen({"fp32": 1.0, "bf16": 2.0}, {"fp32": 0, "bf16": float("inf")}) == "fp32"
    assert self_check.chosen({}, {"fp32": 0}) == "fp32"  # nothing else runs here, so nothing was timed


def test_typical_drift_is_what_most_heads_do_not_exceed() -> None:
    make = np.random.default_rng(8)
    exact_rows = make.standard_normal((8, 768)).astype(np.float32)
    found = exact_rows + np.float32(1e-3) * make.standard_normal((8, 768)).astype(np.float32)
    heads = make.standard_normal((768, 20_000))
    heads *= 17.9956 / np.linalg.norm(heads, axis=0)
    unit = [
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (exact_rows, found)
    ]
    largest = np.abs((unit[1] - unit[0]) @ heads).max(axis=0)
    assert typical_drift(exact_rows, found) == pytest.approx(np.quantile(largest, 0.95), rel=0.1)
    assert typical_drift(exact_rows, found * 3) == pytest.approx(typical_drift(exact_rows, found), rel=1e-4)
    assert typical_drift(exact_rows, found * np.float32(np.nan)) == float("inf")


def test_a_read_only_cache_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "file"))
    assert Engine(TOWER, device="cpu").describe()["drift"] <= 0.02


def test_drift_in_score_by_hand() -> None:
    exact_rows = np.float32([[3, 4], [1, 0]])
    found = np.float32([[4, 3], [2, 0]])  # unit vectors: (0.6, 0.8) -> (0.8, 0.6); (1, 0) stays
    by_axis = Head(name="x", math=Affine(np.array([10.0, 0.0]), 1.0))
    assert score_drift(exact_rows, found, [by_axis]) == pytest.approx(2.0, abs=1e-6)
    assert worst_case_drift(exact_rows, found) == pytest.approx(17.9956 * 0.2 * 2**0.5, rel=1e-6)
    assert 0 < score_drift(exact_rows, found) <= worst_case_drift(exact_rows, found)
    assert score_drift(exact_rows, exact_rows * 7) < 1e-5
    assert score_drift(exact_rows, np.float32([[np.nan, 0], [1, 0]])) == float("inf")


def test_the_check_pictures_are_eight_different_ones_and_stay_the_same() -> None:
    pictures = check_pictures(224)
    assert (pictures.shape, pictures.dtype) == ((8, 224, 224, 3), np.uint8)
    assert min(picture.std() for picture in pictures) > 5
    assert np.array_equal(pictures, check_pictures(224))
    assert check_pictures(15).shape == (8, 15, 15, 3)


def test_the_hash_of_weights_tells_towers_apart() -> None:
    assert weights_sha256(TOWER) == weights_sha256(random_tower(SHAPE)) != weights_sha256(random_tower(SHAPE, seed=1))


def test_torchs_settings_are_as_before_afterwards() -> None:
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    Engine(TOWER, device="cpu", precision="fp32", num_threads=3).embed(PIXELS)
    found: list[int] = []
    fresh = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    fresh.start()
    fresh.join()
    assert (torch.get_num_threads(), found[0], torch.get_float32_matmul_precision()) == (threads, threads, precision)
    torch.set_float32_matmul_precision("medium")
    try:
        with float32_products(tf32=False), float32_products(tf32=False):
            assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.get_float32_matmul_precision() == "medium"
        assert np.abs(Engine(TOWER, device="cpu", precision="fp32").embed(PIXELS) - exact()).max() < 2e-5
    finally:
        torch.set_float32_matmul_precision(precision)


def test_it_works_in_a_forked_process() -> None:
    expected = Engine(TOWER, device="cpu", precision="fp32").embed(PIXELS)
    for _ in range(10):
        engine = Engine(TOWER, device="cpu", precision="fp32")
        engine.embed(PIXELS[:4])  # a lane may still be starting, with a lock in its hands
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if np.array_equal(engine.embed(PIXELS), expected) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("device", "words"),
    [("toaster", "there is no such device"), ("meta", "beholder runs on"), ("mps", "no Apple GPU"), ("cuda:99", "CUDA device")],
)
def test_devices_that_are_not_there(device: str, words: str) -> None:
    with pytest.raises(BeholderError, match=words) as caught:
        Engine(TOWER, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available() or torch.version.cuda is not None, reason="needs a torch without CUDA")
def test_cuda_without_cuda_says_why() -> None:
    with pytest.raises(BeholderError, match=r"^--device cuda: no CUDA device \(torch .* was built without CUDA\)$"):
        find_device("cuda")


def test_settings_that_cannot_be() -> None:
    with pytest.raises(BeholderError, match="--precision tf32: not on cpu"):
        Engine(TOWER, device="cpu", precision="tf32")
    with pytest.raises(BeholderError, match="--batch-size 0"):
        Engine(TOWER, device="cpu", precision="fp32", batch_size=0)
    if find_fault("gelu", int8=False) is None:
        with pytest.raises(BeholderError, match="--precision int8: int8 is written for QuickGELU"):
            Engine(random_tower(SHAPE, activation="gelu"), device="cpu", precision="int8")


def test_without_packed_products_bf16_is_computed_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("'_OpNamespace' object has no attribute")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    monkeypatch.setattr(torch.ops.onednn, "qlinear_pointwise", missing)
    _bf16_fault.cache_clear()
    int8_support.cache_clear()
    try:
        engine = Engine(TOWER, device="cpu", precision="bf16")
        assert engine.describe()["form"] == "plain"
        assert np.abs(engine.embed(PIXELS) - exact()).max() < 0.05
        with pytest.raises(BeholderError, match="int8: torch .* has no such products here"):
            Engine(TOWER, device="cpu", precision="int8")
        assert "int8" in Engine(TOWER, device="cpu").describe()["self_check"]["failed"]
    finally:
        _bf16_fault.cache_clear()
        int8_support.cache_clear()


def test_padding_keeps_the_pictures_and_adds_black() -> None:
    whole = padded(torch.ones(2, 3, dtype=torch.uint8), 4)
    assert whole.tolist() == [[1, 1, 1], [1, 1, 1], [0, 0, 0], [0, 0, 0]]


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_compiled_on_a_gpu(precision: str) -> None:
    """Replayed graphs give what the plain tower gives, whatever came before, and every batch its own rows."""
    plain = Engine(TOWER, device="cuda", precision=precision, batch_size=4)  # type: ignore[arg-type]
    engine = Engine(TOWER, device="cuda", precision=precision, batch_size=4, compile=True)  # type: ignore[arg-type]
    assert engine.describe()["form"] == "compiled"
    whole = engine.embed(PIXELS)
    assert np.abs(whole - plain.embed(PIXELS)).max() < (2e-5 if precision == "fp32" else 0.02)
    assert np.array_equal(engine.embed(PIXELS[::-1].copy())[::-1], whole)
    many = [engine.submit(PIXELS[at % len(PIXELS) :]) for at in range(9)]
    assert all(np.array_equal(engine.result(pending), whole[at % len(PIXELS) :]) for at, pending in enumerate(many))


@needs_cuda
def test_a_closed_back_end_holds_no_graph() -> None:
    engine = Engine(TOWER, device="cuda", precision="fp32", batch_size=64, compile=True)
    many = np.repeat(PIXELS, 64, axis=0)
    whole = engine.embed(many)
    held = torch.cuda.memory_reserved()
    engine.close()
    assert torch.cuda.memory_reserved() < held
    assert np.array_equal(engine.embed(many), whole)  # it is taken anew


@needs_cuda
@pytest.mark.parametrize("compile", [False, True])
def test_float8_on_a_gpu(compile: bool) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("no float8 products")
    shape = TowerShape.small(image_px=42, width=64, num_layers=4, dim=32)
    tower, pixels = random_tower(shape), torch.from_numpy(PIXELS)
    backend = build_backend(tower, torch.device("cuda", 0), "fp8", compile=compile)
    with torch.inference_mode():
        wanted = tower(pixels).numpy()
    found = backend.submit(pixels, len(pixels))()
    assert 0 < np.abs(found - wanted).max() < 0.2 * np.abs(wanted).max()


@needs_cuda
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_on_a_gpu(precision: str) -> None:
    engine = Engine(TOWER, device="cuda", precision=precision, batch_size=4)  # type: ignore[arg-type]
    whole = engine.embed(PIXELS)
    assert np.abs(whole - exact()).max() < (2e-5 if precision == "fp32" else 0.05)
    for count in range(len(PIXELS) + 1):
        assert np.array_equal(engine.embed(PIXELS[:count]), whole[:count])
    assert np.array_equal(engine.embed(PIXELS[::-1].copy())[::-1], whole)
    assert np.array_equal(engine.embed(torch.from_numpy(PIXELS).cuda()), whole)
    many = [engine.submit(PIXELS) for _ in range(9)]
    assert all(np.array_equal(engine.result(pending), whole) for pending in many)
    assert engine.check()["drift"][precision] < 0.3
