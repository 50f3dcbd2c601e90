"""The record of a score set in; what a reader needs to judge and repeat it, as headed lists of lines, out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from beholder.scoreset.score_set import ScoreSet

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
    for name, head in zip(record.get("score_columns") or [], record.get("heads") or [], strict=False):
        if isinstance(head, Mapping):
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
