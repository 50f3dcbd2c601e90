"""How far the means of single votes can be trusted: one-way analysis of variance and intraclass correlations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """What single votes say of the noise in their means.

    The model is `vote = picture + noise`, each picture rated by raters of its own (one-way random effects). With mean squares
    between and within pictures MSB and MSW, and k votes a picture, the variance of pictures is `(MSB - MSW) / k`. Shrout and
    Fleiss, "Intraclass correlations: uses in assessing rater reliability", Psychological Bulletin 86 (1979),
    https://doi.org/10.1037/0033-2909.86.2.420: ICC(1,1) and ICC(1,k). Where pictures have unlike many votes, k is
    `(n - sum(k_i^2) / n) / (N - 1)` (Snedecor and Cochran, Statistical Methods, 13.6). Of votes whose raters were centred it
    is a little too high, since the raters' means were taken from the same votes.

    Attributes:
        of_one: ICC(1,1), the reliability of a single vote, at most 1; 0 where pictures differ no more than votes do.
        of_mean: the reliability of the pictures' means, 0 to 1: variance of pictures by that of means. With k votes for each
            picture it is ICC(1,k).
        between: variance of pictures, at least 0, in squared units of the votes.
        within: variance of the votes of one picture, in the same units.
        votes_each: mean number of votes a picture.
        num_pictures: with at least one vote.
    """

    of_one: float
    of_mean: float
    between: float
    within: float
    votes_each: float
    num_pictures: int


_MOST_VOTES = 1e13


def reliability(
    means: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], within_squares: npt.NDArray[np.float64]
) -> Reliability | None:
    """Reliability from what is known of each picture.

    Args:
        means: (N,) mean vote.
        counts: (N,) number of votes, at least 1.
        within_squares: (N,) sum of squared distances of its votes from their mean; (count - 1) * deviation^2.

    Returns:
        None where it cannot be told: fewer than two pictures, no picture with two votes, votes that are all the same, or so
        many that they are no counts.
    """
    num_votes, num_pictures = float(counts.sum()), len(means)
    free = num_votes - num_pictures
    if num_pictures < 2 or not 1 <= free < _MOST_VOTES:
        return None
    grand = float(np.dot(counts, means) / num_votes)
    mean_between = float(np.dot(counts, (means - grand) ** 2)) / (num_pictures - 1)
    within = float(within_squares.sum()) / free
    if mean_between <= 0 and within <= 0:
        return None
    usual_count = (num_votes - float(np.dot(counts, counts)) / num_votes) / (num_pictures - 1)
    if usual_count <= 0:
        return None
    between = max(0.0, (mean_between - within) / usual_count)
    noise = within * float(np.mean(1 / counts))
    of_one = between / (between + within)
    return Reliability(
        of_one=of_one,
        of_mean=between / (between + noise) if between + noise > 0 else math.nan,
        between=between,
        within=within,
        votes_each=num_votes / num_pictures,
        num_pictures=num_pictures,
    )
