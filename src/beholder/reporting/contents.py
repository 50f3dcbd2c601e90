"""Everything that the page says, but for its pictures."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from beholder import columns
from beholder.columns import SAMPLE
from beholder.curate.advise.advice import Advice, advise
from beholder.curate.advise.representation import Group
from beholder.curate.advise.rows import choose_score
from beholder.errors import InputError
from beholder.reporting import selections
from beholder.reporting.charts import NOTHING, percent
from beholder.reporting.heads import NUM_BORDER, HeadSection, head_section, set_border
from beholder.reporting.options import ReportOptions
from beholder.reporting.rows import VIEW, RowFacts, fetch_rows
from beholder.reporting.selections import Decisions, Groups, Member, read_groups
from beholder.scoreset.database import clear_errors, connect
from beholder.scoreset.joined import narrow
from beholder.scoreset.picture_column import PictureColumn, caption_column_of, find_picture_column
from beholder.scoreset.rejects import RejectReason, count_reasons
from beholder.scoreset.score_set import ScoreSet, heads_recorded

_NUM_EXAMPLES, _NUM_GROUPS = 6, 16
_MOST_REASONS = 50
"""Beholder's own tables of rejects have far fewer."""

Say = Callable[[str], None]


@dataclass
class Contents:
    """What was found.

    Attributes:
        scores: the rows that it is all about.
        heads: sections, one per score column.
        facts: rows by number, of all that may be shown.
        decisions, groups: or None.
        rejects: reasons.
        num_read, num_rejected: when the set was scored, whatever conditions say.
        kept, dropped_by: of the rows shown.
        notes: lines that the page should say.
        where: conditions that the rows meet.
        num_rows_of_set: rows of the set in all, those that name a sample again included.
        picture_column: what says where pictures are in place of the rows' names; None: the names do.
    """

    scores: ScoreSet
    heads: list[HeadSection]
    facts: dict[int, RowFacts]
    decisions: Decisions | None
    groups: Groups | None
    rejects: list[RejectReason]
    num_read: int
    num_rejected: int
    kept: dict[int, bool] = field(default_factory=dict)
    dropped_by: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    where: tuple[str, ...] = ()
    num_rows_of_set: int = 0
    picture_column: PictureColumn | None = None

    def addresses(self) -> Iterator[str]:
        """What is looked for as pictures, in the order in which they matter, as often as they are shown."""
        for head in self.heads:
            for row in head.rows:
                if (address := self.facts[row].address) is not None:
                    yield address
        for group in self.groups.shown if self.groups else ():
            for member in group.members:
                if (address := self.member_facts(member).address) is not None:
                    yield address

    def member_facts(self, member: Member) -> RowFacts:
        """What is known of a picture of a group: of one that the set lacks its name alone, as row -1."""
        facts = self.facts.get(member.row) if member.row is not None else None
        if facts is not None and facts.sample == member.sample:
            return facts
        return RowFacts(-1, member.sample, (), (), member.sample if self.picture_column is None else None)


def gather(whole: ScoreSet, options: ReportOptions, scratch: Path, say: Say) -> Contents:
    """Read the set; memory is 8 bytes a row and head at most, one head at a time. Raises InputError.

    The rows lie in `scratch` where there are conditions or tables to join, so it has to stay.
    """
    decisions, narrowed, scores = None, None, whole
    if options.where or options.join:
        say("joining tables" if not options.where else "looking for rows that meet the conditions")
        narrowed = narrow(
            whole, where=options.where, join=options.join, scratch=scratch, num_threads=options.threads or os.cpu_count() or 1
        )
        scores = narrowed.scores
    holds = narrowed.holds if narrowed is not None else None
    if options.head is not None and len(scores.score_columns) > 1:
        raise InputError(f"--head names one head, {scores.source} has scores of several: {', '.join(scores.score_columns)}")
    if options.decisions is not None:
        say("reading the selection")
        decisions = selections.read_decisions(options.decisions, whole, scratch, holds=holds)
    rejects = count_reasons(scores.rejects, _NUM_EXAMPLES)[:_MOST_REASONS]
    counted = sum(reason.count for reason in rejects)
    with (
        connect(scratch, num_threads=options.threads or os.cpu_count() or 1) as connection,
        clear_errors(f"{scores.source} cannot be read"),
    ):
        scores.register(connection, VIEW)
        groups = None
        if options.groups is not None:
            groups = read_groups(
                connection,
                options.groups,
                _NUM_GROUPS,
                scratch,
                by_name=len(whole.left_out) > 0 or holds is not None,
                only_known=holds is not None,
            )
        heads = [_head(index, scores, options, decisions, say) for index in range(len(scores.score_columns))]
        border = selections.border_rows(connection, decisions, NUM_BORDER) if decisions is not None else None
        if border is not None and any(len(rows) for rows in border):
            for head in heads:
                set_border(head, *border)
        say("reading names and metadata of what is shown")
        wanted = {row for head in heads for row in head.rows}
        wanted |= set(groups.rows) if groups is not None else set()
        pictures = None if options.no_thumbnails else find_picture_column(scores, options.picture_column, options.pictures)
        facts = fetch_rows(
            connection,
            scores,
            wanted,
            picture_column=pictures.name if pictures is not None else None,
            caption_column=caption_column_of(scores.schema, [SAMPLE, scores.sample_column, *scores.score_columns]),
        )
        for head in heads:
            head.put_in_order(facts, border_is_ordered=border is not None)
        dropped = selections.reasons_of(connection, decisions, sorted(wanted)) if decisions is not None else {}
    read = num_read(whole, counted)
    most_scored = narrowed.num_tried if narrowed is not None else max(head.num_scored + head.num_not_finite for head in heads)
    return Contents(
        scores,
        heads,
        facts,
        decisions,
        groups,
        rejects,
        read,
        max(counted, read - most_scored) if scores.record else counted,
        kept={row: bool(decisions.kept[row]) for row in wanted} if decisions is not None else {},
        dropped_by=dropped,
        notes=[*whole.notes, *(narrowed.notes if narrowed is not None else ())],
        where=options.where,
        num_rows_of_set=whole.whole().num_rows,
        picture_column=pictures,
    )


def _head(index: int, scores: ScoreSet, options: ReportOptions, decisions: Decisions | None, say: Say) -> HeadSection:
    """One head's section, with advice on its threshold."""
    column = scores.score_columns[index]
    say(f"counting {column}")
    at: Any = options.min_score
    if at is None and decisions is not None and decisions.threshold is not None and _is_by(decisions, scores, column):
        at = decisions.threshold
    advice = advise(
        scores, min_score=at, group_by=options.group_by or None, score=column, head=options.head, num_threads=options.threads
    )
    say(f"choosing pictures by {column}")
    section = head_section(
        index,
        column,
        advice.head,
        scores.scores(column),
        threshold=advice.at,
        kept=decisions.kept if decisions is not None else None,
        per_bucket=options.per_bucket,
        seed=options.seed,
    )
    section.advice, section.prices, section.is_chosen = advice, price_tables(advice), at is not None
    if at is not None and section.num_scored and decisions is None:
        section.lead = list(advice.sentences)
    elif options.min_score is not None and section.num_scored:  # the price would be read as that of the selection
        section.lead = list(advice.sentences[:1])
    return section


def _is_by(decisions: Decisions, scores: ScoreSet, column: str) -> bool:
    """Whether the selection goes by this column."""
    if len(scores.score_columns) == 1 or decisions.score is None:
        return True
    try:
        return choose_score(scores, decisions.score) == column
    except InputError:
        return False


_FOREST_WIDTH, _MOST_RATIO = 120.0, 8.0
"""Ratios are drawn on a logarithmic scale from 1/8 to 8, in a box of this width."""
_SHOWN = 14
_VALUE_CHARACTERS = 60
_OPEN_TABLES, _MOST_TABLES = 2, 24


def price_tables(advice: Advice) -> list[dict[str, Any]]:
    """The first few tables as they are shown, in the order of how much the threshold changes them: the first ones open."""
    found = []
    for place, table in enumerate(advice.tables[:_MOST_TABLES]):
        groups = table.groups
        if len(groups) > _SHOWN:  # those that shrink most, and those that grow most
            groups = (*groups[: _SHOWN // 2], *groups[-(_SHOWN // 2) :])
        text = f"{table.num_groups:,} groups: {table.num_shrinking:,} shrink, {table.num_growing:,} grow"
        if len(groups) < table.num_groups:
            text += f"; the outer {len(groups)} are shown"
        if table.one_row_in > 1:
            text += f"; of every {table.one_row_in:,} rows one was looked at"
        found.append(
            {
                "column": table.column,
                "kind": table.kind,
                "text": text,
                "note": table.note,
                "is_open": place < _OPEN_TABLES and table.strength > 0,
                "lines": [_line(group) for group in groups],
            }
        )
    return found


def _line(group: Group) -> dict[str, Any]:
    """A group in words; with the places of its ratio and the ratio's interval, unless nothing is kept."""
    value = "none" if group.value is None else group.value or "(empty)"

    def place(ratio: float | None) -> float:
        """On the scale; what lies beyond stands at its end."""
        ratio = min(_MOST_RATIO, max(1 / _MOST_RATIO, ratio if ratio is not None else 1.0))
        return round(_FOREST_WIDTH / 2 * (1 + math.log(ratio) / math.log(_MOST_RATIO)), 2)

    return {
        "value": value if len(value) <= _VALUE_CHARACTERS else value[: _VALUE_CHARACTERS - 1] + "…",
        "num_rows": group.num_rows,
        "num_kept": group.num_kept,
        "share_kept": percent(group.share_kept),
        "interval": f"{percent(group.share_kept_low)} to {percent(group.share_kept_high)}",
        "ratio": NOTHING if group.ratio is None else f"{group.ratio:.2f}",
        "verdict": group.verdict,
        "forest": None
        if group.ratio is None
        else {"low": place(group.ratio_low), "high": place(group.ratio_high), "at": place(group.ratio)},
    }


def num_read(scores: ScoreSet, num_rejected: int) -> int:
    """Rows that were read when the set was scored: scored and rejected ones."""
    result = scores.record.get("result")
    if isinstance(result, dict) and isinstance(result.get("num_read"), int):
        return int(result["num_read"])
    if columns.STATUS in scores.schema.names:  # a CSV keeps rejected rows in their place
        return scores.num_rows
    return scores.num_rows + num_rejected


_MOST_CHARACTERS, _MOST_LINES = 600, 60
_HEAD_KEYS = (
    "name", "sha256", "backbone", "dim", "is_affine", "layout", "licence", "source", "weight_norm", "bias",
)  # fmt: skip
_LEFT_OUT = frozenset({"heads", "options", "result", "score_columns", "inputs", "pictures", "format", "version", "beholder"})
_SECRETS = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*://)(?P<login>[^/\s@\"']*@)?(?P<rest>[^\s?\"']*)(?P<query>\?[^\s\"']*)?", re.I
)


@dataclass(frozen=True)
class Facts:
    """A heading and its lines of (label, text)."""

    title: str
    lines: list[tuple[str, str]]


def without_secrets(text: str) -> str:
    """Addresses without logins and without what follows a `?`, which can be a signature or a token."""

    def plain(match: re.Match[str]) -> str:
        query = "?…" if match["query"] else ""
        return f"{match['scheme']}{match['rest']}{query}"

    return _SECRETS.sub(plain, text)


def provenance(scores: ScoreSet, extra: Sequence[tuple[str, str]]) -> list[Facts]:
    """All that is known of how the scores came to be; `extra` is said of the report itself."""
    record = scores.record
    found = []
    for name, head in heads_recorded(record).items():
        keys = [key for key in _HEAD_KEYS if head.get(key) not in (None, "")]
        keys += [key for key in head if key not in _HEAD_KEYS and head[key] not in (None, "", {}, [])]
        found.append(Facts(f"Head of column {name}", _lines({key: head[key] for key in keys})))
    found += [
        Facts(title.capitalize(), _lines(value))
        for title, value in record.items()
        if isinstance(value, Mapping) and value and title not in _LEFT_OUT
    ]
    single = {key: value for key, value in record.items() if key not in _LEFT_OUT and not isinstance(value, Mapping)}
    first = {"scores": scores.source, "program": record.get("beholder"), "format": record.get("format"), **single}
    found.insert(0, Facts("Score set", _lines({key: value for key, value in first.items() if value not in (None, "", [])})))
    for title, key in (("Pictures", "pictures"), ("Options", "options")):
        value = record.get(key)
        if isinstance(value, Mapping) and value:
            found.append(Facts(title, _lines(value)))
    return [*found, Facts("This page", [(label, without_secrets(text)) for label, text in extra])]


def _lines(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    lines = []
    for key, value in list(values.items())[:_MOST_LINES]:
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        text = text if len(text) <= _MOST_CHARACTERS else text[: _MOST_CHARACTERS - 1] + "…"
        lines.append((str(key).replace("_", " "), without_secrets(text)))
    return lines
