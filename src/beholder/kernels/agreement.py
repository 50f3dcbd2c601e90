"""Measures of agreement of a prediction with the truth, of rows with weights; for many resamples of the same rows."""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled

NUM_MEASURES = 9
"""srcc, plcc, kendall, mae, rmse, accuracy, pair accuracy, precision of the top 1 % and of the top 5 %, in this order."""

_SMALLEST_PAIRS = 1e-12


@compiled
def _below(tree, rank):  # type: ignore[no-untyped-def]
    """The weight in a Fenwick tree of ranks < `rank`."""
    total = 0.0
    at = rank
    while at > 0:
        total += tree[at]
        at -= at & -at
    return total


@compiled
def concordance(truths, ranks, weights, tree):  # type: ignore[no-untyped-def]
    """Weights of pairs of rows by how truth and prediction order them; the weight of a pair is the product of its rows'.

    Knight, "A computer method for calculating Kendall's tau with ungrouped data", JASA 61, 1966, with a Fenwick tree
    (Fenwick, Software: Practice and Experience 24, 1994) in place of merges, so that rows may have weights.

    Args:
        truths: (N,) int64 ascending: dense ranks of the truth.
        ranks: (N,) int64: dense ranks of the predictions, ascending where the truth is equal.
        weights: (N,) float64 >= 0.
        tree: (different predictions + 1,) float64, overwritten.

    Returns:
        Pairs ordered alike; ordered otherwise; of different truth and equal prediction; of equal truth and other prediction.
    """
    tree[:] = 0.0
    num_rows, num_ranks = truths.shape[0], tree.shape[0] - 1
    alike, otherwise, equal_prediction, equal_truth, total = 0.0, 0.0, 0.0, 0.0, 0.0
    start = 0
    while start < num_rows:
        stop = start
        in_group, same, squares, run = 0.0, 0.0, 0.0, -1
        while stop < num_rows and truths[stop] == truths[start]:
            weight = weights[stop]
            if weight != 0.0:
                if total > 0.0:
                    below = _below(tree, ranks[stop])
                    until = _below(tree, ranks[stop] + 1)
                    alike += weight * below
                    equal_prediction += weight * (until - below)
                    otherwise += weight * (total - until)
                if ranks[stop] != run:
                    squares += same * same
                    run, same = ranks[stop], 0.0
                same += weight
                in_group += weight
            stop += 1
        squares += same * same
        equal_truth += (in_group * in_group - squares) / 2
        for i in range(start, stop):
            if weights[i] != 0.0:
                at = ranks[i] + 1
                while at <= num_ranks:
                    tree[at] += weights[i]
                    at += at & -at
        total += in_group
        start = stop
    return alike, otherwise, equal_prediction, equal_truth


@compiled
def _correlation(x, y, x_ranks, y_ranks, weights, total):  # type: ignore[no-untyped-def]
    """Pearson's correlation of values or, looked up by rank, of mid-ranks; NaN where one is constant among rows with weight."""
    x_sum, y_sum = 0.0, 0.0
    x_low, x_high, y_low, y_high = np.inf, -np.inf, np.inf, -np.inf
    for i in range(weights.shape[0]):
        if weights[i] != 0.0:
            a, b = x[x_ranks[i]], y[y_ranks[i]]
            x_sum += weights[i] * a
            y_sum += weights[i] * b
            x_low, x_high = min(x_low, a), max(x_high, a)
            y_low, y_high = min(y_low, b), max(y_high, b)
    if not (x_high > x_low and y_high > y_low):
        return np.nan
    x_mean, y_mean, x_scale, y_scale = x_sum / total, y_sum / total, x_high - x_low, y_high - y_low
    xx, yy, xy = 0.0, 0.0, 0.0
    for i in range(weights.shape[0]):
        if weights[i] != 0.0:
            a, b = (x[x_ranks[i]] - x_mean) / x_scale, (y[y_ranks[i]] - y_mean) / y_scale
            xx += weights[i] * a * a
            yy += weights[i] * b * b
            xy += weights[i] * a * b
    return min(1.0, max(-1.0, xy / np.sqrt(xx * yy)))


@compiled
def _top_precision(share, total, by_truth, by_rank, truths, ranks, weights, good):  # type: ignore[no-untyped-def]
    """Of that share of the weight that is predicted highest, the share that is among as much rated highest."""
    wanted = min(total, max(min(1.0, total), np.ceil(share * total - 1e-9)))
    edge, gathered = by_truth.shape[0], 0.0
    while edge > 0 and gathered < wanted - 1e-9 * total:
        edge -= 1
        gathered += by_truth[edge]
    good[:] = 0.0
    for i in range(weights.shape[0]):
        if truths[i] >= edge:
            good[ranks[i]] += weights[i]
    found, left = 0.0, wanted
    for rank in range(by_rank.shape[0] - 1, -1, -1):
        if by_rank[rank] > 0.0:
            taken = min(left, by_rank[rank])
            found += good[rank] * taken / by_rank[rank]
            left -= taken
            if left <= 0.0:
                break
    return found / wanted


@compiled
def measures_of(predicted, rated, ranks, truths, row_weights, row_groups, counts, cut, out):  # type: ignore[no-untyped-def]
    """Measures of resamples of rows.

    Args:
        predicted: (P,) float64: the different predictions, ascending.
        rated: (T,) float64: the different truths, ascending.
        ranks: (N,) int64, which of the predictions each row has.
        truths: (N,) int64, which of the truths. Rows ascend in truth, and in prediction where it is equal.
        row_weights: (N,) float64 >= 0.
        row_groups: (N,) int64.
        counts: (B, G) int64, how often each group is in each resample; its rows' weights are multiplied by that.
        cut: rows are good from here.
        out: (B, NUM_MEASURES) float64, written; NaN where a measure is not defined.
    """
    num_rows = ranks.shape[0]
    weights = np.empty(num_rows)
    by_rank, by_truth = np.empty(predicted.shape[0]), np.empty(rated.shape[0])
    mid_rank, mid_truth, good = np.empty(predicted.shape[0]), np.empty(rated.shape[0]), np.empty(predicted.shape[0])
    tree = np.empty(predicted.shape[0] + 1)
    for resample in range(counts.shape[0]):
        found = out[resample]
        found[:] = np.nan
        by_rank[:] = 0.0
        by_truth[:] = 0.0
        total, absolute, squared, right = 0.0, 0.0, 0.0, 0.0
        for i in range(num_rows):
            weight = row_weights[i] * counts[resample, row_groups[i]]
            weights[i] = weight
            if weight != 0.0:
                prediction, truth = predicted[ranks[i]], rated[truths[i]]
                by_rank[ranks[i]] += weight
                by_truth[truths[i]] += weight
                total += weight
                absolute += weight * abs(prediction - truth)
                squared += weight * (prediction - truth) ** 2
                if (prediction >= cut) == (truth >= cut):
                    right += weight
        if not total > 0.0:
            continue
        below = 0.0
        for rank in range(predicted.shape[0]):
            mid_rank[rank] = below + by_rank[rank] / 2
            below += by_rank[rank]
        below = 0.0
        for truth_rank in range(rated.shape[0]):
            mid_truth[truth_rank] = below + by_truth[truth_rank] / 2
            below += by_truth[truth_rank]
        found[0] = _correlation(mid_rank, mid_truth, ranks, truths, weights, total)
        found[1] = _correlation(predicted, rated, ranks, truths, weights, total)
        alike, otherwise, equal_prediction, equal_truth = concordance(truths, ranks, weights, tree)
        apart = alike + otherwise + equal_prediction
        product = apart * (alike + otherwise + equal_truth)
        if product > _SMALLEST_PAIRS * total**4:
            found[2] = (alike - otherwise) / np.sqrt(product)
        found[3] = absolute / total
        found[4] = np.sqrt(squared / total)
        found[5] = right / total
        if apart > _SMALLEST_PAIRS * total**2:
            found[6] = (alike + equal_prediction / 2) / apart
        found[7] = _top_precision(0.01, total, by_truth, by_rank, truths, ranks, weights, good)
        found[8] = _top_precision(0.05, total, by_truth, by_rank, truths, ranks, weights, good)
