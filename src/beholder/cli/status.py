"""`beholder status`: how far a run is and who works on it, on any disk or in a bucket."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import typer

from beholder.cli.flags import command, output_flags
from beholder.errors import number_of
from beholder.scoring.options import StatusOptions

if TYPE_CHECKING:
    from beholder.scoring.status import RunStatus

_PAUSE_S = 5.0
_CLEAR_ABOVE = "\x1b[{lines}F\x1b[J"
"""Takes back so many lines of a terminal."""


def _run(options: StatusOptions, *, as_json: bool) -> None:
    """Look, and show what was seen; again and again where that is asked for."""
    from beholder.scoring.status import status_of

    is_drawn_over = options.watch and not as_json and sys.stdout.isatty()
    num_lines = 0
    while True:
        found = status_of(options.output)
        lines = [json.dumps(found.to_json(), indent=None if options.watch else 2)] if as_json else status_lines(found)
        if is_drawn_over and num_lines:
            typer.echo(_CLEAR_ABOVE.format(lines=num_lines), nl=False)
        typer.echo("\n".join(lines))
        num_lines = len(lines)
        if not options.watch or found.state != "running":
            return
        time.sleep(_PAUSE_S)


def status_lines(found: RunStatus) -> list[str]:
    """What is printed of a status."""
    from beholder.cli.show import duration

    shards = f"{found.num_shards_done:,} shards"
    if found.num_shards is not None:
        shards = f"{found.num_shards_done:,} of {found.num_shards:,} shards"
    rows = f"{found.num_read:,} rows"
    if found.num_rows is not None and found.num_rows >= found.num_read:
        share = f" ({100 * found.num_read / found.num_rows:.1f} %)" if found.num_rows else ""
        rows = f"{found.num_read:,} of {found.num_rows:,} rows{share}"
    is_file = found.state == "finished" and not found.num_shards_done
    lines = [f"{found.output}: {found.state}, " + (rows if is_file else f"{shards}, {rows}")]
    reasons = ", ".join(f"{count:,} {word}" for word, count in found.reasons.items())
    verb = {"scores": "scored", "embeddings": "embedded"}[found.noun]
    rejected = f"rejected {found.num_rejected:,}" + (f": {reasons}" if reasons else "")
    lines.append(f"  {verb} {found.num_scored:,}, {rejected}")
    if found.num_damaged:
        what = number_of(found.num_damaged, "done-marker is", "done-markers are")
        lines.append(f"  {what} damaged; the same command does these shards again")
    if found.state == "running":
        lines.append(f"  {_speed(found)}")
    elif found.seconds_since is not None:
        lines.append(f"  the last shard was finished {duration(found.seconds_since)} ago")
    lines += [f"  at work: {holder}" for holder in found.at_work]
    if found.state != "finished":
        lines += [f"  ended without finishing: {holder}" for holder in found.gone]
    if found.state == "stopped":
        is_all = found.num_shards is not None and found.num_shards_done >= found.num_shards
        again = f"all shards are done; the same command, without --part, puts {found.output} together"
        lines.append(f"  {again if is_all else 'nobody works on it; run the same command again to continue'}")
    return lines


def _speed(found: RunStatus) -> str:
    """The rate and the time left of a run at work."""
    from beholder.cli.show import duration

    if found.num_shards is not None and found.num_shards_done >= found.num_shards:
        return "all shards are done; the result is being finished"
    if found.rows_per_second is None:
        return "no shard is done since it began"
    left = "" if found.seconds_left is None else f"; about {duration(found.seconds_left)} left"
    rate = f"{found.rows_per_second:,.0f}" if found.rows_per_second >= 100 else f"{found.rows_per_second:.3g}"
    return f"{rate} rows/s in the last {duration(found.rate_s or 0)}{left}"


status = command(
    StatusOptions,
    _run,
    name="status",
    argument="output",
    sources="What beholder score or embed writes, or wrote: a folder, .parquet or .csv, local or remote.",
    description="""Show how far a run is: shards and rows done, rejects by reason, the rate, the time left, who works on it.

    It may be asked while the run works, on any machine that sees its output, after it, and after a crash. Nothing is written. A
    shard counts once all of it is done.
    """,
    examples="""Examples:\n
  beholder status photos.scores\n
  beholder status scores.parquet --watch\n
  beholder status s3://bucket/scores --json
""",
    extra=output_flags(as_json="Print it as JSON; with --watch as one line each time."),
)
