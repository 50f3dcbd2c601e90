"""`beholder advise`: shows what thresholds keep and cost."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from beholder.cli.flags import command, output_flags
from beholder.curate.advise.wording import cut, digits, percent, published_percent, value_text
from beholder.curate.options import AdviseOptions

if TYPE_CHECKING:
    from beholder.curate.advise.advice import Advice
    from beholder.curate.advise.representation import ColumnTable, Group

EXAMPLES = """Examples:\n
  beholder advise scores.parquet\n
  beholder advise scores.parquet --min-score 5.0\n
  beholder advise photos.scores --min-score sd-v1 --where 'width >= 512 and height >= 512'\n
  beholder advise scores.parquet --min-score 5 --join metadata.parquet --group-by language --group-by caption\n
  beholder advise coyo-part.parquet --head laion-v2 --no-price --json
"""

_MOST_UNCUT = 14
_NARROWEST_GROUP, _GAP = 8, 2
_MARKS = {"shrinks": "↓", "grows": "↑", "unclear": " "}


def run(options: AdviseOptions, *, as_json: bool, quiet: bool) -> None:
    """Find the advice and show it."""
    from beholder.cli.show import warn
    from beholder.curate.advise.advice import advise as find

    errors = Console(stderr=True)
    with errors.status("reading scores") if errors.is_terminal and not quiet else contextlib.nullcontext():
        advice = find(
            options.scores,
            grid=options.grid or None,
            min_score=options.min_score,
            group_by=options.group_by or None,
            score=options.score,
            head=options.head,
            where=options.where,
            join=options.join,
            with_price=options.price,
            memory=options.memory,
            num_threads=options.num_threads,
            repeated=options.repeated,
            score_column=options.score_column,
            sample_column=options.sample_column,
        )
    for warning in advice.warnings:
        warn(warning, errors)
    if as_json:
        print(json.dumps(advice.to_json(), indent=2, allow_nan=False))
    elif not quiet:
        show(advice, Console(highlight=False), groups=options.groups_shown, is_priced=options.price)


def show(advice: Advice, console: Console, *, groups: int, is_priced: bool = True) -> None:
    """Print advice in tables that fit 80 columns."""
    console.print("\n".join(advice.sentences) + "\n", markup=False)
    _show_scores(advice, console)
    if not advice.num_scored:
        return
    sources = list(
        dict.fromkeys([item.source for item in advice.published] + [row.landmark.source for row in advice.landmarks])
    )
    _show_grid(advice, console, sources)
    _show_landmarks(advice, console, sources)
    if is_priced:
        _show_price(advice, console, groups)
    if sources:
        console.print("\nsources")
        for place, source in enumerate(sources, 1):
            console.print(f"  [{place}] {source}", markup=False, soft_wrap=True)


def _show_scores(advice: Advice, console: Console) -> None:
    """Which scores, how many, how they are spread."""
    head = f"by {advice.head}" if advice.head else "by a head that is not named"
    console.print(f"{advice.source}: {advice.score_column} {head}", markup=False, soft_wrap=True)
    for condition in advice.where:
        console.print(f"  where {condition}", markup=False, soft_wrap=True)
    console.print(f"  {advice.num_scored:,} scores in {advice.num_rows_that_meet:,} rows", markup=False)
    if advice.mean is None:
        return
    console.print(
        f"  mean {advice.mean:.3f}   sd {advice.standard_deviation:.3f}   min {advice.minimum:.3f}   max {advice.maximum:.3f}"
    )
    quantiles = (f"{100 * float(q):g}% {value:.2f}" for q, value in advice.quantiles.items())
    console.print("  " + "  ".join(quantiles), soft_wrap=True)


def _show_grid(advice: Advice, console: Console, sources: Sequence[str]) -> None:
    """What each threshold keeps, beside what is published."""
    sets = [item for item in advice.published if item.has_shares]
    table = _table("score at least", "kept", "of these", *(item.dataset.removeprefix("LAION-") for item in sets))
    for row in advice.grid:
        published = ("" if share is None else published_percent(share) for share in row.published.values())
        style = "bold" if row.threshold == advice.at else None
        mark = " *" if row.threshold == advice.at else "  "
        table.add_row(f"{row.threshold:g}{mark}", f"{row.num_kept:,}", percent(row.share_kept), *published, style=style)
    console.print()
    console.print(table)
    if sets:
        names = ", ".join(f"{item.dataset} [{sources.index(item.source) + 1}]" for item in sets)
        console.print(f"  on the right the published share of {names}; empty where none was published", markup=False)
    for item in advice.published:
        if not item.has_shares:
            console.print(
                f"  {item.dataset}: mean {item.mean:.3f}, min {item.minimum:.3f}, max {item.maximum:.3f} of "
                f"{item.num_pictures:,.0f}; no shares were published [{sources.index(item.source) + 1}]",
                markup=False,
            )


def _show_landmarks(advice: Advice, console: Console, sources: Sequence[str]) -> None:
    """Where others cut."""
    if not advice.landmarks:
        return
    table = _table("others cut at", "kept here", "")
    table.columns[-1].justify = "left"
    for row in advice.landmarks:
        mark = row.landmark
        text = f"{mark.name} ({mark.key}) [{sources.index(mark.source) + 1}]"
        table.add_row(f"{'>' if mark.is_strict else '>='} {mark.threshold:g}", percent(row.share_kept), Text(text))
    console.print()
    console.print(table)


def _show_price(advice: Advice, console: Console, groups: int) -> None:
    """Which groups shrink or grow."""
    if advice.at is None:
        return
    share = percent(advice.num_kept / advice.num_scored)
    console.print(f"\n[bold]The price of {advice.at:g}[/bold]: {advice.num_kept:,} of {advice.num_scored:,} stay, {share}")
    console.print(f"  ({advice.at_reason})", markup=False)
    if advice.num_kept in (0, advice.num_scored):
        console.print("  so there is nothing to compare")
        return
    clear = [table for table in advice.tables if table.num_shrinking or table.num_growing]
    for table in clear:
        _show_column(table, console, groups)
    if clear:
        console.print(
            "\n  ↓ ↑ shrinks or grows: clear after Benjamini-Hochberg at 5 % over all groups of all columns.\n"
            "  ratio: share among those that stay / share among all. Intervals of 95 % (Wilson, Koopman)."
        )
    unclear = [f"{table.column} (by {table.kind})" for table in advice.tables if table not in clear]
    if unclear:
        console.print(f"\n  no group clearly differs: {', '.join(unclear)}", markup=False)
    for item in advice.left_out:
        console.print(f"  {item.column} is left out: {item.reason}", markup=False)


def _show_column(table: ColumnTable, console: Console, groups: int) -> None:
    """One column's groups."""
    pairs = ((table.num_shrinking, "shrink"), (table.num_growing, "grow"))
    counts = [f"{number:,} {verb}{'s' if number == 1 else ''}" for number, verb in pairs if number]
    text = f"{table.column}, by {table.kind}: of {table.num_groups:,} groups {' and '.join(counts)}"
    console.print(f"\n  {text}" + (f" ({table.note})" if table.note else ""), markup=False)
    shown: list[Group] = sorted(table.groups, key=lambda group: group.order)
    if table.num_groups > max(_MOST_UNCUT, 2 * groups):
        shown = [*table.shrinking[:groups], *table.growing[:groups][::-1]]
    rows = [_cells(group, table.kind) for group in shown]
    titles = ("group", "rows", "stay", "share (95 %)", "ratio (95 %)")
    taken = sum(max(len(row[at]) for row in [titles, *rows]) + _GAP for at in range(1, len(titles)))
    printed = _table(*titles)
    printed.columns[0].justify = "left"
    for group, row in zip(shown, rows, strict=True):
        name = cut(row[0], max(_NARROWEST_GROUP, console.width - taken - 2 * _GAP), table.kind)
        printed.add_row(Text(f"{_MARKS[group.verdict]} {name}"), *row[1:])
    console.print(printed)


def _cells(group: Group, kind: str) -> tuple[str, ...]:
    """A group's line, uncut."""
    name = value_text(group, kind)
    interval = f"({digits(group.share_kept_low)}-{digits(group.share_kept_high)})"
    ratio = "" if group.ratio is None else f"{group.ratio:.2f} ({group.ratio_low:.2f}-{group.ratio_high:.2f})"
    return name, f"{group.num_rows:,}", f"{group.num_kept:,}", f"{percent(group.share_kept)} {interval}", ratio


def _table(*titles: str) -> Table:
    table = Table(box=None, padding=(0, 0, 0, _GAP), pad_edge=True)
    for title in titles:
        table.add_column(title, justify="right")
    return table


advise = command(
    AdviseOptions,
    run,
    name="advise",
    argument="scores",
    sources="What `beholder score` wrote, or any Parquet or CSV file (or folder of them) with scores.",
    description="""Advise on a threshold: what it keeps, where others cut, and which groups of pictures it drops most.

    Nothing is written and nothing is selected; `beholder select` does that.
    """,
    examples=EXAMPLES,
    extra=output_flags(as_json="Print all of it as JSON.", quiet="Print nothing but warnings."),
)
