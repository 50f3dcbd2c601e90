"""Measures what decoding costs: real decode workers on pictures of several sizes, one worker and all cores."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beholder.engine.drift import check_pictures
from beholder.errors import InputError
from beholder.options import all_cores
from beholder.pixels.picture import PictureError, PixelOptions
from beholder.planning.rates import Clock, DecodeRate, SizeRate, fitted, through
from beholder.sources.reader import PictureRef
from beholder.workers.pool import DecodePool

SIZES = ((128, 96), (512, 512), (1024, 768), (3000, 2000))
"""Width and height of the pictures that are made."""
_SIDE_PX, _CUT_PX, _QUALITY = 512, 384, 85
_GRAIN = 3.0
"""Standard deviation of the camera's noise, of 255 levels."""
_EACH = 4
_FEW = 4
"""Of each size at least so many pictures are decoded, however long they take."""
_ROUNDS = 3
"""Of all sizes, with one worker and with all; the middle one counts."""
_UP_S = 60.0
"""Workers that have made no picture by then never do."""
_CPU_CLOCK = 2
"""CPUCLOCK_SCHED: the clock of a process, in nanoseconds, has the number ~ID * 8 + 2 (Linux, linux/posix-timers.h)."""
_MOST_GROWTH = 8
"""Pictures are given in growing numbers, each at most so many times the last one, as the first ones tell little of the time."""


def made_photographs(folder: Path) -> dict[str, list[PictureRef]]:
    """JPEGs of each of `SIZES`, as photographs are: noise of a 1/f spectrum and a camera's, 0.15 to 0.45 bytes a pixel."""
    from PIL import Image

    soft = Image.fromarray(check_pictures(_SIDE_PX)[0])
    found: dict[str, list[PictureRef]] = {}
    for width, height in SIZES:
        refs = []
        for number in range(_EACH):
            rng = np.random.default_rng(number)
            left, top = rng.integers(0, _SIDE_PX - _CUT_PX, 2)
            box = (left, top, left + _CUT_PX, top + _CUT_PX * height / width)
            cut = np.asarray(soft.resize((width, height), Image.Resampling.BICUBIC, box=box), np.float32)
            cut = cut + _GRAIN * rng.standard_normal((height, width, 1), np.float32)
            path = folder / f"{width}x{height}_{number}.jpg"
            Image.fromarray(np.clip(cut, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=_QUALITY)
            refs.append(PictureRef(path=str(path)))
        found[f"made, {width}x{height}"] = refs
    return found


def measure_decoding(
    pictures: dict[str, list[PictureRef]], options: PixelOptions, *, own: str | None, seconds: float, clock: Clock
) -> DecodeRate:
    """What decoding costs.

    Args:
        pictures: by what they are, at least one of each.
        options: which pixels.
        own: which of `pictures` are those of the job: the line goes through their cost, and they have half of the time.
        seconds: for all of it, about.
        clock: tells the time.

    Raises InputError: none of the pictures can be decoded.
    """
    shares = dict.fromkeys(pictures, 1.0) | ({} if own is None else {own: max(1.0, len(pictures) - 1.0)})
    each = {what: seconds / 2 / _ROUNDS * share / sum(shares.values()) for what, share in shares.items()}
    alone, together = _costs(pictures, options, (1, all_cores()), each, clock)
    sizes = {}
    for what, (core_s, pixels, num_bytes) in together.items():
        sizes[what] = SizeRate(what=what, pixels=pixels, num_bytes=num_bytes, core_s=core_s, core_s_alone=alone[what][0])
    others = [size for what, size in sizes.items() if what != own]
    constant_s, pixel_s = fitted(others) if own is None else through(sizes[own], others)
    chosen = tuple(sizes.values()) if own is None else (sizes[own], *others)
    return DecodeRate(constant_s=constant_s, pixel_s=pixel_s, decoder=options.decoder, image_px=options.size_px, sizes=chosen)


_Cost = tuple[float, float, float]
"""Seconds of a core for a picture, mean pixels, mean bytes."""


def _costs(
    pictures: dict[str, list[PictureRef]], options: PixelOptions, counts: Sequence[int], seconds: dict[str, float], clock: Clock
) -> list[dict[str, _Cost]]:
    """What pictures cost with each of these numbers of workers: the middle one of several rounds of so many seconds each.

    Rounds of all of them take turns, so that what slows the machine for a while does not meet one of them alone.
    """
    found: list[dict[str, list[_Cost]]] = [{what: [] for what in pictures} for _ in counts]
    with contextlib.ExitStack() as opened:
        pools = [opened.enter_context(DecodePool(options, num_workers=count, num_slots=64 + 4 * count)) for count in counts]
        for pool, count in zip(pools, counts, strict=True):
            _warm_up(pool, next(iter(pictures.values())), count, clock)
        for _ in range(_ROUNDS):
            for pool, count, costs in zip(pools, counts, found, strict=True):
                for what, refs in pictures.items():
                    costs[what].append(_cost(pool, refs, count, seconds[what], clock))
    return [{what: sorted(some)[len(some) // 2] for what, some in costs.items()} for costs in found]


def _warm_up(pool: DecodePool, refs: Sequence[PictureRef], num_workers: int, clock: Clock) -> None:
    """Have all workers start and make a picture, as what they load for the first one is none of its cost."""
    endless, began = itertools.cycle(refs), clock()
    _decoded(pool, endless, num_workers)
    while pool.num_warm < num_workers and clock() - began < _UP_S:
        _decoded(pool, endless, num_workers)


def _cost(pool: DecodePool, refs: Sequence[PictureRef], num_workers: int, seconds: float, clock: Clock) -> _Cost:
    """What some pictures cost, given over and over for about so long.

    All that is given is waited for, so what the workers do is what is counted: nothing of it is left to the next pictures.
    Raises InputError where none can be decoded.
    """
    endless, few = itertools.cycle(refs), max(_FEW, num_workers)
    began = clock()
    found, given = _Decoded(), few
    before, measured_from = _core_seconds(pool), clock()
    while given:
        found += _decoded(pool, endless, given)
        if not found.count and found.num_failed > 2 * len(refs):
            raise InputError(f"none of the pictures looked at can be decoded ({found.fault}); name others to measure with")
        took = clock() - measured_from
        left = seconds - (clock() - began)
        more = int(left / max(took, 1e-9) * (found.count + found.num_failed))
        given = min(more, _MOST_GROWTH * given) if more >= few else 0
        if found.count < _FEW:
            given = few
    spent = _core_seconds(pool) - before
    if spent <= 0:  # too short to be seen, or a system that does not tell
        spent = (clock() - measured_from) * num_workers
    return spent / found.count, found.pixels / found.count, found.num_bytes / found.count


@dataclass(frozen=True, kw_only=True)
class _Decoded:
    """Pictures that were decoded, their pixels and bytes; those that could not be, and why the last one could not."""

    count: int = 0
    pixels: int = 0
    num_bytes: int = 0
    num_failed: int = 0
    fault: PictureError | None = None

    def __add__(self, other: _Decoded) -> _Decoded:
        return _Decoded(
            count=self.count + other.count,
            pixels=self.pixels + other.pixels,
            num_bytes=self.num_bytes + other.num_bytes,
            num_failed=self.num_failed + other.num_failed,
            fault=other.fault or self.fault,
        )


def _decoded(pool: DecodePool, refs: Iterator[PictureRef], count: int) -> _Decoded:
    """What becomes of the next so many pictures; all are waited for."""
    replies, fault = [], None
    for outcome in pool.map(enumerate(itertools.islice(refs, count))):
        outcome.release()
        fault = outcome.error or fault
        if outcome.error is None:
            replies.append(outcome.reply)
    return _Decoded(
        count=len(replies),
        pixels=sum(reply.width * reply.height for reply in replies),
        num_bytes=sum(reply.num_bytes for reply in replies),
        num_failed=count - len(replies),
        fault=fault,
    )


def _core_seconds(pool: DecodePool) -> float:
    """Seconds of the processor that the workers have had so far, their reading included."""
    total = 0.0
    for process_id in pool.process_ids:
        with contextlib.suppress(OSError):  # it has ended, or this system has no such clocks
            total += time.clock_gettime((~process_id << 3) | _CPU_CLOCK)
    if not total:
        stats = pool.stats
        total = stats.decode_s + stats.read_s
    return total
