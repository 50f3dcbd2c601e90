"""The HTML page about heads measured on ratings: what `beholder evaluate` writes."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder import __version__
from beholder.errors import OutputError
from beholder.io import storage, writing
from beholder.io.overwriting import check_ours
from beholder.reporting.charts import NOTHING, number
from beholder.reporting.page import check_is_html, made_at, page_name, render
from beholder.reporting.plots import Plot, calibration_plot, marks_plot, residual_plot, scatter_plot
from beholder.train.card import WORDS, words_of
from beholder.train.evaluate.evaluation import REAL, Comparisons, Difference, Judged
from beholder.train.evaluate.job import Evaluation, evaluate
from beholder.train.logistic import chances
from beholder.train.measures import Interval
from beholder.train.noise import UNLIKELY
from beholder.train.options import EvaluateOptions

Doubles = npt.NDArray[np.float64]

MARK = "beholder evaluation"
"""Stands near the top of every page (the template's block `kind`); a file without it is never replaced."""
_MOST_SUSPICIOUS = 20
_MOST_DIFFERENCES = 15
_HALF, _MIDDLE = 56.0, 60.0
"""Of the drawing of an interval, in its box of 120."""

SHORT = {
    "srcc": "SRCC", "plcc": "PLCC", "kendall": "tau-b", "pair_accuracy": "pairs", "mae": "MAE", "rmse": "RMSE",
    "accuracy": "cut", "top_1_percent_precision": "top 1 %", "top_5_percent_precision": "top 5 %",
}  # fmt: skip
"""Heads of columns, in their order."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """What was found, and where the page is.

    Attributes:
        output: the page; num_bytes: of it.
        found: the figures; `found.record` is ready for JSON.
        seconds: of all.
    """

    output: str
    num_bytes: int
    found: Evaluation
    seconds: float


def write_evaluation(options: EvaluateOptions, *, arguments: Sequence[str] | None = None) -> EvaluationRun:
    """Measure heads on ratings, and write the page.

    Args:
        options: see `EvaluateOptions`.
        arguments: the command line, for the page's provenance.

    Raises:
        OutputError: the page is there already, is none of ours, or cannot be written.
        BeholderError: as `train.evaluate.job.evaluate` has it.
    """
    started = time.perf_counter()
    options.check()
    out = _checked_output(options)
    found = evaluate(options)
    page = page_of(found, title=options.title, arguments=arguments)
    writing.write_bytes(out, page)
    return EvaluationRun(output=out, num_bytes=len(page), found=found, seconds=time.perf_counter() - started)


def _checked_output(options: EvaluateOptions) -> str:
    """Where the page goes. Raises OutputError where it may not be written."""
    out = options.out or page_name(options.sources[0], "evaluation")
    check_is_html(out)
    if storage.exists(out) and not options.overwrite:
        raise OutputError(f"{out} is there already; use --overwrite to replace it, or another --out")
    check_ours(out, MARK)
    return out


def page_of(found: Evaluation, *, title: str | None = None, arguments: Sequence[str] | None = None) -> bytes:
    """The page, as UTF-8."""
    compared = found.compared
    measured = found.record["measured"]
    measures = compared.judged[0].measures.values
    names = sorted((name for name in SHORT if name in measures), key=lambda name: name != compared.measure)
    file = PurePosixPath(found.record["ratings"]["file"].rstrip("/")).name
    return render(
        "evaluation.html.j2",
        {
            "version": __version__,
            "title": title or f"Heads measured on {file or 'ratings'}",
            "made": made_at(),
            "lead": lead(compared),
            "tiles": _tiles(found),
            "notes": found.notes,
            "warnings": found.warnings,
            "unit": compared.unit,
            "level": f"{100 * measured['level']:g} %",
            "columns": [(SHORT[name], words_of(name, found.ratings.kind)) for name in names],
            "ordered_by": WORDS[compared.measure],
            "lines": [_line(one, at, compared, names) for at, one in enumerate(compared.judged)],
            "beside": _beside(found, names),
            "how": how_measured(found),
            "differences": _drawn(compared.differences, compared.measure),
            "most_differences": _MOST_DIFFERENCES,
            "heads": [_head_view(at, one, found) for at, one in enumerate(compared.judged)],
            "by": [_by_view(one) for one in found.record["by"]],
            "suspicious": [_suspicious_view(one) for one in found.suspicious],
            "most_suspicious": _MOST_SUSPICIOUS,
            "best": compared.judged[0].name,
            "unlikely": f"{100 * UNLIKELY:g} %" if found.ratings.kind == "decisions" else "",
            "remarks": found.remarks,
            "missing": found.record["missing_heads"],
            "provenance": _provenance(found, arguments),
        },
    )


def lead(compared: Comparisons) -> list[str]:
    """Which head is best, and whether that is more than chance, in sentences."""
    best, measure = compared.judged[0], compared.measure
    value = best.measures[measure]
    if math.isnan(value.value):
        return ["No head orders these pictures at all: each gives all of them the same score."]
    second = compared.to_best(1) if len(compared.judged) > 1 else None
    if second is None:
        return [f"{best.name} on these {compared.unit}: {WORDS[measure]} {value.text()}."]
    found = [f"{best.name} orders the {compared.unit} best: {WORDS[measure]} {value.text()}."]
    if not second.verdict(measure):
        return [*found, f"Nothing tells whether it is better than {second.second}."]
    said = second.measures[measure].text(signed=True)
    if second.verdict(measure) == REAL:
        return [*found, f"Its lead over {second.second}, {said}, is real: the interval leaves out 0."]
    alike = [
        one.second
        for at in range(1, len(compared.judged))
        if (one := compared.to_best(at)) is not None and one.verdict(measure) not in (REAL, "")
    ]
    shown = ", ".join(alike[:4]) + (f" and {len(alike) - 4} more" if len(alike) > 4 else "")
    return [*found, f"It is not told apart from {shown}: its lead over {second.second} is {said}."]


def how_measured(found: Evaluation) -> list[str]:
    """How the figures were made, in sentences."""
    measured = found.record["measured"]
    unit, is_grouped = found.compared.unit, measured["num_groups"] != measured["num_pictures"]
    groups = f"{measured['num_groups']:,} groups of pictures" if is_grouped else "pictures, each on its own"
    lines = [
        f"Intervals hold {100 * measured['level']:g} % of {measured['num_resamples']:,} resamples of {groups}; differences are "
        "of the same resamples. Each interval is for its pair of heads alone: of twenty pairs that are equally good, one "
        f"is called {REAL} by chance."
    ]
    if unit == "pairs":
        return [
            *lines,
            "A pair whose two pictures a head gives the same score counts half. In a resample a pair counts as often as its "
            "two pictures were drawn together: pairs that share a picture are not independent.",
        ]
    is_marks = found.ratings.kind == "decisions"
    shape = "a logistic curve" if is_marks else "a straight line"
    lines.append(
        f"Ranks, PLCC and pairs are of the scores as they are. MAE, RMSE and the cut are of scores brought to the ratings' "
        f"scale by {shape}, fitted each time to the other folds; so a head is not blamed for another scale."
    )
    if is_marks:
        lines.append("Pairs in the right order, of a kept and a dropped picture each, are the area under the ROC curve.")
    elif measured["cut"] is not None:
        lines.append(f"Ratings from {measured['cut']:g} up count as good.")
    return lines


def _cell(interval: Interval | None) -> tuple[str, str]:
    """A value, and its interval."""
    if interval is None or not math.isfinite(interval.value):
        return NOTHING, ""
    bounds = f"{interval.low:.3f} to {interval.high:.3f}" if math.isfinite(interval.low) else ""
    return f"{interval.value:.3f}", bounds


def _tiles(found: Evaluation) -> list[tuple[str, str]]:
    """(number, what it is) at the head of the page."""
    measured, compared = found.record["measured"], found.compared
    best = compared.judged[0].measures[compared.measure]
    tiles = [(f"{measured['num_rows']:,}", f"{compared.unit} measured")]
    if compared.unit == "pairs":
        tiles.append((f"{measured['num_pictures']:,}", "pictures in them"))
    tiles += [(f"{measured['num_groups']:,}", "groups resampled"), (str(len(compared.judged)), "heads")]
    tiles.append((_cell(best)[0], f"{WORDS[compared.measure]}, best head"))
    most = NOTHING if found.ceiling is None else _cell(found.ceiling.values.get(compared.measure))[0]
    tiles.append((most, "ceiling: not known" if most == NOTHING else "ceiling by the raters' noise"))
    return tiles


def _line(one: Judged, at: int, compared: Comparisons, names: Sequence[str]) -> dict[str, Any]:
    """A row of the table of heads."""
    difference = compared.to_best(at)
    return {
        "name": one.name,
        "cells": [_cell(one.measures.values.get(name)) for name in names],
        "verdict": "best" if difference is None else difference.verdict(compared.measure),
    }


def _beside(found: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """What stands below the heads: one guess for all, and the ceiling."""
    constant = found.compared.constant.values
    lines = [{"name": "one guess", "cells": [_cell(constant.get(name)) for name in names], "verdict": ""}]
    if found.ceiling is not None:
        cells = [_cell(found.ceiling.values.get(name)) for name in names]
        lines.append({"name": "ceiling", "cells": cells, "verdict": ""})
    return lines


def _drawn(differences: Sequence[Difference], measure: str) -> list[dict[str, Any]]:
    """Differences with their intervals as places in a box of 120, 0 in its middle."""
    intervals = [one.measures[measure] for one in differences]
    ends = [abs(end) for one in intervals for end in (one.value, one.low, one.high) if math.isfinite(end)]
    scale = _HALF / max([*ends, 1e-9])

    def place(value: float) -> float:
        return round(_MIDDLE + value * scale, 2)

    return [
        {
            "first": one.first,
            "second": one.second,
            "value": NOTHING if math.isnan(interval.value) else f"{interval.value:+.3f}",
            "bounds": f"{interval.low:+.3f} to {interval.high:+.3f}" if math.isfinite(interval.low) else "",
            "verdict": one.verdict(measure),
            "drawn": {"low": place(interval.low), "high": place(interval.high), "at": place(interval.value)}
            if math.isfinite(interval.low)
            else None,
        }
        for one, interval in zip(differences, intervals, strict=True)
    ]


def _head_view(at: int, one: Judged, found: Evaluation) -> dict[str, Any]:
    """The plots of a head."""
    facts = [("scores of", one.source if one.column is None else f"{one.source}, column {one.column}")]
    if math.isfinite(one.slope):
        left = "log odds of a keep" if found.ratings.kind == "decisions" else "rating"
        facts.append(("map", f"{left} = {one.intercept:.4g} {'+' if one.slope >= 0 else '-'} {abs(one.slope):.4g} x score"))
    facts.append(
        ("scores", f"{one.scores.min():.4g} to {one.scores.max():.4g}" if found.compared.unit == "pictures" else NOTHING)
    )
    return {
        "index": at,
        "name": one.name,
        "plots": _plots(at, one, found),
        "facts": [fact for fact in facts if fact[1] != NOTHING],
        "measures": [(words_of(name, found.ratings.kind), value.text()) for name, value in one.measures.values.items()],
    }


def _plots(at: int, one: Judged, found: Evaluation) -> list[Plot]:
    level = one.measures.level
    if found.compared.unit == "pairs":
        words = {"title": "Right by how far apart the scores are", "x_label": "difference of the scores", "y_label": "right"}
        return [calibration_plot(f"calibration-{at}", one.bins, None, is_share=True, level=level, unit="pairs", **words)]
    is_marks = found.ratings.kind == "decisions"
    calibration = calibration_plot(
        f"calibration-{at}",
        one.bins,
        _curve(one, is_marks=is_marks),
        title="Calibration: what was rated where it gives such scores",
        x_label="score",
        y_label="kept" if is_marks else "mean rating",
        is_share=is_marks,
        level=level,
        unit="pictures",
    )
    if is_marks:
        return [calibration, marks_plot(f"marks-{at}", one.scores, found.truth > 0.5)]
    return [
        calibration,
        scatter_plot(f"scatter-{at}", one.scores, found.truth, one.bins),
        residual_plot(f"residuals-{at}", one.scores, found.truth - one.predicted, one.bins),
    ]


def _curve(one: Judged, *, is_marks: bool) -> Callable[[Doubles], Doubles] | None:
    """From scores to predicted ratings, or chances of a keep."""
    if not math.isfinite(one.slope):
        return None
    if is_marks:
        return lambda scores: chances(one.intercept + one.slope * scores)
    return lambda scores: one.intercept + one.slope * scores


def _by_view(record: Mapping[str, Any]) -> dict[str, Any]:
    """A table of groups."""
    lines = []
    for group in record["groups"]:
        cells = []
        for head in group["heads"]:
            value = NOTHING if head["value"] is None else f"{head['value']:.3f}"
            bounds = "" if head["low"] is None else f"{head['low']:.3f} to {head['high']:.3f}"
            residual = "" if head["residual"] is None else f"{round(head['residual'], 2) + 0.0:+.2f}"
            cells.append((value, bounds, residual))
        lines.append({"value": group["value"] or "(none)", "num_rows": group["num_rows"], "cells": cells})
    notes = []
    small, more = record["too_small"], record["not_shown"]
    if small["num_groups"]:
        are = "1 group has" if small["num_groups"] == 1 else f"{small['num_groups']:,} groups have"
        notes.append(f"{are} fewer than {small['fewer_than']} ({small['num_rows']:,} in all), too few to be measured.")
    if more["num_groups"]:
        are = "1 smaller group is" if more["num_groups"] == 1 else f"{more['num_groups']:,} smaller groups are"
        notes.append(f"{are} not shown ({more['num_rows']:,} in all).")
    return {
        "column": record["column"],
        "measure": WORDS[record["measure"]],
        "names": [head["name"] for head in record["groups"][0]["heads"]] if record["groups"] else [],
        "lines": lines,
        "notes": notes,
        "has_residuals": any(cell[2] for line in lines for cell in line["cells"]),
    }


def _suspicious_view(one: Mapping[str, Any]) -> list[str]:
    return [
        one["sample"],
        number(one["rating"]),
        f"{one['predicted']:.2f}",
        f"{one['residual']:+.2f}",
        f"{one['deviations']:+.1f}",
    ]


def _provenance(found: Evaluation, arguments: Sequence[str] | None) -> list[tuple[str, str]]:
    record, measured = found.record, found.record["measured"]
    near = "not looked for" if measured["near_duplicates"] is None else f"cosine from {measured['near_duplicates']:g}"
    return [
        ("made", made_at()),
        ("beholder", __version__),
        ("command", shlex.join(["beholder", *arguments]) if arguments else "write_evaluation(...)"),
        ("ratings", str(record["ratings"]["file"])),
        ("layout", record["ratings"]["layout"]),
        ("scores", ", ".join(dict.fromkeys(head["source"] for head in record["heads"]))),
        ("list of measured pictures", f"{measured['num_pictures']:,}, SHA-256 {measured['samples_sha256']}"),
        ("near-duplicates", near),
        ("kept together", measured["split_by"] or NOTHING),
        ("a picture counts by", measured["weigh_by"]),
        ("seed", str(record["seed"])),
    ]
