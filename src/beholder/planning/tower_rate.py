"""Measures a tower on a device: its real weights where they are here, else random ones of the same sizes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from time import process_time, thread_time

import numpy as np

from beholder.engine.backends import candidates
from beholder.engine.devices import device_name, find_device
from beholder.engine.engine import Engine, Pending
from beholder.errors import BeholderError, HeadError, InputError
from beholder.models.backbones import TowerShape, find_backbone
from beholder.models.clip import ClipVisionTower, random_tower
from beholder.models.library_towers import LibraryModule, LibraryShape, LibraryTower
from beholder.models.towers import Tower, load_any_tower
from beholder.planning.options import BenchOptions
from beholder.planning.rates import Clock, TowerRate, tower_name

_WARM_SHARE, _LONG_SHARE = 0.2, 0.5
"""Of a stage's time: for getting warm, and for being timed. A first pass that takes so long is what counts, and one that takes
half of the time for getting warm has done that."""
_FEED_PASSES = 5


@dataclass(frozen=True)
class BenchTower:
    """The tower that is measured.

    Attributes:
        name: as `beholder plan` finds it again.
        module: its network.
        load_s: seconds that loading it took.
        is_random: whether its weights are random.
    """

    name: str
    module: ClipVisionTower | Tower | LibraryTower
    load_s: float
    is_random: bool

    @property
    def shape(self) -> TowerShape | LibraryShape:
        """Its sizes."""
        return self.module.shape

    @property
    def network(self) -> ClipVisionTower | LibraryModule:
        """What computes, without what is known of it."""
        return self.module if isinstance(self.module, ClipVisionTower) else self.module.module

    @property
    def transform(self) -> str:
        """Another library's preprocessing; "" for CLIP's own pixels."""
        return self.module.transform if isinstance(self.module, LibraryTower) else ""


def find_tower(options: BenchOptions, clock: Clock) -> BenchTower:
    """The tower with its weights where they are on this machine, else with random ones. Raises HeadError, InputError."""
    name = tower_name(options.backbone)
    began = clock()
    try:
        tower = load_any_tower(options.backbone, offline=True)
    except HeadError:
        known = find_backbone(name)
        if known is None:
            tower = load_any_tower(options.backbone, offline=options.offline)
        else:
            return BenchTower(name, random_tower(known.shape), 0.0, is_random=True)
    return BenchTower(name, tower, clock() - began, is_random=False)


def devices_to_measure(asked: str) -> list[str]:
    """The devices that "auto" means, or the one that is named. Raises BeholderError: there is no such device."""
    if asked != "auto":
        return [str(find_device(asked))]
    best = find_device("auto")
    return ["cpu"] if best.type == "cpu" else [str(best), "cpu"]


def measure_tower(
    tower: BenchTower, devices: Sequence[str], precision: str, *, seconds: float, clock: Clock
) -> tuple[list[TowerRate], list[str]]:
    """(rates, notes) of the tower on the devices in their precisions; a precision that a device lacks is a note.

    Raises BeholderError where none could be measured.
    """
    asked = [(device, one) for device in devices for one in _precisions(tower, device, precision)]
    found: list[TowerRate] = []
    notes: list[str] = []
    for device, one in asked:
        try:
            found.append(_measured(tower, device, one, seconds / len(asked), clock))
        except BeholderError as error:
            notes.append(str(error))
    if not found:
        raise InputError(notes[0])
    return found, notes


def _precisions(tower: BenchTower, device: str, asked: str) -> list[str]:
    if asked != "auto":
        return [asked]
    return ["fp32", *candidates(find_device(device), tower.network)[:1]]


def _measured(tower: BenchTower, device: str, precision: str, seconds: float, clock: Clock) -> TowerRate:
    began = clock()
    engine = Engine(tower.module, device=device, precision=precision)  # type: ignore[arg-type]
    try:
        built_s = clock() - began
        few = engine.call_size // 2 if engine.batch_size else 1  # a batch for each lane, or what finds the batch
        first = _timed(engine, few, 0.0, clock)
        if first.took_s > seconds * _LONG_SHARE:
            steady = first
        else:
            is_short = first.took_s < seconds * _WARM_SHARE / 2
            if is_short:
                _timed(engine, engine.call_size, seconds * _WARM_SHARE, clock)
            steady = _timed(engine, engine.call_size if is_short else few, seconds * _LONG_SHARE, clock)
        feed_s = _feed_s(engine, steady, clock)
    finally:
        engine.close()
    return TowerRate(
        backbone=tower.name,
        device=engine.device.type,
        device_name=device_name(engine.device),
        precision=precision,
        dim=engine.dim,
        pictures_per_second=steady.count / steady.took_s,
        core_s=steady.core_s / steady.count,
        feed_s=feed_s,
        load_s=tower.load_s + built_s + max(0.0, first.took_s - few * steady.took_s / steady.count),
        is_random=tower.is_random,
    )


@dataclass(frozen=True)
class _Pass:
    """Pictures that were embedded, seconds by the clock, of the processor's cores, and of this thread for handing them over."""

    count: int
    took_s: float
    core_s: float
    feed_s: float


def _timed(engine: Engine, num_pictures: int, seconds: float, clock: Clock) -> _Pass:
    """Embed so many pictures again and again, the next ones handed over before the last ones are waited for, as a run does."""
    side = engine.image_px
    pixels = np.random.default_rng(0).integers(0, 256, (num_pictures, side, side, 3), np.uint8)
    core_began, began = process_time(), clock()
    feed_s = 0.0

    def submit() -> Pending:
        nonlocal feed_s
        before = thread_time()
        found = engine.submit(pixels)
        feed_s += thread_time() - before
        return found

    pending, count = submit(), num_pictures
    while clock() - began < seconds:
        following = submit()
        engine.result(pending)
        pending, count = following, count + num_pictures
    engine.result(pending)
    return _Pass(count, clock() - began, process_time() - core_began, feed_s)


def _feed_s(engine: Engine, steady: _Pass, clock: Clock) -> float:
    """Seconds of the feeding thread for one picture.

    A GPU is given single batches while it has nothing else to do: else waiting for it, which takes a core, would count. The
    lanes of a processor take pictures themselves, so there handing over never waits.
    """
    if engine.device.type == "cpu":
        return steady.feed_s / steady.count
    passes = [_timed(engine, engine.batch_size or 1, 0.0, clock) for _ in range(_FEED_PASSES)]
    return median(one.feed_s / one.count for one in passes)
