"""Ratings as other tools keep them: Label Studio's export of tasks, and Simulacra Aesthetic Captions.

The layout of the former is that of https://labelstud.io/guide/task_format: a JSON list of tasks, each with `data` and
`annotations`, whose `result` has entries with `type` (of its Rating and Pairwise tags), `value` and `to_name`. The latter is an
SQLite file with the tables that https://github.com/JD-P/simulacra-aesthetic-captions publishes: `ratings` (iid, rating, who),
`images` (id, gid, idx) and, where it is there, `paths` (iid, path).
"""

from __future__ import annotations

import contextlib
import math
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.errors import InputError, number_of
from beholder.io import locations
from beholder.sources.labels import valid_text
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.means import of_votes
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.pairs import of_pairs
from beholder.train.ratings.ratings import Ratings

SQLITE_BYTES = b"SQLite format 3\0"
_WHO = ("uid", "sid", "user", "user_id", "rater")

_MOST_STARS = 1e9
_UPLOAD = re.compile(r"/data/upload/(?:\d+/)?(?:[0-9a-f]{8}-)?(.+)$")
_LOCAL = re.compile(r"/data/local-files/?\?d=(.+)$")
_PICTURE_KEYS = ("image", "img", "picture", "photo", "url", "image_url")
_LEFT_KEYS = (("image1", "image2"), ("image_1", "image_2"), ("image_a", "image_b"), ("left", "right"), ("img1", "img2"))


def is_label_studio(row: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a task as Label Studio exports it."""
    return isinstance(row.get("data"), dict) and isinstance(row.get("annotations", row.get("completions")), list)


def read_label_studio(tasks: Sequence[Mapping[str, Any]], path: str, options: RatingsOptions) -> Ratings:
    """Ratings of tasks: a row per rater, or pairs. Raises InputError where there are none, or both."""
    findings = Findings()
    ratings: list[tuple[str, str, float]] = []
    pairs: list[tuple[str, str, float]] = []
    counts = {"unannotated": 0, "cancelled": 0, "other": 0, "unnamed": 0}
    for task in tasks:
        data = task.get("data")
        answers = _objects(task.get("annotations", task.get("completions")))
        counts["unannotated"] += not answers
        for number, answer in enumerate(answers):
            if answer.get("was_cancelled") or answer.get("skipped"):
                counts["cancelled"] += 1
                continue
            rater = _rater(answer, number)
            for result in _objects(answer.get("result")):
                if not _take(result, data if isinstance(data, dict) else {}, rater, ratings, pairs):
                    kind = result.get("type")
                    counts["unnamed" if kind in ("rating", "pairwise") else "other"] += 1
    for what, text in (
        ("unannotated", "without an annotation"),
        ("cancelled", "that was cancelled or skipped"),
        ("other", "of other kinds than rating and pairwise"),
        ("unnamed", "without a picture or a value"),
    ):
        thing = {"unannotated": "task", "cancelled": "annotation"}.get(what, "result")
        findings.note(what, counts[what], f"{number_of(counts[what], thing)} {text} {is_or_are(counts[what])} left out")
    if ratings and pairs:
        wanted = options.ratings_kind
        if wanted not in ("raters", "mean", "pairs"):
            raise InputError(
                f"{path} holds {len(ratings):,} ratings and {len(pairs):,} pairs; say which with --ratings-kind raters or pairs"
            )
        ratings, pairs = ([], pairs) if wanted == "pairs" else (ratings, [])
    if pairs:
        first, second = _texts([one for one, _, _ in pairs]), _texts([other for _, other, _ in pairs])
        target = np.array([pair[2] for pair in pairs])
        return of_pairs(path, "pairs of Label Studio (Pairwise)", first, second, target, np.ones(len(pairs)), findings)
    if not ratings:
        why = "; ".join(map(str, findings.found)).rstrip(".")
        raise InputError(
            f"{path} holds tasks of Label Studio, but no result of its Rating or Pairwise tag" + (f": {why}" if why else "")
        )
    samples, raters = _texts([sample for sample, _, _ in ratings]), _texts([rater for _, rater, _ in ratings])
    layout = "a row per rater, Label Studio's Rating, raters in 'completed_by'"
    return of_votes(path, layout, samples, raters, np.array([row[2] for row in ratings]), options, findings)


def _texts(found: Sequence[str]) -> pa.LargeStringArray:
    """Names, which JSON may give halves of letters."""
    return pa.array(list(map(valid_text, found)), pa.large_string())


def _objects(found: Any) -> list[dict[str, Any]]:
    """The objects of a list; those that stand where a list was expected are none."""
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _take(
    result: Mapping[str, Any],
    data: Mapping[str, Any],
    rater: str,
    ratings: list[tuple[str, str, float]],
    pairs: list[tuple[str, str, float]],
) -> bool:
    """Add a result of a Rating or Pairwise tag to its list; False where it is none, or says too little."""
    value = result.get("value")
    if not isinstance(value, dict):
        return False
    if result.get("type") == "rating":
        stars, name = value.get("rating"), _picture(data, result)
        if isinstance(stars, bool) or not isinstance(stars, int | float) or not abs(stars) <= _MOST_STARS or name is None:
            return False
        ratings.append((name, rater, float(stars)))
        return True
    if result.get("type") == "pairwise":
        target = {"left": 1.0, "right": -1.0}.get(str(value.get("selected")), 0.0 if "selected" in value else None)
        names = _two_pictures(data)
        if target is None or names is None:
            return False
        pairs.append((*names, target))
        return True
    return False


def _rater(answer: Mapping[str, Any], number: int) -> str:
    """Who annotated: a number, an address, or an object with either."""
    who = answer.get("completed_by")
    if isinstance(who, dict):
        who = who.get("email") or who.get("id")
    return f"annotation {number + 1}" if who is None else str(who)


def _picture(data: Mapping[str, Any], result: Mapping[str, Any]) -> str | None:
    """The picture of a task: under the key that the result is of, a usual one, or the only text that looks like a place."""
    for key in (result.get("to_name"), *_PICTURE_KEYS):
        if isinstance(data.get(str(key)), str):
            return _name(data[str(key)])
    found = [text for _, text in _places(data)]
    return found[0] if len(found) == 1 else None


def _two_pictures(data: Mapping[str, Any]) -> tuple[str, str] | None:
    for one, other in _LEFT_KEYS:
        if isinstance(data.get(one), str) and isinstance(data.get(other), str):
            return _name(data[one]), _name(data[other])
    found = [text for _, text in _places(data)]
    return (found[0], found[1]) if len(found) == 2 else None


def _places(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Values that are paths or addresses, in order."""
    for key, value in data.items():
        if isinstance(value, str) and re.search(r"[/\\]|\.\w{3,4}$", value):
            yield key, _name(value)


def _name(place: str) -> str:
    """The name that a picture had before Label Studio took it in."""
    for pattern in (_UPLOAD, _LOCAL):
        match = pattern.search(place)
        if match is not None:
            return urllib.parse.unquote(match[1])
    return place


def read_simulacra(path: str, options: RatingsOptions) -> Ratings:
    """Ratings of such a file; pictures are named by `paths.path`, without that table by `images.id`. Raises InputError."""
    if not locations.is_local(path):
        raise InputError(f"{path}: an SQLite file is read from this machine only; copy it here")
    address = locations.local_path(path).resolve().as_uri() + "?mode=ro&immutable=1"
    try:
        with contextlib.closing(sqlite3.connect(address, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not {"ratings", "images"} <= tables:
                raise InputError(
                    f"{path} is an SQLite file with the tables {', '.join(sorted(tables)) or '(none)'}; ratings and images, as "
                    "Simulacra Aesthetic Captions has them, were expected"
                )
            fields = [row[1] for row in connection.execute("PRAGMA table_info(ratings)")]
            if not {"iid", "rating"} <= set(fields):
                raise InputError(f"{path}: its table ratings has no iid and rating; it has {', '.join(fields)}")
            who = next((name for name in _WHO if name in fields), None)
            name, joined = (
                ("p.path", "LEFT JOIN paths AS p ON p.iid = i.id") if "paths" in tables else ("CAST(i.id AS TEXT)", "")
            )
            rater = "'?'" if who is None else f"coalesce(CAST(r.{who} AS TEXT), '?')"
            query = (
                f"SELECT CAST(coalesce({name}, i.id) AS TEXT), {rater}, r.rating FROM ratings AS r "
                f"JOIN images AS i ON i.id = r.iid {joined} ORDER BY r.rowid"
            )
            rows = connection.execute(query).fetchall()
            (total,) = connection.execute("SELECT count(*) FROM ratings").fetchone()
    except (sqlite3.Error, UnicodeError) as error:
        raise InputError(f"{path} cannot be read as SQLite: {error}") from None
    findings = Findings()
    findings.note("unmatched", total - len(rows), f"{number_of(total - len(rows), 'rating')} of no image in the file, left out")
    usable = [row for row in rows if isinstance(row[2], int | float) and math.isfinite(row[2])]
    count = len(rows) - len(usable)
    findings.note("missing", count, f"{number_of(count, 'row')} without a rating {is_or_are(count)} left out")
    if not usable:
        raise InputError(f"{path} holds no ratings of its images")
    samples, raters = (pa.array([row[side] for row in usable], pa.large_string()) for side in (0, 1))
    values = np.array([row[2] for row in usable], np.float64)
    layout = "a row per rater, tables of Simulacra Aesthetic Captions"
    return of_votes(path, layout, samples, raters, values, options, findings)
