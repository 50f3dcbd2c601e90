"""Tables of pairs: which of two pictures is better, by how many votes."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import ChoiceNeededError, InputError, number_of
from beholder.io import schemas
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.layout import PairsLayout
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Floats, Numbers, Pairs, Ratings
from beholder.train.ratings.rows import Mask, Rows, mask_of, sums_by
from beholder.train.ratings.tables import RatingTable, names_of, numbers_of

_FIRST = ("left", "a", "first", "1st", "l", "one")
_SECOND = ("right", "b", "second", "2nd", "r", "two")
_TIE = ("tie", "equal", "same", "draw", "both", "neither", "=")


def read_pairs(table: RatingTable, layout: PairsLayout, options: RatingsOptions) -> Ratings:
    """Pairs of a table. Raises InputError where none can be used."""
    findings = Findings()
    for name in (layout.first, layout.second):
        if schemas.is_list(schemas.value_type(table.schema.field(name).type)):
            raise InputError(
                f"{table.named}: column {name!r} holds vectors; pairs are joined to embeddings by name, so give two columns "
                "that name the pictures"
            )
    data = table.columns(layout.first, layout.second, layout.choice, layout.votes, *(layout.side_votes or ()))
    first, second = (names_of(data[name], table.named, name) for name in (layout.first, layout.second))
    both = pc.if_else(pc.is_null(second), pa.scalar(None, pa.large_string()), first)
    rows = Rows.of(table.named, both, findings)
    is_same = mask_of(pc.fill_null(pc.equal(first, second), False))
    rows.drop(is_same, "same-picture", "pairs a picture with itself", "pair a picture with itself")
    if layout.side_votes is not None:
        target, votes, first, second, rows = _both_sides(rows, data, layout, first, second)
    else:
        target = _targets(rows, data, layout, first, second, options)
        target, votes = _weights(rows, data, layout, target)
    rows.check_any()
    left = rows.is_left
    one, other = first.filter(pa.array(left)), second.filter(pa.array(left))
    return of_pairs(table.named, _said(layout), one, other, target[left], votes[left], findings, is_assumed=layout.is_assumed)


def of_pairs(
    named: str,
    layout: str,
    first: pa.LargeStringArray,
    second: pa.LargeStringArray,
    target: Floats,
    votes: Floats,
    findings: Findings,
    *,
    is_assumed: bool = False,
) -> Ratings:
    """Ratings of the kind `pairs`.

    Args:
        named: where they are from.
        layout: how they were understood.
        first: (n,) names.
        second: (n,) names of the other pictures.
        target: (n,) 1 the first is better, -1 the second, 0 neither.
        votes: (n,) weights, above 0.
        findings: so far.
        is_assumed: nothing said that the first is the better one.

    Raises:
        InputError: no pair says which is better.
    """
    if not (target != 0).any():
        raise InputError(f"{named}: all {len(target):,} pairs are ties, so there is nothing to learn from them")
    if is_assumed:
        text = "no column says which of the two is better, so the first one of each pair is taken for it"
        findings.note("assumed", len(target), text)
    encoded = pa.chunked_array([first, second]).dictionary_encode().unify_dictionaries()
    places = np.concatenate([chunk.indices.to_numpy(zero_copy_only=False) for chunk in encoded.chunks]).astype(np.int64)
    samples = encoded.chunk(0).dictionary.cast(pa.large_string())
    one, other = places[: len(first)], places[len(first) :]
    is_tie = target == 0
    better = np.where(target < 0, other, one)
    worse = np.where(target < 0, one, other)
    better[is_tie], worse[is_tie] = np.minimum(one, other)[is_tie], np.maximum(one, other)[is_tie]
    pairs = _summed(better, worse, is_tie, votes, len(samples))
    _note_contradictions(pairs, samples, findings)
    times, won = _tally(pairs, len(samples))
    return Ratings(
        kind="pairs",
        source=named,
        layout=layout,
        samples=samples,
        values=won / times,
        pairs=pairs,
        findings=tuple(findings.found),
    )


def _summed(better: Numbers, worse: Numbers, is_tie: Mask, votes: Floats, size: int) -> Pairs:
    """Equal comparisons as one, in the order of their first appearance."""
    keys = (better * size + worse) * 2 + is_tie
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    total = sums_by(inverse, votes, len(first))[order]
    kept = first[order]
    return Pairs(better=better[kept], worse=worse[kept], is_tie=is_tie[kept], votes=total)


def _note_contradictions(pairs: Pairs, samples: pa.LargeStringArray, findings: Findings) -> None:
    """Say how many pairs were decided both ways, and by how many votes."""
    low, high = np.minimum(pairs.better, pairs.worse), np.maximum(pairs.better, pairs.worse)
    keys = low * len(samples) + high
    decided = ~pairs.is_tie
    unique, inverse, times = np.unique(keys[decided], return_inverse=True, return_counts=True)
    twice = times > 1
    count = int(twice.sum())
    if not count:
        return
    totals = np.bincount(inverse, pairs.votes[decided])
    most = np.zeros(len(unique))
    np.maximum.at(most, inverse, pairs.votes[decided])
    against = float((totals - most)[twice].sum())
    shown = (
        f"{samples[int(key // len(samples))].as_py()} / {samples[int(key % len(samples))].as_py()}" for key in unique[twice][:3]
    )
    text = (
        f"{number_of(count, 'pair')} of {len(np.unique(keys)):,} {is_or_are(count)} decided both ways ({against:g} of "
        f"{pairs.votes.sum():g} votes go against the others); all votes count"
    )
    findings.note("contradicting", count, text, shown)


def _tally(pairs: Pairs, size: int) -> tuple[Floats, Floats]:
    """(N,) votes that each picture took part in, and of those won, ties as halves."""
    mine = sums_by(pairs.better, pairs.votes, size) + sums_by(pairs.worse, pairs.votes, size)
    won = sums_by(pairs.better, np.where(pairs.is_tie, 0.5, 1.0) * pairs.votes, size)
    won += sums_by(pairs.worse, np.where(pairs.is_tie, 0.5, 0.0) * pairs.votes, size)
    return mine, won


def _both_sides(
    rows: Rows, data: pa.Table, layout: PairsLayout, first: pa.LargeStringArray, second: pa.LargeStringArray
) -> tuple[Floats, Floats, pa.LargeStringArray, pa.LargeStringArray, Rows]:
    """Rows with votes for either side, as a row for each direction."""
    assert layout.side_votes is not None
    counts = [numbers_of(data[name]) for name in layout.side_votes]
    is_text, missing = counts[0].is_text | counts[1].is_text, counts[0].is_missing | counts[1].is_missing
    rows.drop(is_text, "text", "has a text for a number of votes", "have texts for numbers of votes")
    rows.drop(missing, "missing", "lacks a number of votes", "lack numbers of votes")
    with np.errstate(invalid="ignore"):
        negative = (counts[0].values < 0) | (counts[1].values < 0)
    rows.drop(negative, "negative-count", "has a negative number of votes", "have negative numbers of votes")
    rows.drop((counts[0].values + counts[1].values) == 0, "no-votes", "has no votes", "have no votes")
    votes = np.concatenate([counts[0].values, counts[1].values])
    target = np.repeat([1.0, -1.0], len(first))
    doubled = Rows(rows.named, pa.concat_arrays([rows.names, rows.names]), np.tile(rows.is_left, 2), rows.findings)
    doubled.is_left &= votes > 0
    return target, votes, pa.concat_arrays([first, first]), pa.concat_arrays([second, second]), doubled


def _targets(
    rows: Rows,
    data: pa.Table,
    layout: PairsLayout,
    first: pa.LargeStringArray,
    second: pa.LargeStringArray,
    options: RatingsOptions,
) -> Floats:
    """(n,) which is better: 1 the first, -1 the second, 0 neither; with a size where the file has degrees."""
    if layout.choice is None:
        return np.ones(len(first))
    numbers = numbers_of(data[layout.choice])
    rows.drop(numbers.is_missing, "missing", f"has nothing in {layout.choice!r}", f"have nothing in {layout.choice!r}")
    if numbers.texts is not None and (numbers.is_text & rows.is_left).any():
        return _by_words(rows, numbers.texts, layout, first, second)
    known = numbers.values[rows.is_left]
    found = set(np.unique(known).tolist())
    if found and found <= {1.0, 2.0} and 2.0 in found:
        return np.where(numbers.values == 1, 1.0, -1.0)
    if found and found <= {0.0, 1.0} and 0.0 in found:
        if options.zero_means == "ask":
            raise ChoiceNeededError(
                f"{rows.named}: {layout.choice!r} holds only 0 and 1; is 0 a tie, or is the second picture better then? Say "
                "--zero-means tie or --zero-means second"
            )
        return np.where(numbers.values == 1, 1.0, 0.0 if options.zero_means == "tie" else -1.0)
    return np.nan_to_num(numbers.values)


def _by_words(
    rows: Rows, texts: pa.LargeStringArray, layout: PairsLayout, first: pa.LargeStringArray, second: pa.LargeStringArray
) -> Floats:
    """Targets where a text says which is better: the picture's name, its column, or a word such as `left` or `tie`."""
    words = pc.utf8_lower(texts)
    target = np.full(len(texts), np.nan)
    for value, own, column, names in (
        (0.0, _TIE, "", None),
        (1.0, _FIRST, layout.first, first),
        (-1.0, _SECOND, layout.second, second),
    ):
        plain = column.lower().rsplit(":", 1)[-1]
        is_it = pc.is_in(words, value_set=pa.array([*own, *({column.lower(), plain} - {""})], pa.large_string()))
        if names is not None:
            is_it = pc.or_kleene(is_it, pc.equal(texts, pc.utf8_trim_whitespace(names)))
        target[mask_of(is_it.fill_null(False))] = value
    unknown = np.isnan(target) & rows.is_left
    said = f"something in {layout.choice!r} that is neither of the two pictures"
    shown = [repr(texts[int(row)].as_py()) for row in np.flatnonzero(unknown)[:3]]
    rows.drop(unknown, "text", f"has {said}", f"have {said}", shown)
    found: Floats = np.nan_to_num(target)
    return found


def _weights(rows: Rows, data: pa.Table, layout: PairsLayout, target: Floats) -> tuple[Floats, Floats]:
    """Signs of targets, and votes: a column's, or the size of the targets where they are degrees. Negative ones turn it."""
    degrees = np.where(target == 0, 1.0, np.abs(target))
    if layout.votes is None:
        return np.sign(target), degrees
    numbers = numbers_of(data[layout.votes])
    rows.drop(numbers.is_text, "text", f"has a text in {layout.votes!r}", f"have texts in {layout.votes!r}")
    rows.drop(numbers.is_missing, "missing", f"has nothing in {layout.votes!r}", f"have nothing in {layout.votes!r}")
    rows.drop(numbers.values == 0, "no-votes", f"has 0 in {layout.votes!r}", f"have 0 in {layout.votes!r}")
    with np.errstate(invalid="ignore"):
        negative = numbers.values < 0
    if not layout.is_assumed:
        rows.drop(
            negative,
            "negative-count",
            f"has a negative number in {layout.votes!r}",
            f"have negative numbers in {layout.votes!r}",
        )
    return np.sign(target) * np.where(negative, -1.0, 1.0), np.abs(numbers.values)


def _said(layout: PairsLayout) -> str:
    where = f"columns {layout.first!r} and {layout.second!r}"
    if layout.side_votes is not None:
        return f"pairs, {where}, votes for each in {layout.side_votes[0]!r} and {layout.side_votes[1]!r}"
    choice = "" if layout.choice is None else f", the better one in {layout.choice!r}"
    return f"pairs, {where}{choice}" + ("" if layout.votes is None else f", votes in {layout.votes!r}")
