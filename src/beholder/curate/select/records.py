"""A selection in, the JSON records out that its files say about themselves."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from beholder import columns
from beholder.curate.select.options import RuleOptions, SelectRules

if TYPE_CHECKING:
    from beholder.curate.select.selection import Selection

SELECTION_FORMAT = "beholder-selection"
_READING = ("score", "rank_by", "join", "score_column", "sample_column")


def rules_record(rules: SelectRules) -> dict[str, Any]:
    """The options that decide which rows stay, as far as they were given."""
    names = [item.name for item in fields(RuleOptions)] + list(_READING)
    defaults = {item.name: item.default for item in fields(SelectRules)}
    found = {}
    for name in names:
        value = getattr(rules, name)
        if value != defaults[name] or (name in ("seed", "temperature") and rules.sample is not None):
            found[name] = list(value) if isinstance(value, tuple) else value if value != float("inf") else "inf"
    return found


def selection_record(selection: Selection) -> dict[str, Any]:
    """What a file made of a selection says about itself; its heads and pictures are those of the scores."""
    scores = selection.scores
    source = scores.record
    heads = {
        name: head
        for name, head in zip(source.get("score_columns") or [], source.get("heads") or [], strict=False)
        if isinstance(head, dict)
    }
    record = {
        "format": SELECTION_FORMAT,
        "format_version": columns.FORMAT_VERSION,
        "source": scores.source,
        "rules": rules_record(selection.rules),
        "funnel": [step.to_json() for step in selection.done_steps],
        "num_rows": selection.num_rows,
        "num_kept": selection.num_kept,
        "score_columns": list(scores.score_columns),
        "heads": [heads.get(name) or {"name": scores.head_names.get(name)} for name in scores.score_columns],
        "source_record": source,
    }
    if columns.PICTURES in source:
        record[columns.PICTURES] = source[columns.PICTURES]
    return record
