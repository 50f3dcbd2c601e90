"""Reliability of means: the published example, and what simulated raters have by construction."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from beholder.train.ratings.read import read_ratings
from beholder.train.ratings.reliability import reliability

JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]
"""Shrout and Fleiss (1979), table 2: six targets, four judges."""


def votes(table: list[list[float]]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"image": f"p{target}", "judge": f"j{judge}", "rating": vote}
            for target, row in enumerate(table)
            for judge, vote in enumerate(row)
        ]
    )


def test_the_published_example() -> None:
    found = read_ratings(votes(JUDGES)).reliability
    assert found is not None
    # Table 3: mean squares 11.24 between and 6.26 within targets; table 4: ICC(1,1) = .17, ICC(1,k) = .44.
    assert found.within == pytest.approx(6.26, abs=0.005)
    assert found.between == pytest.approx((11.24 - 6.26) / 4, abs=0.005)
    assert found.of_one == pytest.approx(0.17, abs=0.005)
    assert found.of_mean == pytest.approx(0.44, abs=0.005)
    assert (found.votes_each, found.num_pictures) == (4, 6)


def test_counts_and_deviations_say_as_much_as_votes() -> None:
    single = read_ratings(votes(JUDGES))
    table = np.array(JUDGES, float)
    frame = pd.DataFrame({"image": range(6), "mean": table.mean(1), "count": 4, "std": table.std(1, ddof=1)})
    assert read_ratings(frame).reliability == pytest.approx(single.reliability) or _close(
        read_ratings(frame).reliability, single.reliability
    )
    counted = pd.DataFrame({"image": range(6), **{f"score{n}": (table == n).sum(1) for n in range(1, 11)}})
    assert _close(read_ratings(counted).reliability, single.reliability)


def _close(one: object, other: object) -> bool:
    return one is not None and vars(one) == pytest.approx(vars(other))


def test_unlike_many_votes() -> None:
    rng = np.random.default_rng(5)
    counts = rng.integers(1, 12, 20_000).astype(float)
    truth = rng.normal(5, 1.5, counts.size)
    each = np.repeat(np.arange(counts.size), counts.astype(int))
    single = truth[each] + rng.normal(0, 2, each.size)
    means = np.bincount(each, single) / counts
    found = reliability(means, counts, np.bincount(each, (single - means[each]) ** 2))
    assert found is not None
    assert found.between == pytest.approx(1.5**2, rel=0.04)
    assert found.within == pytest.approx(2.0**2, rel=0.02)
    assert found.of_mean == pytest.approx(np.corrcoef(means, truth)[0, 1] ** 2, abs=0.01)


def test_where_it_cannot_be_told() -> None:
    one, two = np.ones(1), np.ones(2)
    assert reliability(one, one * 5, one) is None
    assert reliability(np.array([1.0, 2.0]), two, two * 0) is None
    assert reliability(two, two * 3, two * 0) is None
    noise = reliability(np.array([1.0, 1.1]), two * 2, two * 8)
    assert noise is not None
    assert (noise.of_one, noise.of_mean) == (0, 0)
