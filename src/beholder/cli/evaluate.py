"""`beholder evaluate`: how good any heads are on any ratings, and whether one is better than another."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

from beholder.cli.flags import SUMMARY_FLAGS, command
from beholder.errors import number_of
from beholder.train.options import EvaluateOptions

if TYPE_CHECKING:
    from beholder.reporting.evaluation import EvaluationRun
    from beholder.train.evaluate.by import ByColumn
    from beholder.train.evaluate.evaluation import Comparisons

_SHOWN = ("srcc", "plcc", "pair_accuracy", "mae", "rmse")
"""Measures in the summary; the page and `--json` have all."""
_MOST_HEADS, _MOST_PAIRS, _MOST_GROUPS = 12, 6, 12


def _run(options: EvaluateOptions, **shown: bool) -> None:
    """Measure, and show what came of it."""
    from beholder.cli.show import run_and_tell
    from beholder.reporting.evaluation import write_evaluation

    job = partial(write_evaluation, options, arguments=sys.argv[1:])
    run_and_tell(job, lambda run: {"output": run.output, **run.found.record}, summary_lines, **shown)


def summary_lines(run: EvaluationRun) -> list[str]:
    """What is printed of an evaluation."""
    from beholder.reporting.evaluation import lead
    from beholder.train.card import WORDS, ceiling_lines, odd_lines

    found, measured = run.found, run.found.record["measured"]
    compared = found.compared
    warnings = [f"WARNING: {line}" for line in found.warnings]
    lines = [*found.remarks, *found.notes, "", *(f"{line}\n" for line in warnings), *lead(compared), ""]
    what = f"{measured['num_rows']:,} {compared.unit} ({measured['num_groups']:,} groups)"
    lines.append(f"On {what}, with {100 * measured['level']:g} % intervals; by {WORDS[compared.measure]}:")
    lines += [*_table(compared), *_differences(compared)]
    lines += ["", *(line for line in ceiling_lines(found.record) if line)]
    for one in found.by:
        lines += ["", *_groups(one)]
    lines += [f"not compared: {line}" for line in found.record["missing_heads"]]
    lines += odd_lines(found.record, "on the page")
    lines += [
        "",
        f"list of the {measured['num_pictures']:,} measured pictures: sha256 {measured['samples_sha256']}",
        f"page: {run.output} ({run.num_bytes / 1e6:.1f} MB, {run.seconds:.1f} s)",
    ]
    return lines


def _table(compared: Comparisons) -> list[str]:
    """A line for each head, best first, and one for a single guess."""
    from beholder.reporting.evaluation import SHORT

    names = [name for name in _SHOWN if name in compared.judged[0].measures.values]
    shown = [(one.name, one.measures.values) for one in compared.judged[:_MOST_HEADS]]
    shown.append(("one guess for all", compared.constant.values))
    rows = [[name, *(values[key].text() if key in values else "-" for key in names)] for name, values in shown]
    rows.insert(0, ["", *(SHORT[name] for name in names)])
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    lines = ["  " + "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows]
    more = len(compared.judged) - _MOST_HEADS
    return [line.rstrip() for line in lines] + ([f"  ... and {more} more heads"] if more > 0 else [])


def _differences(compared: Comparisons) -> list[str]:
    """What the best heads differ by, and whether it is real."""
    if not compared.differences:
        return []
    lines = ["differences, each interval for its pair alone:"]
    for one in compared.differences[:_MOST_PAIRS]:
        word = one.verdict(compared.measure)
        said = one.measures[compared.measure].text(signed=True)
        lines.append(f"  {one.first} less {one.second}: {said}{f', {word}' if word else ''}")
    more = len(compared.differences) - _MOST_PAIRS
    return [*lines, *([f"  ... and {more} more pairs of heads"] if more > 0 else [])]


def _groups(one: ByColumn) -> list[str]:
    """Measures of the largest groups of a column, of the best head."""
    from beholder.train.card import WORDS

    best = one.groups[0].heads[0].name if one.groups else ""
    lines = [f"by {one.column}, {WORDS[one.measure]} of {best}:" if best else f"by {one.column}: no group is large enough"]
    for group in one.groups[:_MOST_GROUPS]:
        head = group.heads[0]
        residual = "" if head.residual is None else f", rated {round(head.residual, 2) + 0.0:+.2f} beside what is predicted"
        lines.append(f"  {group.value or '(none)'} ({group.num_rows:,}): {head.value.text()}{residual}")
    if len(one.groups) > _MOST_GROUPS:
        lines.append(f"  ... and {len(one.groups) - _MOST_GROUPS} more groups on the page")
    few, rows = one.too_small
    if few:
        lines.append(f"  {number_of(few, 'group')} ({rows:,} in all) too small to be measured")
    return lines


evaluate = command(
    EvaluateOptions,
    _run,
    name="evaluate",
    sources="What beholder score wrote, any Parquet or CSV file with scores, embeddings, or several of these.",
    description="""Measure any heads on any ratings, and write one self-contained HTML page.

    Each column of scores, and each --head on embeddings, is measured on the pictures that all of them score, with intervals and
    paired differences that say which lead is real, calibration, groups, and ratings that look odd.
    """,
    examples="""Examples:\n
  beholder evaluate photos.scores --ratings ratings.csv\n
  beholder evaluate embeddings/ --ratings votes.csv --head laion-v2 --head ./mine.safetensors\n
  beholder evaluate mine.parquet theirs.csv --ratings pairs.csv -o compared.html\n
  beholder evaluate table.csv --ratings table.csv --score-column a --score-column b --rating-column mos\n
  beholder evaluate photos.scores --ratings ava.csv --by challenge --split-by photographer
""",
    extra=SUMMARY_FLAGS,
)
