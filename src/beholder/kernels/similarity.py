"""The nearest rows by cosine similarity: a cheap upper bound first, then float64.

**Similarity.** `dot(x, y) / sqrt(dot(x, x) * dot(y, y))`, cut to [-1, 1], where each `dot` sums the products of elements in
float64, in 16 lanes (element i into lane i mod 16, in order), and then the lanes in halves, pairwise. Products of float16 and
float32 are exact in float64, so the result is the same on every processor, whatever rows stand beside it. Identical rows
have exactly 1, since sqrt(s * s) is s.

**Bound.** Each row is turned by an orthonormal basis; `coordinates` are the first few coordinates of its unit vector and, last,
the length of what is left. By Cauchy and Schwarz the product of two rows' coordinates is at least their similarity, up to
rounding, which `beholder.curate.duplicates.exact` takes off the threshold. Rows whose product is below need no second look.

Rows are named by their number in a matrix that starts at address `first`, `row_bytes` apart; elements as `like` in `vectors`.
"""

from __future__ import annotations

import numpy as np

from beholder.kernels.compiled import compiled
from beholder.kernels.vectors import dot, multiply_4_rows

PANEL = 32
"""Rows that stand side by side in a panel of coordinates."""
ROWS = 4
"""Queries are looked up 4 at a time: their number is rounded up to that, with anything in the rows beyond."""
NONE = -2.0
"""Stands for a similarity where no row was near enough."""


@compiled
def _similarity(like, x, y, steps, x_squares, y_squares):  # type: ignore[no-untyped-def]
    found = dot(like, x, y, steps) / np.sqrt(x_squares * y_squares)
    return min(1.0, max(-1.0, found))


@compiled
def square_sums(like, first, row_bytes, steps, rows, out):  # type: ignore[no-untyped-def]
    """Write `dot(x, x)` of rows `rows` (int64) to `out` (float64)."""
    for i in range(rows.shape[0]):
        x = first + rows[i] * row_bytes
        out[i] = dot(like, x, x, steps)


@compiled
def hash_rows(words, rows, out):  # type: ignore[no-untyped-def]
    """Write a 64-bit hash of the bytes of rows `rows` of `words`, (N, W) uint64, to `out` (uint64)."""
    for i in range(rows.shape[0]):
        row = words[rows[i]]
        state = np.uint64(0x9E3779B97F4A7C15)
        for word in row:
            state = (state ^ word) * np.uint64(0xD6E8FEB86659FD93)
            state ^= state >> np.uint64(32)
        out[i] = state


@compiled
def equal_rows(words, left, right, out):  # type: ignore[no-untyped-def]
    """Write to `out` (bool) whether row left[i] and row right[i] of `words` hold the same bytes."""
    for i in range(left.shape[0]):
        one, other = words[left[i]], words[right[i]]
        out[i] = True
        for k in range(one.shape[0]):
            if one[k] != other[k]:
                out[i] = False
                break


@compiled
def turn(unit, basis, out):  # type: ignore[no-untyped-def]
    """`unit` (4n, P) float32 times `basis`, (panels, P, 32) float32, to `out`, (4n, 32 * panels) float32; all C order."""
    row_bytes, out_bytes = unit.shape[1] * 4, out.shape[1] * 4
    for panel in range(basis.shape[0]):
        panel_at = basis.ctypes.data + panel * unit.shape[1] * PANEL * 4
        for row in range(0, unit.shape[0], ROWS):
            out_at = out.ctypes.data + row * out_bytes + panel * PANEL * 4
            multiply_4_rows(unit.ctypes.data + row * row_bytes, row_bytes, panel_at, unit.shape[1], out_at, out_bytes)


@compiled
def add_to_panels(coordinates, rows, start, panels):  # type: ignore[no-untyped-def]
    """Put rows `rows` (int64) of `coordinates`, (n, d) float32, into places start, start + 1, ... of (m, d, 32) panels."""
    for i in range(rows.shape[0]):
        place = start + i
        for k in range(coordinates.shape[1]):
            panels[place // PANEL, k, place % PANEL] = coordinates[rows[i], k]


@compiled
def search(  # type: ignore[no-untyped-def]
    like,
    first,
    row_bytes,
    steps,
    queries,
    query_rows,
    query_squares,
    panels,
    num_kept,
    kept_rows,
    kept_squares,
    limit,
    threshold,
    best,
    best_at,
):
    """The most similar of the rows that stay, for each query; of equally similar ones the first.

    `like`, `first` and `row_bytes` tell the matrix of rows, `steps` how many times 16 elements each has. `queries` are (4n, d)
    float32 coordinates, `query_rows` and `query_squares`, (q,) with q <= 4n, their rows and square sums. `panels` are
    (m, d, 32) float32 coordinates of the `num_kept` rows that stay, `kept_rows` and `kept_squares` theirs. Pairs whose
    coordinates' product is below `limit` are passed over. Where a similarity is at least `threshold` and higher than what
    stands in `best`, (q,) float64, it is written there, and the place of the row that stays to `best_at`, (q,) int64.

    Returns:
        How many similarities were computed in float64.
    """
    num_queries, dim = query_rows.shape[0], queries.shape[1]
    products = np.empty((ROWS, PANEL), np.float32)
    products_at, query_bytes = products.ctypes.data, dim * 4
    flat = products.reshape(ROWS * PANEL)
    looked_at = 0
    for panel in range((num_kept + PANEL - 1) // PANEL):
        panel_at = panels.ctypes.data + panel * dim * PANEL * 4
        for low in range(0, num_queries, ROWS):
            multiply_4_rows(queries.ctypes.data + low * query_bytes, query_bytes, panel_at, dim, products_at, PANEL * 4)
            passed = 0
            for k in range(ROWS * PANEL):
                passed += flat[k] >= limit
            if passed == 0:
                continue
            for row in range(low, min(low + ROWS, num_queries)):
                for k in range(min(PANEL, num_kept - panel * PANEL)):
                    if products[row - low, k] < limit:
                        continue
                    place = panel * PANEL + k
                    x, y = first + query_rows[row] * row_bytes, first + kept_rows[place] * row_bytes
                    found = _similarity(like, x, y, steps, query_squares[row], kept_squares[place])
                    looked_at += 1
                    if found >= threshold and found > best[row]:
                        best[row] = found
                        best_at[row] = place
    return looked_at


@compiled
def search_block(  # type: ignore[no-untyped-def]
    like, first, row_bytes, steps, queries, rows, squares, low, high, panels, members, limit, threshold, out
):
    """Similarities of rows [low, high) of a block to those `members` of the block that come before them.

    `queries` are (4n, d) float32 coordinates of all rows of the block, `low` a multiple of 4; `rows`, `squares` are theirs.
    `panels` are (m, d, 32) float32 coordinates of rows `members` (int64, ascending places in the block). Similarities of
    at least `threshold` are written to `out`, (n, len(members)) float64, and nothing else. The rest is as in `search`.

    Returns:
        How many similarities were computed in float64.
    """
    dim, num_members = queries.shape[1], members.shape[0]
    products = np.empty((ROWS, PANEL), np.float32)
    products_at, query_bytes = products.ctypes.data, dim * 4
    looked_at = 0
    for panel in range((num_members + PANEL - 1) // PANEL):
        panel_at = panels.ctypes.data + panel * dim * PANEL * 4
        for start in range(low, high, ROWS):
            if members[panel * PANEL] >= start + ROWS:
                continue
            multiply_4_rows(queries.ctypes.data + start * query_bytes, query_bytes, panel_at, dim, products_at, PANEL * 4)
            for row in range(start, min(start + ROWS, high)):
                for k in range(min(PANEL, num_members - panel * PANEL)):
                    member = members[panel * PANEL + k]
                    if member >= row or products[row - start, k] < limit:
                        continue
                    x, y = first + rows[row] * row_bytes, first + rows[member] * row_bytes
                    found = _similarity(like, x, y, steps, squares[row], squares[member])
                    looked_at += 1
                    if found >= threshold:
                        out[row, panel * PANEL + k] = found
    return looked_at


@compiled
def check_pairs(  # type: ignore[no-untyped-def]
    like,
    first,
    row_bytes,
    steps,
    query_rows,
    query_squares,
    starts,
    places,
    kept_rows,
    kept_squares,
    threshold,
    best,
    best_at,
):
    """`search` among given candidates: query i has places[starts[i]:starts[i + 1]] (int64), in any order."""
    for row in range(query_rows.shape[0]):
        x = first + query_rows[row] * row_bytes
        for i in range(starts[row], starts[row + 1]):
            place = places[i]
            found = _similarity(like, x, first + kept_rows[place] * row_bytes, steps, query_squares[row], kept_squares[place])
            if found >= threshold and (found > best[row] or (found == best[row] and place < best_at[row])):
                best[row] = found
                best_at[row] = place


@compiled
def keep_best_of_groups(like, first, row_bytes, steps, rows, squares, starts, always, threshold, keeper, found):  # type: ignore[no-untyped-def]
    """Go through the rows of each group, best first: one stays unless one before it that stays is near. For small groups.

    Group g has rows[starts[g]:starts[g + 1]] (int64 rows of the matrix) with their square sums; `always` (bool) are rows that
    stay whatever is near. Written to `keeper` (int64) and `found` (float64): the place among `rows` of the most similar row
    that stays, of equally similar ones the first, and the similarity; a row's own place and 1 where it stays itself.
    """
    for group in range(starts.shape[0] - 1):
        for i in range(starts[group], starts[group + 1]):
            keeper[i] = i
            found[i] = 1.0
            if always[i]:
                continue
            best = NONE
            for j in range(starts[group], i):
                if keeper[j] != j:
                    continue
                x, y = first + rows[i] * row_bytes, first + rows[j] * row_bytes
                similar = _similarity(like, x, y, steps, squares[i], squares[j])
                if similar >= threshold and similar > best:
                    best = similar
                    keeper[i] = j
                    found[i] = similar


@compiled
def usable_rows(like, first, row_bytes, steps, out):  # type: ignore[no-untyped-def]
    """Write to `out` (N, bool) whether each row has a direction: only finite elements, and not only zeros."""
    for row in range(out.shape[0]):
        x = first + row * row_bytes
        total = dot(like, x, x, steps)
        out[row] = total > 0.0 and total < np.inf
