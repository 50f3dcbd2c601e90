"""Which precision and batch size suit a tower on this device: measured once, then remembered.

A precision is first tried on one matrix product and given up where that takes longer than in float32, so that no trial
takes much longer than float32 itself. What is left embeds the check pictures, which tells how far it moves scores; those
that move them little are timed in turns. The choice is the tower's and the device's: jobs with and without heads share it.
A head that magnifies differences more than most gets a more exact precision.
"""

from __future__ import annotations

import base64
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from beholder.engine import MAX_DRIFT, Precision
from beholder.engine.backends import Backend, build_backend, candidates, default_batch_size
from beholder.engine.devices import device_name, on_one_core
from beholder.engine.drift import (
    NUM_CHECK_PICTURES,
    Remembered,
    check_pictures,
    score_drift,
    typical_drift,
    worst_case_drift,
)
from beholder.engine.onednn import FloatProduct, Int8Product, find_fault, int8_support
from beholder.errors import BeholderError
from beholder.kernels import tokens
from beholder.models.backbones import TowerShape
from beholder.models.clip import ClipVisionTower
from beholder.models.library_towers import LibraryModule, LibraryShape
from beholder.notices import doing, say

if TYPE_CHECKING:
    from beholder.models.heads import Head

FIRST_CUDA_BATCH, LAST_CUDA_BATCH = 64, 1024
_WORTH_DOUBLING = 1.02
"""A doubled batch is kept when it gives this many times the pictures a second."""
_TIMED_BATCHES = _TIMED_PRODUCTS = 5
_WORTH_DRIFT = 1.25
"""A less exact precision is taken when it is at least this many times as fast. Measured towers are well to one side of it: int8
against bf16 1.14 with AMX; int8 against fp32 2.1 with AVX2 alone. So noise does not change the choice."""
_MIN_PASSES, _MAX_PASSES, _PASSES_S = 3, 7, 15.0
"""Timed passes of each precision: at least and at most so many, and no more after so many seconds."""
_CLEARLY_SLOWER = 1.5
"""A precision is given up when a product takes this many times as long as in float32; what is nearer is timed as a whole."""
_FEW_ROWS = 32
"""A product without a kernel of its own can take minutes: it is timed with few rows first."""
_VERSION = 3
"""Goes up when the arithmetic changes, so that older measurements are made again."""

Rows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Situation:
    """What a self-check holds for; the heads do not change what is measured."""

    tower: ClipVisionTower | LibraryModule
    sha256: str
    device: torch.device
    compile: bool
    num_threads: int | None
    heads: Sequence[Head] = ()

    def remembered(self, precisions: Sequence[str]) -> Remembered:
        """Where its result is kept."""
        return Remembered(
            "self-check",
            {
                "version": _VERSION,
                "tower": self.sha256,
                "activation": self.tower.activation,
                "device": device_name(self.device),
                "device_type": self.device.type,
                "torch": str(torch.__version__),
                "compile": self.compile,
                "num_threads": self.num_threads or torch.get_num_threads(),
                "precisions": list(precisions),
            },
        )


def self_check(
    situation: Situation, only: Sequence[Precision] | None = None, *, on_measured: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Embed the check pictures in each precision, compare with fp32 on the same device, time what moves scores little.

    `on_measured` is told the seconds that measuring took, if anything had to be measured.

    Returns a JSON-ready record:
        "drift": {precision: units of score}, with the heads of the situation (see `score_drift`).
        "typical_drift", "worst_case": the same for most heads, and for the worst, of the default one's length.
        "pictures_per_second": of the precisions that were compared in speed.
        "failed": {precision: why it was not tried to the end}.
        "chosen": the precision; "chosen_for_tower": what it would be without these heads.
        "seconds": what measuring took when it was done.
    """
    trying: list[Precision] = [
        "fp32",
        *(name for name in (only or candidates(situation.device, situation.tower)) if name != "fp32"),
    ]
    kept = situation.remembered(trying)
    measured = kept.load()
    if measured is None or not _is_whole(measured):
        measured, is_short = _measured(situation, trying, timed=only is None)
        if not is_short:
            kept.save(measured)
        if on_measured is not None:
            on_measured(float(measured["seconds"]))
    rows = {name: _decoded(text) for name, text in measured["rows"].items()}
    drifts = {name: score_drift(rows["fp32"], found, situation.heads) for name, found in rows.items()}
    rates, typical = measured["pictures_per_second"], measured["typical_drift"]
    found = {name: value for name, value in measured.items() if name != "rows"} | {"drift": drifts}
    if only is None:
        found["chosen"] = found["chosen_for_tower"] = chosen(rates, typical)
        if situation.heads and drifts[found["chosen"]] > MAX_DRIFT:
            found["chosen"] = chosen(rates, {name: max(drifts[name], typical[name]) for name in rates})
    return found


def refuse_drift(precision: str, drifts: Mapping[str, float]) -> None:
    """Raise BeholderError where a precision moves scores, by "drift" of a self-check, further than any that is chosen may."""
    drift = drifts.get(precision)
    if drift is None or not drift <= MAX_DRIFT:
        moved = "could not be checked" if drift is None else f"would move scores by {drift:.3f}, over {MAX_DRIFT}"
        raise BeholderError(f"--precision {precision}: {moved}; choose bf16 or auto")


def check_rows(backend: Backend, image_px: int, batch: int) -> Rows:
    """(8, D) float32 embeddings of the check pictures, computed in batches of `batch`."""
    return _embedded(backend, torch.from_numpy(check_pictures(image_px)), batch)()


def compiled_fault(exact: Rows, plain: Rows, compiled: Rows) -> str:
    """Why the compiled form of a tower is not to be trusted; "" where it is about as near to float32 as the plain form.

    Of `check_rows` in float32, in the plain form and in the compiled one. Two ways to round differ: it may move scores
    (`typical_drift`) by 0.02, or by twice what the plain form does.
    """
    usual, found = typical_drift(exact, plain), typical_drift(exact, compiled)
    if found <= max(MAX_DRIFT, 2 * usual):
        return ""
    return f"compiled, the tower would move scores by {found:.3f} where {usual:.3f} is usual"


def _is_whole(measured: Mapping[str, Any]) -> bool:
    """Whether a kept record has what is read of it; one that someone edited is measured again."""
    words = ("rows", "pictures_per_second", "typical_drift", "worst_case", "failed")
    return all(isinstance(measured.get(word), dict) for word in words) and "fp32" in measured["rows"]


def _encoded(rows: Rows) -> dict[str, Any]:
    return {"dim": rows.shape[1], "float32": base64.b64encode(rows.astype("<f4").tobytes()).decode()}


def _decoded(kept: Mapping[str, Any]) -> Rows:
    return np.frombuffer(base64.b64decode(kept["float32"]), "<f4").reshape(-1, int(kept["dim"])).astype(np.float32)


def _measured(situation: Situation, trying: Sequence[Precision], *, timed: bool) -> tuple[dict[str, Any], bool]:
    """(what is kept of a self-check, whether memory ran out: then it is not, as there may be more the next time)."""
    started = time.perf_counter()
    found: dict[str, Any] = {word: {} for word in ("rows", "typical_drift", "worst_case", "pictures_per_second", "failed")}
    if timed and len(trying) > 1:
        names = ", ".join(trying)
        say(f"choosing a precision for this tower on {situation.device}: measuring {names}; done once, then remembered")
    pictures = torch.from_numpy(check_pictures(situation.tower.shape.image_px))
    exact: Rows | None = None
    backends: dict[Precision, Backend] = {}
    is_short = False
    try:
        for precision in trying:
            if timed and (slow := _slow_product(situation, precision)) is not None:
                found["failed"][precision] = slow
                continue
            try:
                backend, rows = _tried(situation, precision, pictures, compile=situation.compile and not timed)
            except (BeholderError, torch.OutOfMemoryError) as error:
                if precision == "fp32":
                    raise
                found["failed"][precision] = str(error).splitlines()[0]
                is_short = is_short or isinstance(error, torch.OutOfMemoryError)
                continue
            exact = rows if exact is None else exact
            found["rows"][precision] = _encoded(rows)
            found["typical_drift"][precision] = typical_drift(exact, rows)
            found["worst_case"][precision] = worst_case_drift(exact, rows)
            if timed and found["typical_drift"][precision] <= MAX_DRIFT:
                backends[precision] = backend
            else:  # only what is timed in turns is on the device together
                backend.close()
            del backend
        if timed:
            with doing(f"timing {', '.join(backends)}"):
                found["pictures_per_second"] = _rates(backends, situation, pictures)
    finally:
        for backend in backends.values():
            backend.close()
    found["seconds"] = round(time.perf_counter() - started, 1)
    if timed and len(trying) > 1:
        say(_summary(found))
    return found, is_short


def _tried(situation: Situation, precision: Precision, pictures: Tensor, *, compile: bool) -> tuple[Backend, Rows]:
    """A tower in one precision, and its embeddings of the check pictures; nothing is left of one that fails."""
    batch = default_batch_size(situation.device, situation.tower.shape) or NUM_CHECK_PICTURES
    with doing(f"trying precision {precision}"):
        backend = build_backend(
            situation.tower, situation.device, precision, num_threads=situation.num_threads, compile=compile
        )
        try:
            return backend, _embedded(backend, pictures, batch)()
        except BaseException:
            backend.close()
            raise


def _summary(found: Mapping[str, Any]) -> str:
    """What was measured, in a line."""
    parts = [f"{name} {rate:.3g} pictures/s" for name, rate in found["pictures_per_second"].items()]
    drifts, rates = found["typical_drift"], found["pictures_per_second"]
    parts += [f"{name} moves scores by {drift:.3g}" for name, drift in drifts.items() if name not in rates]
    parts += [f"{name} not used: {why}" for name, why in found["failed"].items()]
    return f"measured in {found['seconds']:.0f} s: {'; '.join(parts)}"


def chosen(rates: Mapping[str, float], drifts: Mapping[str, float]) -> str:
    """The most exact precision, unless a less exact one inside 0.02 is worth it: at least 1.25 times as fast."""
    best = "fp32"
    for name in sorted(rates, key=drifts.__getitem__):
        if drifts[name] <= MAX_DRIFT and rates[name] >= _WORTH_DRIFT * rates[best]:
            best = name
    return best


def _slow_product(situation: Situation, precision: Precision) -> str | None:
    """Why `precision` cannot be faster than fp32 on a processor: one product of the tower takes longer."""
    tower = situation.tower
    if situation.device.type != "cpu" or precision == "fp32" or not isinstance(tower, ClipVisionTower):
        return None
    fault = find_fault(tower.activation, int8=precision == "int8")
    if precision == "int8" and fault is not None:
        return fault
    shape, make = tower.shape, torch.Generator().manual_seed(0)
    rows = (default_batch_size(situation.device, shape) or 1) * shape.num_tokens
    weight, bias = torch.randn(shape.mlp_width, shape.width, generator=make), torch.zeros(shape.mlp_width)
    product, dtype = _product_in(precision, weight, bias, rows, is_packed=fault is None)
    for count in (min(_FEW_ROWS, rows), rows):
        x = torch.rand(count, shape.width, generator=make)
        ratio = on_one_core(partial(_ratio, partial(product, x.to(dtype)), partial(F.linear, x, weight)))
        if ratio > _CLEARLY_SLOWER:
            return f"a matrix product takes {ratio:.1f} times as long as in fp32"
    return None


def _product_in(
    precision: Precision, weight: Tensor, bias: Tensor, num_rows: int, *, is_packed: bool
) -> tuple[Callable[[Tensor], Tensor], torch.dtype]:
    """The product of x and weight.T as the tower will compute it, and the dtype that x must have."""
    if precision == "int8":
        support = int8_support()
        assert not isinstance(support, str)
        product = Int8Product(weight, bias, weight_steps=support.weight_steps, zero=tokens.ZERO)
        return lambda x: product(x, support.between), torch.uint8
    if is_packed:
        return FloatProduct(weight, bias, num_rows), torch.bfloat16
    dtype = torch.float16 if precision == "fp16" else torch.bfloat16
    narrow = weight.to(dtype)
    return lambda x: F.linear(x, narrow), dtype


def _ratio(run: Callable[[], object], against: Callable[[], object]) -> float:
    """Time of `run` in times of `against`, in turns; the shortest of each, the first (which prepares a kernel) left out."""
    seconds: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(_TIMED_PRODUCTS + 1):
            for side, what in zip(seconds, (run, against), strict=True):
                started = time.perf_counter()
                what()
                side.append(time.perf_counter() - started)
    return min(seconds[0][1:]) / min(seconds[1][1:])


def _embedded(backend: Backend, pixels: Tensor, batch: int) -> Callable[[], Rows]:
    """What embeds (N, S, S, 3) uint8 `pixels` in batches: (N, D) float32."""

    def run() -> Rows:
        waiting = [backend.submit(pixels[start : start + batch], batch) for start in range(0, len(pixels), batch)]
        return np.concatenate([fetch() for fetch in waiting])

    return run


def _rates(backends: Mapping[Precision, Backend], situation: Situation, pictures: Tensor) -> dict[str, float]:
    """Pictures a second of each, in turns: medians of several passes in which every lane has a full batch."""
    if len(backends) < 2:
        return {}
    batch = default_batch_size(situation.device, situation.tower.shape) or FIRST_CUDA_BATCH
    while True:
        try:
            return _rates_in_batches(backends, pictures, batch)
        except torch.OutOfMemoryError:
            if batch <= len(pictures):
                raise
        batch //= 2


def _rates_in_batches(backends: Mapping[Precision, Backend], pictures: Tensor, batch: int) -> dict[str, float]:
    num_pictures = batch * max(backend.num_lanes for backend in backends.values())
    pixels = pictures.repeat(-(-num_pictures // len(pictures)), 1, 1, 1)[:num_pictures]
    sides = {name: _embedded(backend, pixels, batch) for name, backend in backends.items()}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    started = time.perf_counter()
    for number in range(_MAX_PASSES):
        if number >= _MIN_PASSES and time.perf_counter() - started > _PASSES_S:
            break
        for name, run in sides.items():
            before = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - before)
    return {name: float(f"{num_pictures / statistics.median(values):.4g}") for name, values in seconds.items()}


def find_batch_size(backend: Backend, device: torch.device, shape: TowerShape | LibraryShape, form: str) -> int:
    """Double from 64 to at most 1024 as long as it pays and memory allows. Remembered for the device, tower and form."""
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    kept = Remembered(
        "batch-size",
        {
            "version": _VERSION, "device": device_name(device), "memory": memory, "shape": repr(shape), "form": form,
            "torch": str(torch.__version__),
        },
    )  # fmt: skip
    found = kept.load()
    if found is None:
        found = {"batch_size": best_batch_size(backend, shape.image_px)}
        kept.save(found)
    return int(found["batch_size"])


def best_batch_size(backend: Backend, image_px: int, *, first: int = FIRST_CUDA_BATCH, last: int = LAST_CUDA_BATCH) -> int:
    """See `find_batch_size`. Where even `first` does not fit: the largest half of it that does, else BeholderError."""
    size, best, best_rate = first, 0, 0.0
    while 1 <= size <= last:
        try:
            rate = _batch_rate(backend, image_px, size)
        except torch.OutOfMemoryError:
            rate = 0.0
        if rate == 0.0:
            if best:
                break
            size //= 2
            last = size
            continue
        if rate < best_rate * _WORTH_DOUBLING:
            break
        best, best_rate = size, rate
        size *= 2
    if not best:
        raise BeholderError("no memory for a single picture; choose another device or precision")
    return best


def _batch_rate(backend: Backend, image_px: int, size: int) -> float:
    """Pictures a second in batches of `size`, the first two left out."""
    pixels = torch.zeros(size, image_px, image_px, 3, dtype=torch.uint8)
    for _ in range(2):
        backend.submit(pixels, size)()
    seconds = []
    for _ in range(_TIMED_BATCHES):
        started = time.perf_counter()
        backend.submit(pixels, size)()
        seconds.append(time.perf_counter() - started)
    return size / statistics.median(seconds)
