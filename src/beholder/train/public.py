"""The published heads that score the same embeddings, to stand beside a head of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError
from beholder.models import catalog
from beholder.models.backbones import same_backbone
from beholder.models.heads import Head, load_head
from beholder.train.logistic import chances, fit_logistic
from beholder.train.rows import Doubles, Rows

NO_TOWER = (
    "nobody says which tower the embeddings are of, so no public head can be compared: a stamp (beholder.json) beside them "
    "would, or beholder train --backbone"
)
_SCORED_ROWS = 1 << 16


def public_heads(backbone: str | None, dim: int, *, offline: bool | None = None) -> tuple[list[Head], list[str]]:
    """All public heads for embeddings of a tower, and a line for each that could not be loaded.

    Args:
        backbone: the tower, by any tool's name; None: nobody knows, and there are none.
        dim: length of the embeddings.
        offline: as `load_head` has it.
    """
    if backbone is None:
        return [], [NO_TOWER]
    found, missing = [], []
    for entry in catalog.HEADS:
        if entry.dim != dim or not same_backbone(entry.backbone, backbone):
            continue
        try:
            found.append(load_head(entry.name, offline=offline))
        except HeadError as error:
            missing.append(str(error))
    return found, missing


def scores_of(head: Head, matrix: npt.NDArray[Any], rows: Rows) -> Doubles:
    """Scores of some rows of a matrix, (n,) float64."""
    pieces = (rows[at : at + _SCORED_ROWS] for at in range(0, len(rows), _SCORED_ROWS))
    parts = [head.score(np.asarray(matrix[some])).astype(np.float64) for some in pieces]
    return np.concatenate(parts) if parts else np.empty(0)


@dataclass(frozen=True)
class RatingMap:
    """From a head's scores to ratings, or to chances of a keep: `middle + slope * (score - centre)`, of chances as log odds."""

    centre: float
    slope: float
    middle: float
    is_marks: bool

    def __call__(self, scores: Doubles) -> Doubles:
        """(n,) ratings or chances."""
        line = self.middle + (scores - self.centre) * self.slope
        return chances(line) if self.is_marks else np.asarray(line)

    @property
    def intercept(self) -> float:
        """At a score of 0."""
        return self.middle - self.slope * self.centre


def on_the_scale(scores: Doubles, targets: Doubles, weights: Doubles, *, is_marks: bool) -> RatingMap:
    """A map from a head's scores to ratings by a straight line, or to chances by a logistic curve, fitted to these rows.

    A head on a scale of 1 to 10 cannot be blamed for missing ratings of 1 to 5; this asks how well it does apart from that.
    Where all scores or all targets are the same it is the mean of the targets, whatever the score.
    """
    centre, spread = float(np.average(scores, weights=weights)), float(scores.std())
    if np.ptp(targets) == 0:
        return RatingMap(centre, 0.0, float(targets[0]), is_marks=False)
    if spread == 0:
        return RatingMap(centre, 0.0, float(np.average(targets, weights=weights)), is_marks=False)
    scaled = (scores - centre) / spread
    if is_marks:
        fit = fit_logistic(scaled[:, None], targets, weights, strength=1e-4)
        return RatingMap(centre, float(fit.weight[0]) / spread, float(fit.bias), is_marks=True)
    mean = float(np.average(targets, weights=weights))
    slope = float(np.average(scaled * (targets - mean), weights=weights) / np.average(scaled**2, weights=weights))
    return RatingMap(centre, slope / spread, mean, is_marks=False)
