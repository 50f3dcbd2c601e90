"""`beholder plan`: the job and the rates brought together; hours, bytes, what binds, and what one more of something brings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from beholder.errors import InputError
from beholder.io import storage
from beholder.notices import doing
from beholder.planning.arithmetic import Estimate, PictureRates, Setup, Work, estimate_pictures, estimate_rows, one_more
from beholder.planning.inputs import Inputs, inputs_of
from beholder.planning.options import PlanOptions
from beholder.planning.rates import Rates, TowerRate, load_all, tower_name
from beholder.scoring.devices import devices_of
from beholder.scoring.status import status_of
from beholder.sources.reader import ReadOptions, SourceOptions

_BUSY = 0.1
_TOLD_SHARE = 0.01
_NOT_COMPILED = (
    "rates are those of a tower that is not compiled; a run with --compile takes another time, which bench does not measure"
)


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
    notes: list[str] = []
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
    notes += inputs.notes
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
