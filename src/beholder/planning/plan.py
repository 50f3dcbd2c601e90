"""`beholder plan`: the job and the rates brought together; hours, bytes, what binds, and what one more of something brings.

What is behind the sources (pictures or rows, bytes, pixels) is counted, or estimated with the error told.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from beholder.errors import InputError
from beholder.io import locations, storage
from beholder.io.page_cache import share_in_memory
from beholder.notices import doing
from beholder.planning.arithmetic import Estimate, PictureRates, Setup, Work, estimate_pictures, estimate_rows, one_more
from beholder.planning.options import PlanOptions
from beholder.planning.rates import Rates, TowerRate, load_all, tower_name
from beholder.scoring.devices import devices_of
from beholder.scoring.status import status_of
from beholder.sources.find import find
from beholder.sources.reader import Part, PicturePart, ReadOptions, SourceOptions, picture_reader
from beholder.sources.sampling import sample_refs, sample_sizes, spread

_BUSY = 0.1
_TOLD_SHARE = 0.01
_NOT_COMPILED = (
    "rates are those of a tower that is not compiled; a run with --compile takes another time, which bench does not measure"
)
_COUNTED_PARTS = 16
_COUNT_S = 10.0
_COUNT_FEW = 2
_SIGMAS = 2.0
_SIZES = 400
_ALONE = ("files", "table")
"""Kinds of parts whose pictures are files of their own."""
_FILES = 64
"""So many files are looked up in memory."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What sources hold.

    Attributes:
        unit: "pictures" or "rows".
        work: of all of it.
        error: of the number of rows: two standard errors as a share of it; 0 where it was counted, None where nothing tells.
        notes: what was estimated, and from what.
        dim: of embeddings.
    """

    unit: str
    work: Work
    error: float | None
    notes: tuple[str, ...]
    dim: int = 0


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """What is printed of a plan.

    Attributes:
        inputs: what is to be done.
        setup: what does it.
        estimate: what it comes to.
        more: the same with one more core, GPU, machine.
        tower: the rate that counts; None for embeddings.
        notes: what was assumed.
    """

    inputs: Inputs
    setup: Setup
    estimate: Estimate
    more: dict[str, Estimate]
    tower: TowerRate | None
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        found = self.estimate
        return {
            "unit": self.inputs.unit,
            "count": round(self.inputs.work.num_rows),
            "count_error": self.inputs.error,
            "pixels": self.inputs.work.pixels,
            "machines": self.setup.machines,
            "cores": self.setup.cores,
            "devices": self.setup.devices,
            "device": None if self.tower is None else self.tower.device,
            "precision": None if self.tower is None else self.tower.precision,
            "workers": self.setup.num_workers,
            "hours": found.hours,
            "gpu_hours": found.gpu_hours,
            "start_seconds": found.start_s,
            "stage_seconds": found.seconds,
            "core_shares": found.core_shares,
            "binds": found.binds,
            "slowest_stage": found.slowest,
            "read_bytes": round(found.read_bytes),
            "written_bytes": round(found.written_bytes),
            "one_more": {name: {"hours": more.hours, "binds": more.binds} for name, more in self.more.items()},
            "notes": list(self.notes),
        }


def plan(options: PlanOptions) -> JobPlan:
    """Plan a job. Raises InputError: rates that are not known or cannot be used, sources without anything to score, ..."""
    rates = load_all(options.rates)
    if options.sources:
        with doing("looking at the sources"):
            inputs = inputs_of(
                options.sources,
                SourceOptions(picture_column=options.picture_column),
                ReadOptions(embedding_column=options.embedding_column),
            )
    else:
        inputs = _told(options, rates)
    if options.out is not None:
        inputs = _left(inputs, options.out)
    if options.machines > 1:  # others have a memory of their own
        inputs = replace(inputs, work=replace(inputs.work, memory_share=0.0))
    notes = list(inputs.notes)
    if inputs.work.memory_share > _TOLD_SHARE:
        notes.append(
            f"{100 * inputs.work.memory_share:.0f} % of what is read lies in the memory of this machine now, and is not "
            "counted as read from storage"
        )
    if rates.busy > _BUSY:
        notes.append(
            f"while rates were measured, others had {100 * rates.busy:.0f} % of the processor; measure again when it is quiet"
        )
    if inputs.unit == "rows":
        return _of_rows(options, rates, inputs, notes)
    tower, setup = _choice(options, rates)
    chosen = PictureRates(
        decode=_known(rates.decode, "decoding"), tower=tower, run=_known(rates.run, "whole runs"),
        storage=_known(rates.storage, "storage"),
    )  # fmt: skip
    if tower.is_random:
        notes.append(f"{tower.backbone} was measured with random weights; rates do not depend on them, its loading does")
    notes += [*_about_storage(rates), _NOT_COMPILED]

    def calculate(setup: Setup) -> Estimate:
        return estimate_pictures(inputs.work, chosen, setup, keeps_embeddings=options.keep_embeddings)

    return _made(inputs, setup, calculate, tower, notes)


def _made(
    inputs: Inputs, setup: Setup, calculate: Callable[[Setup], Estimate], tower: TowerRate | None, notes: list[str]
) -> JobPlan:
    return JobPlan(
        inputs=inputs,
        setup=setup,
        estimate=calculate(setup),
        more={name: calculate(other) for name, other in one_more(setup).items()},
        tower=tower,
        notes=tuple(notes),
    )


def _of_rows(options: PlanOptions, rates: Rates, inputs: Inputs, notes: list[str]) -> JobPlan:
    rows, place = _known(rates.rows, "embeddings"), _known(rates.storage, "storage")
    if options.keep_embeddings:
        raise InputError("--keep-embeddings: these are embeddings already, so it has no effect; leave it out")
    if rows.dim != inputs.dim:
        factor = rows.dim / inputs.dim
        rows = replace(rows, rows_per_second=rows.rows_per_second * factor)
        notes.append(f"measured on embeddings of {rows.dim} numbers, these have {inputs.dim}: rows/s in proportion")
    setup = Setup(machines=options.machines, cores=options.cores or rows.num_cores, is_gpu=False)
    notes += _about_storage(rates)
    return _made(inputs, setup, lambda setup: estimate_rows(inputs.work, rows, place, setup), None, notes)


def _known(stage: Any, what: str) -> Any:
    if stage is None:
        raise InputError(f"the rates do not say anything of {what}: run beholder bench, or name a file that does (--rates)")
    return stage


def _told(options: PlanOptions, rates: Rates) -> Inputs:
    """The work that `--count` and `--pixels` tell."""
    decode = _known(rates.decode, "decoding")
    width, height = options.size()
    assert options.count is not None
    each = width * height * decode.bytes_per_pixel
    note = f"{each / 1e3:,.1f} kB a picture: as many bytes for a pixel as the pictures that were measured"
    work = Work(num_rows=options.count, pixels=width * height, read_bytes=options.count * each)
    return Inputs(unit="pictures", work=work, error=0.0, notes=(note,))


def _left(inputs: Inputs, out: str) -> Inputs:
    """What is left of work of which `out` has some already; the whole's error is a larger share of it.

    Raises InputError: all is done, or as much as an estimate says there is.
    """
    if not storage.exists(out):
        return inputs
    done, whole = status_of(out).num_read, inputs.work.num_rows
    left = max(0.0, whole - done)
    if done > whole and inputs.error == 0:
        raise InputError(
            f"{out} has {done:,} rows, and the sources have {whole:,.0f} {inputs.unit}: it is of another job, or its "
            "sources had more; name the output of this one"
        )
    if not left and inputs.error == 0:
        raise InputError(f"{out}: all {done:,} {inputs.unit} are done; nothing is left to plan")
    if not left:
        raise InputError(
            f"{out}: {done:,} {inputs.unit} are done, and about {whole:,.0f} were estimated in all, so what is left cannot be "
            f"told; beholder status {out} says how many shards are left"
        )
    note = f"{done:,} {inputs.unit} are done in {out}; this is what is left"
    error = None if inputs.error is None else inputs.error * whole / left
    if error:
        note += f", ± {100 * error:.1f} % of it"
    work = replace(inputs.work, num_rows=left, read_bytes=inputs.work.read_bytes * left / whole)
    return replace(inputs, work=work, error=error, notes=(*inputs.notes, note))


def _choice(options: PlanOptions, rates: Rates) -> tuple[TowerRate, Setup]:
    """The tower's rate and the setup that the options ask for. Raises InputError: it was not measured."""
    name = tower_name(options.backbone)
    towers = [tower for tower in rates.towers if tower.backbone == name]
    if not towers:
        known = ", ".join(dict.fromkeys(tower.backbone for tower in rates.towers)) or "none"
        raise _not_measured("--backbone", options.backbone, options.backbone, known)
    kinds = list(dict.fromkeys(tower.device for tower in towers))
    if options.devices is None:
        kind, num_devices = next((kind for kind in kinds if kind != "cpu"), "cpu"), 1
    else:
        named = devices_of(options.devices)
        kind, num_devices = named[0].partition(":")[0], len(named)
    fitting = [tower for tower in towers if tower.device == kind]
    if not fitting:
        raise _not_measured("--device", kind, kind, ", ".join(kinds))
    if options.precision != "auto":
        measured = ", ".join(tower.precision for tower in fitting)
        fitting = [tower for tower in fitting if tower.precision == options.precision]
        if not fitting:
            raise _not_measured("--precision", options.precision, f"{options.precision} on {kind}", measured)
    tower = max(fitting, key=lambda tower: tower.pictures_per_second)
    setup = Setup(
        machines=options.machines,
        cores=options.cores or rates.num_cores,
        devices=num_devices,
        is_gpu=kind != "cpu",
        workers=options.workers,
        threads=options.num_threads,
    )
    return tower, setup


def _not_measured(flag: str, value: str, what: str, measured: str) -> InputError:
    return InputError(f"{what} was not measured, but {measured}: beholder bench {flag} {value} measures it")


def _about_storage(rates: Rates) -> list[str]:
    if rates.storage is None or not rates.storage.is_cached:
        return []
    return [f"{rates.storage.place} was read from memory when it was measured (a disk in memory?); other storage is slower"]


def inputs_of(sources: Sequence[str], pictures: SourceOptions, embeddings: ReadOptions) -> Inputs:
    """Look at sources as a run does, and at a few of their tars and headers. Raises InputError: nothing to score is there."""
    began = time.monotonic()
    found = find(sources, pictures, embeddings)
    look_s = time.monotonic() - began  # a run looks like this, too
    in_memory = _share_in_memory(found.pictures or found.embeddings, pictures)
    work = _pictures(found.pictures, pictures) if found.pictures else _rows(found.embeddings)
    return replace(work, work=replace(work.work, look_s=look_s, memory_share=in_memory))


def _share_in_memory(parts: Sequence[PicturePart] | Sequence[Part], options: SourceOptions) -> float:
    """Share of the sources that lies in this machine's memory; 0 where nothing tells. Before anything else is read of them."""
    alone = [part for part in parts if isinstance(part, PicturePart) and part.kind in _ALONE]
    packed = [part.path for part in parts if part.kind not in _ALONE]
    files = [packed[place] for place in spread(len(packed), _FILES)]
    files += [ref.path for ref in sample_refs(alone, _FILES, replace(options, columns=())) if ref.path is not None]
    local = [Path(locations.local_path(path)) for path in files if locations.is_local(path)]
    return (share_in_memory(local) or 0.0) * len(local) / max(1, len(files))


def _pictures(parts: Sequence[PicturePart], options: SourceOptions) -> Inputs:
    count, error, notes = _count(parts, options)
    sizes = sample_sizes(parts, options, most=_SIZES)
    if not len(sizes.pixels):
        raise InputError("no header of these pictures tells how large they are; plan with --count and --pixels")
    pixels = float(sizes.pixels.mean())
    notes.append(f"{pixels:,.0f} pixels a picture: the mean of {len(sizes.pixels):,} headers{_spread(sizes.pixels.tolist())}")
    num_bytes = float(sum(part.num_bytes for part in parts))
    if not all(part.num_bytes for part in parts):
        num_bytes = count * float(sizes.num_bytes.mean())
        notes.append(f"bytes: {sizes.num_bytes.mean():,.0f} a picture, the mean of the same")
    work = Work(num_rows=count, pixels=pixels, read_bytes=num_bytes)
    return Inputs(unit="pictures", work=work, error=error, notes=tuple(notes))


def _spread(values: Sequence[float]) -> str:
    """The mean's error in words: two standard errors."""
    if len(values) < _COUNT_FEW:
        return ""
    return f", ± {100 * _SIGMAS * stdev(values) / math.sqrt(len(values)) / fmean(values):.1f} %"


def _count(parts: Sequence[PicturePart], options: SourceOptions) -> tuple[float, float | None, list[str]]:
    """(pictures, error as a share, notes): of parts of unknown length some are read through, and the others go by bytes."""
    known = sum(part.num_rows or 0 for part in parts)
    unknown = [part for part in parts if part.num_rows is None]
    if not unknown:
        return float(known), 0.0, []
    deadline = time.monotonic() + _COUNT_S
    counted: list[tuple[int, int]] = []
    for place in spread(len(unknown), _COUNTED_PARTS):
        if len(counted) >= _COUNT_FEW and time.monotonic() > deadline:
            break
        part = unknown[place]
        blocks = picture_reader(part.kind).blocks(part, 0, None, replace(options, columns=()))
        counted.append((sum(len(block.refs) for block in blocks), part.num_bytes))
    rows, num_bytes = sum(found for found, _ in counted), sum(size for _, size in counted)
    in_all = sum(part.num_bytes for part in unknown)
    if not rows or not num_bytes:
        raise InputError("the tars that were looked into hold no pictures; plan with --count and --pixels")
    ratio = rows / num_bytes
    estimate = known + ratio * in_all
    if len(counted) == len(unknown):
        return estimate, 0.0, []
    what = f"about {estimate:,.0f} pictures: {len(counted)} of {len(unknown):,} tars were counted"
    if len(counted) < _COUNT_FEW:
        return estimate, None, [f"{what}; how far that is off cannot be told from one"]
    residual = sum((found - ratio * size) ** 2 for found, size in counted) / (len(counted) - 1)
    left_out = 1 - len(counted) / len(unknown)  # ratio estimator: Cochran, Sampling Techniques, 1977, section 6.4
    error = _SIGMAS * math.sqrt(left_out * residual / len(counted)) / (num_bytes / len(counted)) * in_all / estimate
    return estimate, error, [f"{what}, the others go by their bytes: ± {100 * error:.1f} %"]


def _rows(parts: Sequence[Part]) -> Inputs:
    unknown = next((part for part in parts if part.num_rows is None), None)
    if unknown is not None:
        raise InputError(f"{unknown.path}: only reading it through tells how many rows it has; .npy and Parquet files say it")
    kinds = sorted({part.kind for part in parts})
    notes = [] if kinds == ["npy"] else [f"rates are those of .npy; {' and '.join(kinds)} take longer to unpack"]
    work = Work(
        num_rows=sum(part.num_rows or 0 for part in parts),
        pixels=0.0,
        read_bytes=sum(part.num_bytes for part in parts),
    )
    return Inputs(unit="rows", work=work, error=0.0, notes=tuple(notes), dim=parts[0].dim)
