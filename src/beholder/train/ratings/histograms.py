"""Histograms of votes: how many gave each number of stars."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from beholder.errors import InputError, number_of
from beholder.io import schemas
from beholder.train.ratings.findings import Findings, is_or_are
from beholder.train.ratings.layout import HistogramLayout
from beholder.train.ratings.options import RatingsOptions
from beholder.train.ratings.ratings import Floats, Numbers, Ratings
from beholder.train.ratings.reliability import reliability
from beholder.train.ratings.rows import Mask, Rows, check_varied, note_duplicates, sums_by
from beholder.train.ratings.tables import RatingTable, numbers_of

_SHARES_TO = 1.001
"""Rows that add up to at most this are shares of votes (rounded ones, perhaps), not numbers of them."""
_MEAN_MAY_DIFFER = 0.02
_MOST_VOTES = 1e10


def read_histogram(table: RatingTable, layout: HistogramLayout, options: RatingsOptions) -> Ratings:
    """Means, numbers of votes and deviations of histograms.

    The deviation of single votes has the divisor n - 1; where a file has shares of votes, their number is unknown, and the
    deviation is that of the shares.

    Raises:
        InputError: no histogram can be used.
    """
    findings = Findings()
    data = table.columns(layout.sample, *layout.columns, layout.total, layout.mean)
    rows = table.sample_rows(data, layout.sample, findings)
    histogram, levels = _votes(rows, data, layout, table.named)
    too_many: Mask = np.asarray(np.any(histogram > _MOST_VOTES, axis=1))
    rows.drop(too_many, "no-count", "has more votes than there are people", "have more votes than there are people")
    with np.errstate(invalid="ignore"):
        negative: Mask = np.asarray(np.any(histogram < 0, axis=1))
        rows.drop(negative, "negative-count", "has a negative number of votes", "have negative numbers of votes")
        histogram[too_many | negative] = 0
        sums = histogram.sum(axis=1)
        empty: Mask = sums == 0
        rows.drop(empty, "no-votes", "has a histogram that sums to zero", "have histograms that sum to zero")
    keys, samples = rows.samples()
    left = rows.is_left
    _compare(rows, data, layout, histogram, levels)
    note_duplicates(keys, samples, findings, "added up")
    histogram = _added(histogram[left], keys, len(samples))
    sums = histogram.sum(axis=1)
    means = histogram @ levels / sums
    squares = np.maximum(0.0, np.einsum("nk,nk->n", histogram, (levels[None, :] - means[:, None]) ** 2))
    is_shares = float(sums.max()) <= _SHARES_TO and len(sums) == len(keys)
    if is_shares:
        counts, deviations = None, np.sqrt(squares / sums)
    else:
        counts = sums
        with np.errstate(invalid="ignore", divide="ignore"):
            deviations = np.where(sums > 1, np.sqrt(squares / (sums - 1)), np.nan)
    check_varied(means, table.named, "mean ratings")
    if layout.is_shifted:
        count = len(layout.columns)
        text = (
            f"columns {layout.columns[0]} to {layout.columns[-1]} are taken for 1 to {count} stars, as in the tables of TANet, "
            "whose numbers are those of the fields in AVA.txt"
        )
        findings.note("shifted-columns", count, text)
    return Ratings(
        kind="histogram",
        source=table.named,
        layout=_said(table, layout, levels, is_shares=is_shares),
        samples=samples,
        values=means,
        counts=counts,
        deviations=deviations,
        histogram=histogram,
        levels=levels,
        reliability=reliability(means, sums, squares) if counts is not None and (sums >= 1).all() else None,
        is_by_row=layout.sample is None,
        findings=tuple(findings.found),
    )


def _votes(rows: Rows, data: pa.Table, layout: HistogramLayout, named: str) -> tuple[Floats, Floats]:
    """(n, K) votes, NaN-free, and (K,) levels; rows that have none are left out."""
    if layout.levels:
        columns = [numbers_of(data[name]) for name in layout.columns]
        is_text = np.logical_or.reduce([column.is_text for column in columns])
        missing = np.logical_or.reduce([column.is_missing for column in columns])
        histogram = np.stack([np.nan_to_num(column.values) for column in columns], axis=1)
        if is_text.all():
            raise InputError(
                f"{named}: columns {layout.columns[0]} to {layout.columns[-1]} hold text, where numbers of votes were expected"
            )
        rows.drop(is_text, "text", "has a text for a number of votes", "have texts for numbers of votes")
        rows.drop(missing, "missing", "lacks a number of votes", "lack numbers of votes")
        return histogram, np.array(layout.levels)
    return _lists(rows, data[layout.columns[0]], layout.columns[0], named)


def _lists(rows: Rows, column: pa.ChunkedArray, name: str, named: str) -> tuple[Floats, Floats]:
    """Histograms of a column of lists, whose usual length is that of the scale."""
    column = schemas.as_values(column)
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    usual = int(np.bincount(lengths[lengths > 0]).argmax()) if (lengths > 0).any() else 0
    if usual < 2:
        raise InputError(
            f"{named}: the lists in column {name!r} are empty, where numbers of votes for each rating were expected"
        )
    rows.drop(lengths == 0, "missing", f"has no list in {name!r}", f"have no list in {name!r}")
    other: Mask = lengths != usual
    rows.drop(other, "wrong-length", f"has a list of another length than {usual}", f"have lists of other lengths than {usual}")
    histogram = np.zeros((len(lengths), usual))
    flat = pc.list_flatten(column.filter(pa.array(~other)))
    numbers = numbers_of(flat if isinstance(flat, pa.ChunkedArray) else pa.chunked_array([flat]))
    histogram[~other] = np.nan_to_num(numbers.values).reshape(-1, usual)
    bad = np.zeros(len(lengths), np.bool_)
    bad[~other] = (numbers.is_text | numbers.is_missing).reshape(-1, usual).any(axis=1)
    rows.drop(bad, "text", "has something in its list that is no number", "have something in their lists that is no number")
    return histogram, np.arange(1.0, usual + 1)


def _added(histogram: Floats, keys: Numbers, size: int) -> Floats:
    if len(keys) == size:
        return histogram
    return np.stack([sums_by(keys, column, size) for column in histogram.T], axis=1)


def _compare(rows: Rows, data: pa.Table, layout: HistogramLayout, histogram: Floats, levels: Floats) -> None:
    """Say where a file's own totals and means are others than those of its histograms."""
    sums = np.where(rows.is_left, histogram.sum(axis=1), 1.0)
    with np.errstate(invalid="ignore"):
        if layout.total is not None:
            differs = (np.abs(numbers_of(data[layout.total]).values - sums) > 0.5) & rows.is_left & (sums > _SHARES_TO)
            _note_other(rows, differs, f"another number of votes in {layout.total!r} than the histogram")
        if layout.mean is not None:
            differs = (
                np.abs(numbers_of(data[layout.mean]).values - histogram @ levels / sums) > _MEAN_MAY_DIFFER
            ) & rows.is_left
            _note_other(rows, differs, f"another mean in {layout.mean!r} than the histogram")


def _note_other(rows: Rows, mask: Mask, what: str) -> None:
    count = int(mask.sum())
    text = f"{number_of(count, 'row')} {is_or_are(count, 'has', 'have')} {what}, which counts"
    rows.findings.note("disagreeing", count, text, rows.examples(mask))


def _said(table: RatingTable, layout: HistogramLayout, levels: Floats, *, is_shares: bool) -> str:
    what = "shares of votes" if is_shares else "votes"
    if table.kind == "AVA.txt":
        return "a histogram of votes for 1 to 10 stars, AVA.txt's layout"
    where = f"columns {layout.columns[0]!r} to {layout.columns[-1]!r}" if layout.levels else f"lists in {layout.columns[0]!r}"
    return f"a histogram of {what} for {levels[0]:g} to {levels[-1]:g}, {where}"
