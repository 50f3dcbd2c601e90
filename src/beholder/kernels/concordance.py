"""Weighted counts of pairs that two orders agree on, in O(N log N)."""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled


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
def concordance(starts, ranks, weights, num_ranks):  # type: ignore[no-untyped-def]
    """Weights of pairs of rows by how truth and prediction order them; the weight of a pair is the product of its rows'.

    Knight, "A computer method for calculating Kendall's tau with ungrouped data", JASA 61, 1966, with a Fenwick tree
    (Fenwick, Software: Practice and Experience 24, 1994) in place of merges, so that rows may have weights.

    Args:
        starts: (G + 1,) int64: where groups of equal truth begin, ascending in truth; the last is N.
        ranks: (N,) int64 in that order: dense ranks of the predictions, ascending within a group.
        weights: (N,) float64 in that order, >= 0.
        num_ranks: different predictions.

    Returns:
        Pairs ordered alike; ordered otherwise; of different truth and equal prediction; of equal truth and other prediction.
    """
    tree = np.zeros(num_ranks + 1)
    alike, otherwise, equal_prediction, equal_truth = 0.0, 0.0, 0.0, 0.0
    total = 0.0
    for group in range(starts.shape[0] - 1):
        in_group, same = 0.0, 0.0
        run, squares = -1, 0.0
        for i in range(starts[group], starts[group + 1]):
            weight = weights[i]
            if weight == 0.0:
                continue
            if group > 0:
                below = _below(tree, ranks[i])
                until = _below(tree, ranks[i] + 1)
                alike += weight * below
                equal_prediction += weight * (until - below)
                otherwise += weight * (total - until)
            if ranks[i] != run:
                squares += same * same
                run, same = ranks[i], 0.0
            same += weight
            in_group += weight
        squares += same * same
        equal_truth += (in_group * in_group - squares) / 2
        for i in range(starts[group], starts[group + 1]):
            at = ranks[i] + 1
            while at <= num_ranks:
                tree[at] += weights[i]
                at += at & -at
        total += in_group
    return alike, otherwise, equal_prediction, equal_truth
