"""Measures of agreement of a prediction with the truth, of rows with weights; for many resamples of the same rows.

Rows are sorted once, by the truth. A resample is then a vector of weights, and takes passes over the rows that do not sort.
"""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled

NUM_MEASURES = 9
"""srcc, plcc, kendall, mae, rmse, accuracy, pair accuracy, precision of the top 1 % and of the top 5 %, in this order."""
LANES = 4
"""Resamples whose pairs are counted at once."""
ERRORS, RANKS, PAIRS = 1, 2, 4
"""Bits that say which measures are wanted: mae, rmse, accuracy; srcc, plcc and the precisions; kendall and pair accuracy."""

_SMALLEST_PAIRS = 1e-12
_BLOCK_LEVELS = 12
"""Nodes of at most so many bits of ranks are finished one after the other, in the cache."""


@compiled
def count_draws(picked, times):  # type: ignore[no-untyped-def]
    """(G,) int32 `times` how often each number is among `picked` (n,); overwritten."""
    times[:] = 0
    for i in range(picked.shape[0]):
        times[picked[i]] += 1


@compiled
def weigh_rows(weights, groups, times, out):  # type: ignore[no-untyped-def]
    """(N,) `out`: the weights of rows (N,), by how often their group (N,) is drawn (G,)."""
    for i in range(weights.shape[0]):
        out[i] = weights[i] * times[groups[i]]


@compiled
def weighted_sums(bins, values, weights, totals, sums):  # type: ignore[no-untyped-def]
    """(L, K) sums of weights and of weighted values in each bin: bins (N,) int, values (N,), weights (L, N); overwritten."""
    totals[:] = 0.0
    sums[:] = 0.0
    for lane in range(weights.shape[0]):
        for i in range(bins.shape[0]):
            totals[lane, bins[i]] += weights[lane, i]
            sums[lane, bins[i]] += weights[lane, i] * values[i]


@compiled
def fill_bits(ranks, starts, bits):  # type: ignore[no-untyped-def]
    """The bits of ranks, highest first, of rows that each level sorts by the bits above it (a wavelet tree).

    Args:
        ranks: (N,) int32, from 0 to P - 1.
        starts: (P + 1,) int64, how many rows have a smaller rank.
        bits: (levels, N) uint8, written; levels: the bits of P - 1.
    """
    num_levels, num_rows = bits.shape
    rows, sorted_rows = ranks.copy(), np.empty_like(ranks)
    places = np.empty(starts.shape[0], np.int64)
    last = starts.shape[0] - 2
    for level in range(num_levels):
        shift = num_levels - 1 - level
        for child in range((last >> shift) + 1):
            places[child] = starts[child << shift]
        for i in range(num_rows):
            child = rows[i] >> shift
            bits[level, i] = child & 1
            sorted_rows[places[child]] = rows[i]
            places[child] += 1
        rows, sorted_rows = sorted_rows, rows


@compiled
def _split_nodes(source, target, bits, starts, shift, first, stop, found):  # type: ignore[no-untyped-def]
    """Move the rows of some nodes of a level to their children, and add up pairs in which the larger rank comes first.

    Args:
        source: (N, LANES) weights.
        target: (N, LANES) weights, written.
        bits: (N,) of this level.
        starts: (P + 1,) as of `fill_bits`.
        shift: bits of a rank below this level's.
        first: the first node, by the bits of a rank above this level's.
        stop: the node after the last one.
        found: (LANES,) is added to.
    """
    last = starts.shape[0] - 1
    sum_0, sum_1, sum_2, sum_3 = 0.0, 0.0, 0.0, 0.0
    for node in range(first, stop):
        begin = starts[min(last, node << (shift + 1))]
        end = starts[min(last, (node + 1) << (shift + 1))]
        low, high = begin, starts[min(last, (2 * node + 1) << shift)]
        larger_0, larger_1, larger_2, larger_3 = 0.0, 0.0, 0.0, 0.0
        for i in range(begin, end):
            weight_0, weight_1, weight_2, weight_3 = source[i, 0], source[i, 1], source[i, 2], source[i, 3]
            bit = np.int64(bits[i])
            is_larger = np.float64(bit)
            is_smaller = 1.0 - is_larger
            sum_0 += is_smaller * weight_0 * larger_0
            sum_1 += is_smaller * weight_1 * larger_1
            sum_2 += is_smaller * weight_2 * larger_2
            sum_3 += is_smaller * weight_3 * larger_3
            larger_0 += is_larger * weight_0
            larger_1 += is_larger * weight_1
            larger_2 += is_larger * weight_2
            larger_3 += is_larger * weight_3
            at = low + (high - low) * bit
            target[at, 0], target[at, 1], target[at, 2], target[at, 3] = weight_0, weight_1, weight_2, weight_3
            low += 1 - bit
            high += bit
    found[0] += sum_0
    found[1] += sum_1
    found[2] += sum_2
    found[3] += sum_3


@compiled
def discordant(bits, starts, source, target, found):  # type: ignore[no-untyped-def]
    """Weight of the pairs of rows of which the earlier has the larger rank; a pair's is the product of its rows'.

    Of rows that ascend in truth, and in rank where the truth is equal, these are the pairs that a prediction orders wrongly:
    the exchanges of Knight, "A computer method for calculating Kendall's tau with ungrouped data", JASA 61, 1966. The merges
    are those of a wavelet tree (Grossi, Gupta and Vitter, SODA 2003), the same for all resamples.

    Args:
        bits: (levels, N) as of `fill_bits`.
        starts: (P + 1,) as of `fill_bits`.
        source: (N, LANES) float64 weights, of several resamples side by side; overwritten.
        target: (N, LANES) float64, overwritten.
        found: (LANES,) float64, written.
    """
    found[:] = 0.0
    num_levels = bits.shape[0]
    last = starts.shape[0] - 2
    blocked = min(num_levels, _BLOCK_LEVELS)
    for level in range(num_levels - blocked):
        shift = num_levels - 1 - level
        _split_nodes(source, target, bits[level], starts, shift, 0, (last >> (shift + 1)) + 1, found)
        source, target = target, source
    for block in range((last >> blocked) + 1):
        one, other = source, target
        for level in range(num_levels - blocked, num_levels):
            shift = num_levels - 1 - level
            above = blocked - 1 - shift
            stop = min((block + 1) << above, (last >> (shift + 1)) + 1)
            _split_nodes(one, other, bits[level], starts, shift, block << above, stop, found)
            one, other = other, one


@compiled
def _linear_correlation(x, y, weights, total):  # type: ignore[no-untyped-def]
    """Pearson's correlation of (N,) and (N,), neither of which is constant among rows with weight; within about 1 of 0."""
    x_sum, y_sum = 0.0, 0.0
    for i in range(weights.shape[0]):
        x_sum += weights[i] * x[i]
        y_sum += weights[i] * y[i]
    x_mean, y_mean = x_sum / total, y_sum / total
    xx, yy, xy = 0.0, 0.0, 0.0
    for i in range(weights.shape[0]):
        a, b = x[i] - x_mean, y[i] - y_mean
        xx += weights[i] * a * a
        yy += weights[i] * b * b
        xy += weights[i] * a * b
    return min(1.0, max(-1.0, xy / np.sqrt(xx * yy)))


@compiled
def _mid_ranks(weights, total, places):  # type: ignore[no-untyped-def]
    """Mid-ranks of values with weights (P,), as shares of the total less 1 / 2, which is their mean; written to `places` (P,).

    Returns:
        The weighted sum of their squares, and how many values have any weight.
    """
    squares, below, count = 0.0, 0.0, 0
    share = 1 / total
    for rank in range(weights.shape[0]):
        places[rank] = (below + weights[rank] / 2) * share - 0.5
        squares += weights[rank] * places[rank] ** 2
        below += weights[rank]
        count += weights[rank] > 0.0
    return squares, count


@compiled
def _top_precision(share, total, by_rank, truths, ranks, weights):  # type: ignore[no-untyped-def]
    """Of that share of the weight that is predicted highest, the share that is among as much rated highest."""
    wanted = min(total, max(min(1.0, total), np.ceil(share * total - 1e-9)))
    edge, left = by_rank.shape[0], wanted
    while edge > 0 and left > 0.0:  # the last of the highest predictions, and the part of it that is taken
        edge -= 1
        part = min(left, by_rank[edge]) / by_rank[edge] if by_rank[edge] > 0.0 else 0.0
        left -= min(left, by_rank[edge])
    found, gathered, row = 0.0, 0.0, truths.shape[0] - 1
    while row >= 0 and gathered < wanted - 1e-9 * total:
        truth = truths[row]
        while row >= 0 and truths[row] == truth:
            gathered += weights[row]
            if ranks[row] > edge:
                found += weights[row]
            elif ranks[row] == edge:
                found += weights[row] * part
            row -= 1
    return found / wanted


@compiled
def _errors(predictions, truth, weights, total, cut, found):  # type: ignore[no-untyped-def]
    """Mean absolute error, root mean squared error, and share on the right side of the cut."""
    absolute, squared, right = 0.0, 0.0, 0.0
    for i in range(weights.shape[0]):
        off = predictions[i] - truth[i]
        absolute += weights[i] * abs(off)
        squared += weights[i] * off**2
        right += weights[i] * ((predictions[i] >= cut) == (truth[i] >= cut))
    found[3] = absolute / total
    found[4] = np.sqrt(squared / total)
    found[5] = right / total


@compiled
def _pairs(order, ranks, truths, weights, by_rank, by_truth, total, wrong, found):  # type: ignore[no-untyped-def]
    """Kendall's tau-b and the share of pairs of different truth that are ordered right, from the weight of wrong pairs."""
    same_rank, same_truth, same_both = 0.0, 0.0, 0.0
    for rank in range(by_rank.shape[0]):
        same_rank += by_rank[rank] ** 2
    for truth in range(by_truth.shape[0]):
        same_truth += by_truth[truth] ** 2
    if max(by_rank.shape[0], by_truth.shape[0]) == weights.shape[0]:  # no two rows have both in common
        for i in range(weights.shape[0]):
            same_both += weights[i] ** 2
    else:
        cell, cell_truth, cell_rank = 0.0, -1, -1
        for i in range(order.shape[0]):
            row = order[i]
            if truths[row] != cell_truth or ranks[row] != cell_rank:
                same_both += cell * cell
                cell, cell_truth, cell_rank = 0.0, truths[row], ranks[row]
            cell += weights[row]
        same_both += cell * cell
    apart = (total * total - same_truth) / 2
    equal_prediction = (same_rank - same_both) / 2
    alike = apart - equal_prediction - wrong
    product = apart * ((total * total - same_rank) / 2)
    if apart > _SMALLEST_PAIRS * total**2:
        found[6] = min(1.0, max(0.0, (alike + equal_prediction / 2) / apart))
        if product > _SMALLEST_PAIRS * total**4:
            found[2] = min(1.0, max(-1.0, (alike - wrong) / np.sqrt(product)))


@compiled
def measures_of(predictions, truth, linear, order, ranks, truths, num_ranks, bits, starts, weights, cut, wanted, out):  # type: ignore[no-untyped-def]
    """Measures of resamples of rows that ascend in truth.

    Args:
        predictions: (N,) float64.
        truth: (N,) float64.
        linear: (2, N) float64, both again, brought to numbers within 1 of 0, for their linear correlation.
        order: (N,) int32, rows ascending in truth, and in prediction where it is equal.
        ranks: (N,) int32, which of the different predictions each row has, from 0.
        truths: (N,) int32, which of the different truths.
        num_ranks: P, how many different predictions there are.
        bits: (levels, N) as of `fill_bits`, of the ranks in `order`; used for `PAIRS` alone.
        starts: (P + 1,) as of `fill_bits`.
        weights: (B, N) float64 >= 0, of the rows in each resample; B at most `LANES`, N at least 1.
        cut: rows are good from here.
        wanted: the sum of `ERRORS`, `RANKS` and `PAIRS`.
        out: (B, NUM_MEASURES) float64, written; NaN where a measure is not defined, or not wanted.
    """
    num_lanes, num_rows = weights.shape
    out[:] = np.nan
    wrong = np.zeros(LANES)
    if wanted & PAIRS:
        source, target = np.empty((num_rows, LANES)), np.empty((num_rows, LANES))
        for i in range(num_rows):
            for lane in range(LANES):
                source[i, lane] = weights[lane, order[i]] if lane < num_lanes else 0.0
        discordant(bits, starts, source, target, wrong)
    by_rank, places = np.empty(num_ranks), np.empty(num_ranks)
    by_truth, truth_places = np.empty(truths[num_rows - 1] + 1), np.empty(truths[num_rows - 1] + 1)
    for lane in range(num_lanes):
        given, found = weights[lane], out[lane]
        by_rank[:] = 0.0
        by_truth[:] = 0.0
        total = 0.0
        for i in range(num_rows):
            by_truth[truths[i]] += given[i]
            total += given[i]
        if not total > 0.0:
            continue
        if wanted & ERRORS:
            _errors(predictions, truth, given, total, cut, found)
        if wanted & (RANKS | PAIRS):
            for i in range(num_rows):
                by_rank[ranks[i]] += given[i]
        if wanted & RANKS:
            xx, different_ranks = _mid_ranks(by_rank, total, places)
            yy, different_truths = _mid_ranks(by_truth, total, truth_places)
            if different_ranks > 1 and different_truths > 1:
                xy = 0.0
                for i in range(num_rows):
                    xy += given[i] * places[ranks[i]] * truth_places[truths[i]]
                found[0] = min(1.0, max(-1.0, xy / np.sqrt(xx * yy)))
                found[1] = _linear_correlation(linear[0], linear[1], given, total)
            found[7] = _top_precision(0.01, total, by_rank, truths, ranks, given)
            found[8] = _top_precision(0.05, total, by_rank, truths, ranks, given)
        if wanted & PAIRS:
            _pairs(order, ranks, truths, given, by_rank, by_truth, total, wrong[lane], found)
