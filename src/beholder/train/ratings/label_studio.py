"""Label Studio's export of tasks (JSON): results of its Rating and Pairwise tags.

The layout is that of https://labelstud.io/guide/task_format: a list of tasks, each with `data` and `annotations`, whose
`result` has entries with `type`, `value` and `to_name`.
"""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beholder.errors import InputError
from beholder.sources.labels import valid_text
from beholder.train.ratings.findings import Findings, number_of
from beholder.train.ratings.means import of_votes
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.pairs import of_pairs
from beholder.train.ratings.ratings import Ratings, Votes

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
        findings.note(
            what, counts[what], f"{number_of(counts[what], thing)} {text} {'is' if counts[what] == 1 else 'are'} left out"
        )
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
    samples = _texts([sample for sample, _, _ in ratings]).dictionary_encode()
    raters = _texts([rater for _, rater, _ in ratings]).dictionary_encode()
    votes = Votes(
        raters=tuple(raters.dictionary.to_pylist()),
        rater=raters.indices.to_numpy().astype(np.int64),
        sample=samples.indices.to_numpy().astype(np.int64),
        value=np.array([row[2] for row in ratings]),
    )
    layout = "a row per rater, Label Studio's Rating, raters in 'completed_by'"
    return of_votes(path, layout, samples.dictionary.cast(pa.large_string()), votes, options, findings)


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
