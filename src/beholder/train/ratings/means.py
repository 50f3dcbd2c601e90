"""Tables and arrays with a rating in each row: one mean a picture, a row per rater, or keep and drop."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError, damaged, number_of
from beholder.io import remote, schemas, storage
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.layout import MeanLayout
from beholder.train.ratings.options import RATING_COLUMN, RatingsOptions
from beholder.train.ratings.ratings import DROP, KEEP, Floats, Numbers, Ratings, Votes
from beholder.train.ratings.reliability import reliability
from beholder.train.ratings.rows import (
    Mask,
    Rows,
    check_varied,
    distinct,
    mask_of,
    names_at,
    note_duplicates,
    note_mixed_scales,
    note_outlying,
    number_names,
    sums_by,
)
from beholder.train.ratings.tables import FILE, NumberColumn, RatingTable, names_of, numbers_of

_KEEP = ("keep", "kept", "like", "liked", "good", "yes", "true", "up", "accept", "accepted")
_DROP = ("drop", "dropped", "dislike", "disliked", "bad", "no", "false", "down", "reject", "rejected")
_GROUPS = ("source", "dataset", "origin", "group", "set", FILE)
"""Columns by which scales may differ."""


def read_mean(table: RatingTable, layout: MeanLayout, options: RatingsOptions) -> Ratings:
    """Ratings of a table with a rating in each row. Raises InputError where none can be used."""
    findings = Findings()
    group = next((name for name in table.schema.names if name.lower() in _GROUPS and _is_group(table, layout, name)), None)
    data = table.columns(layout.sample, layout.rating, layout.rater, layout.count, layout.deviation, group)
    is_by_row = layout.sample is None
    rows = table.sample_rows(data, layout.sample, findings)
    numbers, is_decision = _ratings_of(data[layout.rating], options)
    _drop_unusable(rows, numbers, layout.rating)
    rows.keep_scale(numbers.values, options)
    if layout.rater is not None and not is_decision:
        raters = names_of(data[layout.rater], table.named, layout.rater)
        return _of_raters(rows, numbers.values, raters, layout, options)
    counts = _counts(rows, data, layout.count)
    deviations = _deviations(rows, data, layout.deviation)
    keys, samples = rows.samples()
    left = rows.is_left
    values = numbers.values[left]
    if group is not None and not is_decision:
        places, groups = distinct(pc.fill_null(names_of(data[group], table.named, group), "").filter(pa.array(left)))
        hint = "bring them to one scale before they are used together"
        note_mixed_scales(values, places, groups.to_pylist(), group.strip("()"), findings, hint)
    if is_decision:
        return decisions(
            table.named, f"keep or drop, column {layout.rating!r}", keys, samples, values, findings, is_by_row=is_by_row
        )
    check_varied(values, table.named)
    merged = _merged(
        keys, samples, values, None if counts is None else counts[left], None if deviations is None else deviations[left]
    )
    note_duplicates(keys, samples, findings, "averaged, each row as a vote" if counts is None else "averaged by their votes")
    means, counts, deviations = merged
    note_outlying(means, samples, findings)
    more = [f"votes in {layout.count!r}"] if layout.count else []
    more += [f"deviations in {layout.deviation!r}"] if layout.deviation else []
    return Ratings(
        kind="mean",
        source=table.named,
        layout=", ".join([f"one rating a picture, column {layout.rating!r}", *more]),
        samples=samples,
        values=means,
        counts=counts,
        deviations=deviations,
        reliability=_known_reliability(means, counts, deviations),
        is_by_row=is_by_row,
        findings=tuple(findings.found),
    )


def read_array(path: str, options: RatingsOptions) -> Ratings:
    """Ratings of shape (N,) or (N, 1); NaN is a missing one. Raises InputError for other arrays."""
    with remote.read_errors(path), storage.open_binary(path) as file:
        data = file.read()
    with damaged(lambda why: InputError(f"{path} cannot be read as .npy: {why}")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and Python remark on odd headers; what matters is raised
        array = np.load(io.BytesIO(data), allow_pickle=False)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "fiub":
        hint = "; are these the embeddings? ratings are one number a row (y_ratings.npy)" if array.ndim == 2 else ""
        raise InputError(
            f"{path} has shape {array.shape} and type {array.dtype}; ratings of shape (N,) or (N, 1) were expected{hint}"
        )
    findings = Findings()
    values = array.astype(np.float64)
    rows = Rows.of(path, number_names(len(values)), findings)
    rows.drop(~np.isfinite(values), "missing", "has no finite rating", "have no finite rating")
    rows.keep_scale(values, options)
    _, samples = rows.samples()
    found = values[rows.is_left]
    check_varied(found, path)
    note_outlying(found, samples, findings)
    return Ratings(
        kind="mean",
        source=path,
        layout=f"one rating a row, by place, for {len(values):,} rows",
        samples=samples,
        values=found,
        is_by_row=True,
        findings=tuple(findings.found),
    )


def decisions(
    named: str,
    layout: str,
    keys: Numbers,
    samples: pa.LargeStringArray,
    values: Floats,
    findings: Findings,
    *,
    is_by_row: bool = False,
) -> Ratings:
    """Ratings of the kind `decisions` from single ones, each 1.0 (keep) or 0.0 (drop); of repeated ones the majority counts.

    Raises InputError where all are the same.
    """
    times = sums_by(keys, None, len(samples))
    shares = sums_by(keys, values, len(samples)) / times
    note_duplicates(keys, samples, findings, "counted by their majority")
    torn = np.flatnonzero(shares == 0.5)
    if torn.size:
        text = f"{number_of(len(torn), 'picture')} {is_or_are(len(torn))} kept as often as dropped, and left out"
        findings.note("contradicting", len(torn), text, names_at(samples, torn[:3]))
    stays = shares != 0.5
    found = np.where(shares[stays] > 0.5, KEEP, DROP)
    if found.size and np.ptp(found) == 0:
        word, other = ("keep", "drop") if found[0] == KEEP else ("drop", "keep")
        raise InputError(
            f"{named}: all {found.size:,} decisions are {word}, so there is nothing to learn from; decide on some to {other}"
        )
    return Ratings(
        kind="decisions",
        source=named,
        layout=layout,
        samples=samples.filter(pa.array(stays)),
        values=found,
        is_by_row=is_by_row,
        findings=tuple(findings.found),
    )


def of_votes(
    named: str,
    layout: str,
    pictures: pa.LargeStringArray,
    raters: pa.LargeStringArray,
    values: Floats,
    options: RatingsOptions,
    findings: Findings,
) -> Ratings:
    """Ratings of the kind `raters` from single votes: averaged, after the raters' own scales are taken out where asked for.

    Args:
        named: where they are from.
        layout: how they were understood.
        pictures: (V,) names of what each vote is of.
        raters: (V,) names of who gave it.
        values: (V,) the votes.
        options: `per_rater`.
        findings: so far.
    """
    (sample, samples), (rater, people) = distinct(pictures), distinct(raters)
    votes = Votes(raters=tuple(people.to_pylist()), rater=rater, sample=sample, value=values)
    note_mixed_scales(
        votes.value,
        votes.rater,
        list(votes.raters),
        "rater",
        findings,
        "bring them to one scale, or use --per-rater standardise",
    )
    check_varied(votes.value, named)
    votes, samples = _each_once(votes, samples, findings)
    if options.per_rater != "as-is":
        votes, samples = _evened(votes, samples, options, findings, named)
    counts = sums_by(votes.sample, None, len(samples))
    means = sums_by(votes.sample, votes.value, len(samples)) / counts
    note_outlying(means, samples, findings)
    squares = sums_by(votes.sample, (votes.value - means[votes.sample]) ** 2, len(samples))
    return Ratings(
        kind="raters",
        source=named,
        layout=layout,
        samples=samples,
        values=means,
        counts=counts,
        deviations=_from_squares(squares, counts),
        votes=votes,
        reliability=reliability(means, counts, squares),
        findings=tuple(findings.found),
    )


def _is_group(table: RatingTable, layout: MeanLayout, name: str) -> bool:
    taken = (layout.sample, layout.rating, layout.rater, layout.count, layout.deviation)
    return name not in taken and schemas.is_text(schemas.value_type(table.schema.field(name).type))


def _ratings_of(column: pa.ChunkedArray, options: RatingsOptions) -> tuple[NumberColumn, bool]:
    """The ratings as numbers, and whether they are decisions: words for keep and drop, or nothing but 0 and 1."""
    found = numbers_of(column)
    if options.ratings_kind not in ("auto", "decisions"):
        return found, False
    if found.texts is not None:
        words = pc.utf8_lower(found.texts)
        keep, drop = (_is_in(words, among) for among in (_KEEP, _DROP))
        if 2 * (keep | drop).sum() > (~found.is_missing).sum():
            values = np.where(keep, KEEP, np.where(drop, DROP, found.values))
            values[~(keep | drop) & ~np.isin(found.values, (KEEP, DROP))] = np.nan
            is_text = ~found.is_missing & np.isnan(values)
            return NumberColumn(values, found.is_missing, is_text, found.texts), True
    known = found.values[~np.isnan(found.values)]
    is_decision = options.ratings_kind == "decisions" or bool(known.size and np.isin(known, (KEEP, DROP)).all())
    if options.ratings_kind == "decisions":
        odd = ~np.isnan(found.values) & ~np.isin(found.values, (KEEP, DROP))
        found.values[odd] = np.nan
        return NumberColumn(found.values, found.is_missing, found.is_text | odd, found.texts), True
    return found, is_decision


def _is_in(words: pa.LargeStringArray, among: tuple[str, ...]) -> Mask:
    return mask_of(pc.is_in(words, value_set=pa.array(among, pa.large_string())).fill_null(False))


def _drop_unusable(rows: Rows, numbers: NumberColumn, column: str) -> None:
    """Leave out rows without a number. Raises InputError where no row has one, but a text."""
    if numbers.is_text.any() and np.isnan(numbers.values).all():
        shown = ", ".join(numbers.examples(numbers.is_text))
        if all(re.fullmatch(r"'\s*-?\d+,\d+\s*'", text) for text in numbers.examples(numbers.is_text)):
            raise InputError(f"{rows.named}: column {column!r} has decimal commas ({shown}); write its numbers with a point")
        raise InputError(
            f"{rows.named}: column {column!r} holds text, not one number ({shown}); name the column with the ratings with "
            f"{RATING_COLUMN}"
        )
    rows.drop(numbers.is_missing, "missing", f"has no rating in {column!r}", f"have no rating in {column!r}")
    what = numbers.is_text & rows.is_left
    said = f"something in {column!r} that is no number"
    rows.drop(what, "text", f"has {said}", f"have {said}", numbers.examples(what))


def _of_raters(rows: Rows, values: Floats, raters: pa.LargeStringArray, layout: MeanLayout, options: RatingsOptions) -> Ratings:
    rows.drop(mask_of(raters.is_null()), "unknown-rater", "does not say who rated", "do not say who rated")
    rows.check_any()
    left = pa.array(rows.is_left)
    pictures, people = rows.names.filter(left), raters.filter(left)
    said = f"a row per rater, column {layout.rater!r}, ratings in {layout.rating!r}"
    return of_votes(rows.named, said, pictures, people, values[rows.is_left], options, rows.findings)


def _counts(rows: Rows, data: pa.Table, column: str | None) -> Floats | None:
    """(n,) numbers of votes; those of rows that do not say are 1. None where there is no such column."""
    if column is None:
        return None
    found = numbers_of(data[column])
    with np.errstate(invalid="ignore"):
        for what, mask, said in (
            ("negative-count", found.values < 0, f"a negative number of votes in {column!r}"),
            ("no-votes", found.values == 0, f"0 votes in {column!r}"),
        ):
            rows.drop(mask, what, f"has {said}", f"have {said}")
    unknown = np.isnan(found.values) & rows.is_left
    count = int(unknown.sum())
    text = (
        f"{number_of(count, 'row')} without a number of votes in {column!r} {is_or_are(count, 'counts', 'count')} as one vote"
    )
    rows.findings.note("unknown-count", count, text, rows.examples(unknown))
    return np.where(np.isnan(found.values), 1.0, found.values)


def _deviations(rows: Rows, data: pa.Table, column: str | None) -> Floats | None:
    """(n,) standard deviations, NaN where they are unknown or negative. None where there is no such column."""
    if column is None:
        return None
    found = numbers_of(data[column])
    with np.errstate(invalid="ignore"):
        bad = (found.is_text | (found.values < 0)) & rows.is_left
    count = int(bad.sum())
    text = f"{number_of(count, 'row')} {is_or_are(count, 'has', 'have')} no standard deviation in {column!r} that can be used"
    rows.findings.note("bad-deviation", count, text, rows.examples(bad))
    return np.where(bad, np.nan, found.values)


def _merged(
    keys: Numbers, samples: pa.LargeStringArray, values: Floats, counts: Floats | None, deviations: Floats | None
) -> tuple[Floats, Floats | None, Floats | None]:
    """Means, counts and deviations of each picture; rows of one picture are pooled as if their votes stood together."""
    size = len(samples)
    if len(keys) == size:
        return values, counts, deviations
    weights = np.ones(len(keys)) if counts is None else counts
    total = sums_by(keys, weights, size)
    means = sums_by(keys, weights * values, size) / total
    squares = weights * (values - means[keys]) ** 2
    if deviations is not None:
        squares = squares + np.where(weights > 1, (weights - 1) * deviations**2, 0.0)
    elif counts is not None:
        return means, total, None
    return means, total, _from_squares(sums_by(keys, squares, size), total)


def _from_squares(squares: Floats, counts: Floats) -> Floats:
    """Standard deviations (divisor n - 1) from sums of squares; NaN of a single vote."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(counts > 1, np.sqrt(squares / (counts - 1)), np.nan)


def _known_reliability(means: Floats, counts: Floats | None, deviations: Floats | None) -> Any:
    """Reliability of means whose counts and deviations are known; None where they are not, for all with two votes or more."""
    if counts is None or deviations is None or np.isnan(deviations[counts > 1]).any() or (counts < 1).any():
        return None
    squares = np.where(counts > 1, (counts - 1) * np.nan_to_num(deviations) ** 2, 0.0)
    return reliability(means, counts, squares)


def _each_once(votes: Votes, samples: pa.LargeStringArray, findings: Findings) -> tuple[Votes, pa.LargeStringArray]:
    """Votes of one rater for one picture as one vote, their mean."""
    pairs = votes.sample * len(votes.raters) + votes.rater
    unique, first, inverse, times = np.unique(pairs, return_index=True, return_inverse=True, return_counts=True)
    if len(unique) == len(pairs):
        return votes, samples
    again = np.flatnonzero(times > 1)
    count = len(again)
    were = number_of(count, "picture was", "pictures were")
    text = f"{were} rated more than once by one rater, whose ratings are averaged to one"
    findings.note("duplicated", count, text, names_at(samples, votes.sample[first[again[:3]]]))
    values = np.bincount(inverse, votes.value) / times
    order = np.argsort(first, kind="stable")
    kept = first[order]
    return Votes(raters=votes.raters, rater=votes.rater[kept], sample=votes.sample[kept], value=values[order]), samples


def _evened(
    votes: Votes, samples: pa.LargeStringArray, options: RatingsOptions, findings: Findings, named: str
) -> tuple[Votes, pa.LargeStringArray]:
    """Votes with each rater's mean (and spread) made that of all; raters who then say nothing are left out."""
    count = sums_by(votes.rater, None, len(votes.raters))
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = sums_by(votes.rater, votes.value, len(count)) / count
        spread = np.sqrt(sums_by(votes.rater, (votes.value - mean[votes.rater]) ** 2, len(count)) / count)
    silent = ~(spread > 0)
    number = int(silent.sum())
    text = (
        f"{number_of(number, 'rater')} gave one rating only, or the same to all; by itself that says nothing, so "
        f"{is_or_are(number, 'it is', 'they are')} left out"
    )
    findings.note("silent-rater", number, text, (votes.raters[place] for place in np.flatnonzero(silent)[:3]))
    stays = ~silent[votes.rater]
    if not stays.any():
        raise InputError(f"{named}: no rater gave two different ratings, so --per-rater {options.per_rater} leaves nothing")
    value, rater, sample = votes.value[stays], votes.rater[stays], votes.sample[stays]
    grand, width = float(value.mean()), float(value.std())
    moved = value - mean[rater]
    if options.per_rater == "standardise":
        moved = moved / spread[rater] * width
    raters, who = np.unique(rater, return_inverse=True)
    pictures, which = np.unique(sample, return_inverse=True)
    people = tuple(votes.raters[place] for place in raters)
    lost = len(samples) - len(pictures)
    text = f"{number_of(lost, 'picture')} {is_or_are(lost)} rated by none of the raters that are left, and left out"
    gone = np.setdiff1d(np.arange(len(samples)), pictures)
    findings.note("missing", lost, text, names_at(samples, gone[:3]))
    evened = Votes(raters=people, rater=who, sample=which, value=grand + moved)
    return evened, samples.take(pa.array(pictures))
