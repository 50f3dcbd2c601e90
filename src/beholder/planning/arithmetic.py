"""The arithmetic of a plan: rates and a job in; seconds of each stage, what binds, hours, bytes out.

A run is a pipeline: reading, decoding, the tower and writing work side by side, so the slowest of them decides, and the start
is added. What shares the processor's cores adds up: decode workers, the process that feeds the device, and on a processor the
tower, all of whose threads the system gives equal shares (`shared_seconds`). The process that feeds a device is one for each,
and whatever it does shares one interpreter lock: it hands pictures on and writes (`RunRate.core_s`), and gives batches to the
device (`TowerRate.feed_s`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from beholder.planning.rates import DecodeRate, RowsRate, RunRate, StorageRate, TowerRate

SCORE_BYTES = 13.09
"""A row of scores in Parquet: its name, its score, and five columns more (`benchmarks/select_rows.py`, a billion rows)."""
EMBEDDING_BYTES = 2
"""Of one number of a kept embedding: float16."""

_CLOSE = 1e-9
"""Seconds of shared cores, and the parts of them that stages work, are looked for until they change by so little."""
_ROUNDS = 100
"""At the most, of looking for those parts."""
Stage = Literal["cores", "decode", "tower", "feed", "scoring", "storage"]


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done.

    Attributes:
        num_rows: pictures, or rows of embeddings.
        pixels: of a picture, on average; 0 of embeddings.
        read_bytes: all that is read.
        memory_share: of these, what lies in the machine's memory already and does not come from its storage, 0 to 1.
        look_s: seconds that looking at the sources takes, which each run does once.
    """

    num_rows: float
    pixels: float
    read_bytes: float
    memory_share: float = 0.0
    look_s: float = 0.0

    @property
    def stored_bytes(self) -> float:
        """What is read from storage."""
        return self.read_bytes * (1 - self.memory_share)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What does it: `machines` of `cores` cores, on each `devices` processes, one a GPU (or all on the processor).

    `workers`: decode processes of each device; `threads`: of the tower on a processor; None: as a run chooses them.
    """

    machines: int = 1
    cores: int
    devices: int = 1
    is_gpu: bool
    workers: int | None = None
    threads: int | None = None

    @property
    def cores_each(self) -> int:
        """Cores of one process, as `scoring.devices` shares them out."""
        return max(1, self.cores // self.devices)

    @property
    def num_workers(self) -> int:
        """Decode workers of one process: all its cores beside a GPU, half of them beside a tower on the processor."""
        return self.workers if self.workers is not None else max(1, self.cores_each // (1 if self.is_gpu else 2))

    @property
    def num_threads(self) -> int:
        """Threads of the tower of one process on a processor."""
        return self.threads or self.cores_each


@dataclass(frozen=True, kw_only=True)
class PictureRates:
    """What a job on pictures is calculated with."""

    decode: DecodeRate
    tower: TowerRate
    run: RunRate
    storage: StorageRate


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a plan comes to.

    Attributes:
        seconds: of each stage, were it alone.
        core_shares: of the work of the cores: decode, feed, and of a tower on the processor tower; they add up to 1. Of
            embeddings: nothing.
        are_full: whether no core is ever idle while the cores are what is slowest; else more threads would help.
        start_s: before the first picture and after the last one.
        slowest: of the stages.
        gpu_hours: hours of all GPUs together.
        read_bytes, written_bytes: in all.
    """

    seconds: dict[Stage, float]
    core_shares: dict[Stage, float]
    are_full: bool
    start_s: float
    slowest: Stage
    gpu_hours: float
    read_bytes: float
    written_bytes: float

    @property
    def total_s(self) -> float:
        """By the clock, the start included."""
        return self.seconds[self.slowest] + self.start_s

    @property
    def binds(self) -> Stage:
        """What decides: the slowest stage; of the cores, which several share, what takes most of them."""
        if self.slowest != "cores":
            return self.slowest
        return max(self.core_shares, key=lambda stage: self.core_shares[stage])

    @property
    def hours(self) -> float:
        """By the clock."""
        return self.total_s / 3600


def written_bytes(num_rows: float, each: float = SCORE_BYTES, *, kept_dim: int = 0) -> float:
    """Bytes of scores, `each` a row, and of embeddings of `kept_dim` numbers beside them (0: none are kept)."""
    return num_rows * (each + EMBEDDING_BYTES * kept_dim)


def storage_seconds(storage: StorageRate, read: float, written: float, machines: int) -> float:
    """Seconds of reading and writing, one after the other, each machine having the rate for itself."""
    return (read / storage.read_bytes_per_second + written / storage.write_bytes_per_second) / machines


def shared_seconds(jobs: Sequence[tuple[int, float]], cores: int) -> float:
    """Seconds that stages of a pipeline take on so many cores: (threads, seconds of a core) of each stage.

    Threads that have work get equal shares of the cores, none more than one core (processor sharing). The slowest stage has
    work all the time, the others a part of it, each at times of its own: how fast a stage is meanwhile is the mean over which
    of the others are at work. The result is the least time in which none would have to work more than all of it.
    """
    some = [(threads, core_s) for threads, core_s in jobs if core_s > 0]
    alone = [core_s / min(threads, cores) for threads, core_s in some]
    least, most = max([*alone, sum(core_s for _, core_s in some) / cores]), sum(alone)
    while most - least > _CLOSE * most:
        middle = (least + most) / 2
        least, most = (least, middle) if _can_be_done(some, cores, middle) else (middle, most)
    return most


def _can_be_done(jobs: Sequence[tuple[int, float]], cores: int, seconds: float) -> bool:
    """Whether all stages are done in this time. Their parts of it are found from below, where nobody disturbs the others."""
    parts = [0.0] * len(jobs)
    for _ in range(_ROUNDS):
        before = list(parts)
        for at, (threads, core_s) in enumerate(jobs):
            others = [(other, part) for place, ((other, _), part) in enumerate(zip(jobs, parts, strict=True)) if place != at]
            parts[at] = core_s / threads / seconds / _mean_share(threads, others, cores)
            if parts[at] > 1:
                return False
        if sum(parts) - sum(before) <= _CLOSE:
            break
    return True


def _mean_share(threads: int, others: Sequence[tuple[int, float]], cores: int) -> float:
    """Share of a core that each of these threads has, on average, beside others that work a part of the time."""
    mean = 0.0
    for working in itertools.product((True, False), repeat=len(others)):
        chance = math.prod(part if works else 1 - part for (_, part), works in zip(others, working, strict=True))
        at_work = threads + sum(other for (other, _), works in zip(others, working, strict=True) if works)
        mean += chance * min(1.0, cores / at_work)
    return mean


def estimate_pictures(work: Work, rates: PictureRates, setup: Setup, *, keeps_embeddings: bool) -> Estimate:
    """A job on pictures."""
    decode_s, tower_s = rates.decode.core_s(work.pixels), rates.tower.core_s
    feed_s = rates.run.core_s + rates.tower.feed_s
    each = work.num_rows / setup.machines / setup.devices
    written = written_bytes(work.num_rows, rates.run.written_bytes, kept_dim=rates.tower.dim if keeps_embeddings else 0)
    on_cores: dict[Stage, float] = {"decode": decode_s, "feed": rates.run.core_s}
    on_cores |= {"feed": rates.run.core_s + tower_s} if setup.is_gpu else {"tower": tower_s}
    sums = sum(on_cores.values())
    seconds: dict[Stage, float] = {
        "cores": _cores_s(each * setup.devices, on_cores, setup),
        "decode": each * decode_s / max(1, setup.num_workers),
        "tower": each / rates.tower.pictures_per_second if setup.is_gpu else each * tower_s / setup.num_threads,
        "feed": each * (feed_s + (0 if setup.num_workers else decode_s)),
        "storage": storage_seconds(rates.storage, work.stored_bytes, written, setup.machines),
    }
    slowest = _slowest(seconds)
    start_s = rates.run.start_s + rates.tower.load_s + work.look_s
    total_s = seconds[slowest] + start_s
    return Estimate(
        seconds=seconds,
        core_shares={name: value / sums for name, value in on_cores.items()},
        are_full=seconds["cores"] <= each * setup.devices * sums / setup.cores * (1 + 1e-9),
        start_s=start_s,
        slowest=slowest,
        gpu_hours=total_s / 3600 * setup.machines * setup.devices if setup.is_gpu else 0.0,
        read_bytes=work.read_bytes,
        written_bytes=written,
    )


def _slowest(seconds: dict[Stage, float]) -> Stage:
    """The slowest stage; all that the cores do only where it takes longer than any one of them."""
    stage: Stage = max((stage for stage in seconds if stage != "cores"), key=lambda stage: seconds[stage])
    return "cores" if seconds.get("cores", 0.0) > seconds[stage] * (1 + 1e-9) else stage


def _cores_s(num_pictures: float, on_cores: dict[Stage, float], setup: Setup) -> float:
    """Seconds of all that the cores of a machine do for so many pictures.

    Beside a GPU all cores decode, and stand back for the process that feeds it; a tower on the processor takes turns with
    decode workers, which then leave cores idle where they are few.
    """
    if setup.is_gpu:
        return num_pictures * sum(on_cores.values()) / setup.cores
    feeding_s = on_cores["feed"] + (0 if setup.num_workers else on_cores["decode"])
    jobs = [
        (setup.devices, num_pictures * feeding_s),
        (setup.devices * setup.num_threads, num_pictures * on_cores["tower"]),
    ]
    if setup.num_workers:
        jobs.append((setup.devices * setup.num_workers, num_pictures * on_cores["decode"]))
    return shared_seconds(jobs, setup.cores)


def estimate_rows(work: Work, rows: RowsRate, storage: StorageRate, setup: Setup) -> Estimate:
    """A job on embeddings: the kernel works on all cores, and its rate is in proportion to them."""
    written = written_bytes(work.num_rows)
    seconds: dict[Stage, float] = {
        "scoring": work.num_rows / rows.rows_per_second * rows.num_cores / setup.cores / setup.machines,
        "storage": storage_seconds(storage, work.stored_bytes, written, setup.machines),
    }
    slowest = _slowest(seconds)
    return Estimate(
        seconds=seconds,
        core_shares={},
        are_full=False,
        start_s=rows.start_s + work.look_s,
        slowest=slowest,
        gpu_hours=0.0,
        read_bytes=work.read_bytes,
        written_bytes=written,
    )


def one_more(setup: Setup) -> dict[str, Setup]:
    """The setups with one more of something: of each machine a core or a GPU, or a machine."""
    found = {"core": replace(setup, cores=setup.cores + 1)}
    if setup.is_gpu:
        found["GPU"] = replace(setup, devices=setup.devices + 1)
    return {**found, "machine": replace(setup, machines=setup.machines + 1)}
