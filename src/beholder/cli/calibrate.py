"""`beholder calibrate`: one head's scores onto another scale, with the map's error, and tables with bounds."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from beholder.cli.flags import SCORES_HELP, SUMMARY_FLAGS, command
from beholder.train.options import CalibrateOptions

if TYPE_CHECKING:
    from beholder.scoreset.scales import ScaleMap
    from beholder.train.calibrate.job import Calibrated

_POINTS = 6
"""Points of a map that are shown."""


def _run(options: CalibrateOptions, **shown: bool) -> None:
    """Calibrate, and show what came of it."""
    from beholder.cli.show import run_and_tell
    from beholder.train.calibrate.job import calibrate as job

    lines_of = partial(summary_lines, options=options)
    run_and_tell(partial(job, options), lambda found: found.to_json() | {"interval": options.interval}, lines_of, **shown)


def summary_lines(made: Calibrated, options: CalibrateOptions) -> list[str]:
    """What is printed of a calibration."""
    found = made.found
    lines = [*made.lines, *([""] if made.lines else [])]
    lines += [f"{found.of.short} onto {found.scale}: {found.method}, {found.num_pictures:,} pictures ({found.more['reason']})"]
    lines += [*_error_lines(found), "", *_points(found), ""]
    if made.margin is not None and options.interval is not None:
        bounds = found.bounds
        assert bounds is not None
        of = "such pictures" if bounds.groups is None else "pictures of new groups"
        whose = "" if bounds.groups is None else f" of {bounds.num_groups:,} groups"
        lines.append(
            f"bounds: {made.margin:.3g} to either side hold {100 * options.interval:g} % of {of} (split conformal, measured on "
            f"{len(bounds.residuals):,}{whose} that their map has not seen)"
        )
    if made.kept is not None:
        lines.append(f"kept: {made.kept}")
        lines.append(f"translates: beholder select {options.scores} --min-score N --scale-of {found.scale}")
    if made.out is not None:
        lines.append(f"written: {made.out} ({', '.join(made.new_columns)})")
    return lines


def _error_lines(found: ScaleMap) -> list[str]:
    """How far off the map is."""
    more = found.more
    if "measures" not in more:
        return [f"{more['error_of']}: {found.error:.3g}; largest difference of shares (KS) {more['ks_distance']:.3g}"]
    lines = [f"on pictures that the fit has not seen (rank correlation {more['srcc']:.3f}):"]
    for title, measures in (("the map", more["measures"]), *((one["name"], one["measures"]) for one in more["beside"])):
        shown = (_shown(name, one, is_chance=bool(more.get("is_chance"))) for name, one in measures["values"].items())
        lines.append(f"  {title:15}  " + "  ".join(shown))
    return lines


def _shown(name: str, one: dict[str, Any], *, is_chance: bool) -> str:
    """A measure with its interval, in units of the scale, which may be any."""
    from beholder.train.card import words_of

    between = f" ({one['low']:.3g} to {one['high']:.3g})" if one["low"] is not None else ""
    return f"{words_of(name, 'decisions') if is_chance else name.upper()} {one['value']:.3g}{between}"


def _points(found: ScaleMap) -> list[str]:
    """Some points of the map, evenly spread over the scores."""
    low, high = found.steps.score_range
    scores = [low + (high - low) * at / (_POINTS - 1) for at in range(_POINTS)]
    values = found.steps(scores).tolist()
    titles = (found.of.short, "chance of a keep" if found.more.get("is_chance") else found.scale)
    widths = [max(len(title), 8) for title in titles]
    rows = [titles, *((f"{score:.4g}", f"{value:.4g}") for score, value in zip(scores, values, strict=True))]
    return ["  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]


calibrate = command(
    CalibrateOptions,
    _run,
    name="calibrate",
    argument="scores",
    sources=SCORES_HELP,
    description="""Map one head's scores onto another head's scale, onto people's ratings, or onto percentiles.

    The map is kept with the head, with its error on pictures that it has not seen, and translates thresholds: select
    --min-score 5 --scale-of laion-v1. A table of scores on the new scale gets bounds with --interval.
    """,
    examples="""Examples:\n
  beholder calibrate v2.parquet --onto v1.parquet  # the same pictures by two heads\n
  beholder calibrate both.parquet --score laion-v2 --onto laion-v1\n
  beholder calibrate here.parquet --onto there.parquet --map quantile  # sets of different pictures\n
  beholder calibrate scores.parquet --ratings ratings.csv --interval 0.9 -o calibrated.parquet\n
  beholder calibrate scores.parquet --percentiles\n
  beholder calibrate more.parquet --scale-of ratings --interval 0.9 -o calibrated.parquet\n
  beholder select v2.parquet --min-score 5 --scale-of laion-v1 -o kept.txt
""",
    extra=SUMMARY_FLAGS,
)
