"""`beholder bench` and `beholder plan`: what this machine does, and how long a job will take."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import typer

from beholder.cli.flags import command, output_flags
from beholder.errors import number_of
from beholder.planning.options import BenchOptions, PlanOptions

if TYPE_CHECKING:
    from beholder.planning.arithmetic import Estimate, Setup
    from beholder.planning.plan import JobPlan
    from beholder.planning.rates import Rates

_BUSY = 0.1
_WORDS = {"cores": "all that the cores do", "decode": "decoding", "tower": "the tower", "feed": "feeding the device"}
_ADVICE = {
    "decode": "decoding; cores, or --decoder scaled, make it faster",
    "tower": "the tower; faster devices, more of them, or another precision make it faster",
    "feed": "feeding the device, which one process does for each; more of them (--devices) make it faster",
    "storage": "storage; faster disks or links, or more machines with links of their own make it faster",
    "scoring": "scoring; cores make it faster",
}
"""What a plan says of what binds."""


def _bench(options: BenchOptions, *, as_json: bool) -> None:
    """Measure, and print the result."""
    from beholder.cli.show import JobProgress
    from beholder.planning.bench import bench
    from beholder.planning.rates import kept_path

    with JobProgress(enabled=not as_json):
        found, notes = bench(options)
    lines = [json.dumps(found.to_json(), indent=1)] if as_json else bench_lines(found, notes, options.out or str(kept_path()))
    typer.echo("\n".join(lines))


def bench_lines(found: Rates, notes: list[str], where: str) -> list[str]:
    """Rates in the form of the project's result files: a heading, the machine, tables."""
    lines = [f"# Rates of this machine, {found.date[:7]}", "", *found.about]
    lines.append(f"- measured on {found.date}; others had {100 * found.busy:.0f} % of the processor meanwhile")
    if found.busy > _BUSY:
        lines.append("- that is much: measure again when the machine is quiet")
    lines += [*(f"- left out: {note}" for note in notes), f"- kept in {where}", ""]
    if (decode := found.decode) is not None:
        lines += [f"Decoding ({decode.decoder}, to {decode.image_px} px), by real decode workers:", ""]
        lines += [
            "| pictures | pixels | kB | pictures/s and core, one worker | all cores | line |",
            "|---|---|---|---|---|---|",
        ]
        for size in decode.sizes:
            costs = [1 / cost for cost in (size.core_s_alone, size.core_s, decode.core_s(size.pixels))]
            rates = " | ".join(f"{rate:,.1f}" for rate in costs)
            lines.append(f"| {size.what} | {size.pixels:,.0f} | {size.num_bytes / 1e3:,.1f} | {rates} |")
        lines += ["", f"The line: {decode.constant_s * 1e3:.3f} ms and {decode.pixel_s * 1e9:.2f} ns a pixel, of one core.", ""]
    lines += [
        "| tower | device | precision | pictures/s | core ms a picture | of it feeding | loading | weights |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for tower in found.towers:
        cores = f"{tower.core_s * 1e3:,.4g} | {tower.feed_s * 1e3:.3f} ms"
        rate = f"{tower.pictures_per_second:,.4g} | {cores} | {tower.load_s:.1f} s"
        weights = "random" if tower.is_random else "its own"
        lines.append(f"| {tower.backbone} | {tower.device} ({tower.device_name}) | {tower.precision} | {rate} | {weights} |")
    lines += ["", "| the rest | |", "|---|---|"]
    if found.run is not None:
        lines.append(f"| handing a picture on and writing, one core | {found.run.core_s * 1e3:.3f} ms |")
        lines.append(f"| written of a picture | {found.run.written_bytes:,.0f} bytes |")
        lines.append(f"| start and end of a run, without the tower | {found.run.start_s:.1f} s |")
    if (place := found.storage) is not None:
        how = "from memory" if place.is_cached else "past the page cache"
        lines.append(f"| {place.place}: reading ({how}) | {place.read_bytes_per_second / 1e6:,.0f} MB/s |")
        lines.append(f"| {place.place}: writing, flushed | {place.write_bytes_per_second / 1e6:,.0f} MB/s |")
    if (rows := found.rows) is not None:
        what = f"embeddings of {rows.dim} float16 to scores, {rows.num_cores} cores, from the page cache"
        lines.append(f"| {what} | {rows.rows_per_second / 1e6:,.2f} M rows/s |")
    return lines


def _plan(options: PlanOptions, *, as_json: bool) -> None:
    """Plan, and print it."""
    from beholder.planning.plan import plan

    found = plan(options)
    typer.echo(json.dumps(found.to_json(), indent=2) if as_json else "\n".join(plan_lines(found)))


def plan_lines(found: JobPlan) -> list[str]:
    """What is printed of a plan."""
    estimate, setup = found.estimate, found.setup
    about = "" if found.inputs.error == 0 else "about "
    lines = [f"{about}{found.inputs.work.num_rows:,.0f} {found.inputs.unit} on {_setup(found)}"]
    gpu = f", {_hours(estimate.gpu_hours)} of GPUs" if setup.is_gpu else ""
    lines.append(f"  {_hours(estimate.hours)}{gpu}, of which the start {estimate.start_s:,.0f} s")
    lines.append(f"  read {_bytes(estimate.read_bytes)}, written {_bytes(estimate.written_bytes)}")
    lines += [f"  what binds is {_binding(estimate, setup)}", "", f"  {'stage, were it alone':<28}{'hours':>14}"]
    lines += [f"  {_WORDS.get(stage, stage):<28}{_number(value / 3600):>14}" for stage, value in estimate.seconds.items()]
    lines += ["", f"  {'with one more':<28}{'hours':>14}{'faster':>10}  what binds then"]
    for name, more in found.more.items():
        faster = f"{estimate.hours / more.hours:.2f} x"
        lines.append(f"  {name:<28}{_number(more.hours):>14}{faster:>10}  {_WORDS.get(more.binds, more.binds)}")
    return [*lines, *([""] if found.notes else []), *(f"  note: {note}" for note in found.notes)]


def _setup(found: JobPlan) -> str:
    setup, tower = found.setup, found.tower
    machines, cores = number_of(setup.machines, "machine"), number_of(setup.cores, "core")
    if tower is None:
        return f"{machines} of {cores}"
    if setup.is_gpu:
        return f"{machines} of {setup.devices} x {tower.device_name} and {cores}, {tower.precision}"
    processes = "" if setup.devices == 1 else f" in {setup.devices} processes"
    return f"{machines} of {cores}{processes}, the tower on the processor, {tower.precision}"


def _binding(estimate: Estimate, setup: Setup) -> str:
    advice = _ADVICE[estimate.binds]
    is_short = estimate.binds == "decode" and (estimate.slowest == "decode" or not estimate.are_full)
    if is_short and setup.num_workers < setup.cores_each:
        workers = number_of(setup.num_workers, "decode worker")
        advice = (
            f"decoding by {workers} beside {setup.cores_each:,} cores; more of them (-j), or --decoder scaled, make it faster"
        )
    if estimate.slowest != "cores":
        return advice
    shares = sorted(estimate.core_shares.items(), key=lambda item: -item[1])
    told = "the cores are full" if estimate.are_full else "of what the cores do"
    return f"{advice} ({told}: " + ", ".join(f"{_WORDS[name]} {100 * share:.0f} %" for name, share in shares) + ")"


def _hours(hours: float) -> str:
    return f"{_number(hours)} h" if hours >= 1 else f"{hours * 60:.1f} min" if hours >= 1 / 60 else f"{hours * 3600:.1f} s"


def _number(value: float) -> str:
    return f"{value:,.1f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else f"{value:.5f}"


def _bytes(count: float) -> str:
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB")):
        if count >= unit:
            return f"{count / unit:,.2f} {name}"
    return f"{count / 1e3:,.1f} kB"


bench = command(
    BenchOptions,
    _bench,
    name="bench",
    sources="Pictures like those of the job: some of them are decoded as well; without them, made ones alone.",
    description="""Measure what this machine does: decoding, the tower, storage, whole runs. Takes about a minute.

    The rates are kept for beholder plan; a file of them (-o) serves to plan for this machine from another one.
    """,
    examples="""Examples:\n
  beholder bench\n
  beholder bench shards/ --storage /data --precision bf16\n
  beholder bench -o node7.json --storage s3://bucket/scratch
""",
    extra=output_flags(as_json="Print the rates as JSON."),
)

plan = command(
    PlanOptions,
    _plan,
    name="plan",
    sources="What is to be scored: pictures or embeddings, as of beholder score.",
    description="""Say how long a job will take, what it reads and writes, what binds, what one more core or machine brings.

    It calculates with what beholder bench measured on this machine, or with files of rates of others. Nothing is scored.
    """,
    examples="""Examples:\n
  beholder plan shards/ --keep-embeddings\n
  beholder plan --count 1000000000 --pixels 512x512 --machines 8\n
  beholder plan shards/ --rates node7.json --devices 0,1,2,3 --cores 64
""",
    extra=output_flags(as_json="Print it as JSON."),
)
