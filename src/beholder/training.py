"""A linear head fitted to people's ratings by closed-form ridge regression, and how well it agrees with held-out ones.

The head is `rating = weight . x/|x| + bias`. For a strength s the fit minimises

    mean over rows of (rating - weight . x/|x| - bias)^2  +  s |weight|^2

with the bias unpenalised (Hoerl and Kennard, "Ridge regression", Technometrics 12, 1970,
https://doi.org/10.1080/00401706.1970.10488634). The mean makes a strength mean the same for any number of rows.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.columns import RowStatus
from beholder.errors import InputError

if TYPE_CHECKING:
    from beholder.models.heads import Head

NO_RATING = "no_rating"
"""Why a row was left out: its rating is NaN or infinite. The other reasons are the words of `RowStatus`."""

STRENGTHS: tuple[float, ...] = tuple(float(10.0**exponent) for exponent in np.arange(2.0, -10.25, -0.5))
"""Strengths that are tried, strongest first. Rows have length 1, so the eigenvalues of their covariance are at most 1."""

METHOD = "ridge regression in closed form on rows of length 1, bias unpenalised"

_MIN_PART_ROWS = 2
_SMALLEST_VARIANCE = 1e-24
_BLOCK_BYTES = 32 << 20

FloatMatrix = npt.NDArray[np.floating[Any]]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How well predictions agree with the truth on one set of rows.

    Attributes:
        num_rows: rows compared.
        srcc: Spearman's rank correlation, -1 to 1; NaN where it is not defined.
        plcc: Pearson's linear correlation, -1 to 1; NaN where it is not defined.
        mse: mean squared error, in squared units of the ratings; NaN without rows.
        r2: share of the truth's variance that is explained, at most 1; NaN where it is not defined.
    """

    num_rows: int
    srcc: float
    plcc: float
    mse: float
    r2: float

    def to_json(self) -> dict[str, float | None]:
        """A JSON-ready record; what is not defined is None."""
        return {name: None if math.isnan(value) else value for name, value in asdict(self).items()}


def average_ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(N,) finite values -> (N,) float64 ranks from 1 to N; equal values share the mean of the ranks they take up."""
    series = np.asarray(values)
    order = np.argsort(series, kind="stable")
    in_order = series[order]
    starts = np.flatnonzero(np.concatenate(([True], in_order[1:] != in_order[:-1]))) if series.size else np.empty(0, np.intp)
    lengths = np.diff(np.append(starts, series.size))
    ranks = np.empty(series.size, np.float64)
    ranks[order] = np.repeat(starts + (lengths + 1) / 2, lengths)
    return ranks


def _pearson(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> float:
    """Pearson's linear correlation of (N,) and (N,), in [-1, 1]; NaN when N < 2 or a series is constant."""
    if a.size < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    a, b = a - a.mean(), b - b.mean()
    a, b = a / np.abs(a).max(), b / np.abs(b).max()
    return float(np.clip(np.dot(a, b) / math.sqrt(float(np.dot(a, a)) * float(np.dot(b, b))), -1.0, 1.0))


def spearman(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> float:
    """Spearman's rank correlation of (N,) and (N,) finite values, ties by average ranks; NaN when N < 2 or one is constant."""
    return _pearson(average_ranks(predictions), average_ranks(truth))


def agreement(predictions: npt.ArrayLike, truth: npt.ArrayLike) -> Agreement:
    """All measures of (N,) predictions against (N,) truth. Raises InputError for other shapes, NaN or Inf."""
    a, b = np.asarray(predictions, np.float64), np.asarray(truth, np.float64)
    if a.ndim != 1 or b.ndim != 1 or a.shape != b.shape:
        raise InputError(f"cannot compare series of shapes {a.shape} and {b.shape}: both must be flat and equally long")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise InputError("cannot compare series that hold NaN or infinite values; drop those rows first")
    squares = (a - b) ** 2
    is_varied = b.size > 1 and np.ptp(b) > 0
    return Agreement(
        num_rows=b.size,
        srcc=spearman(a, b),
        plcc=_pearson(a, b),
        mse=float(np.mean(squares)) if b.size else math.nan,
        r2=float(1.0 - np.sum(squares) / np.sum((b - b.mean()) ** 2)) if is_varied else math.nan,
    )


@dataclass(frozen=True, kw_only=True)
class RowCounts:
    """What became of the rows given: given = train + validation + test + sum of excluded, always.

    Attributes:
        given: rows handed in.
        train: rows of the first fit, from which the strength was judged.
        validation: rows on which the strength was chosen; they are part of the final fit.
        test: rows never used in a fit or a choice.
        excluded: rows left out by reason: no_rating, nan, inf, zero_norm.
    """

    given: int
    train: int
    validation: int
    test: int
    excluded: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class RidgeFit:
    """A fitted linear head and how good it is.

    Attributes:
        name: name of the head.
        backbone: the embedding space it was fitted in, or None when unknown.
        weight: (D,) float64, for rows of length 1.
        bias: float, in the units of the ratings.
        regularisation: the strength used in the final fit.
        metrics: agreement with the ratings of the test part.
        validation_mse: per tried strength the mean squared error on the validation part; empty when one was given.
        counts: how many rows went where.
        seed: what the split was drawn from.
    """

    name: str
    backbone: str | None
    weight: npt.NDArray[np.float64]
    bias: float
    regularisation: float
    metrics: Agreement
    validation_mse: dict[float, float]
    counts: RowCounts
    seed: int

    def to_head(self) -> Head:
        """The fitted head, ready for `head.score(...)` and `save_head(head, path)`."""
        from beholder.kernels.scoring import Affine
        from beholder.models.heads import Head

        notes = {
            "method": METHOD,
            "regularisation": f"{self.regularisation:.6g}",
            "rows": f"train {self.counts.train}, validation {self.counts.validation}, test {self.counts.test}",
            "test": ", ".join(f"{key} {value}" for key, value in self.metrics.to_json().items()),
            "seed": str(self.seed),
        }
        return Head(
            name=self.name,
            math=Affine(self.weight, self.bias),
            backbone=self.backbone,
            scale_note="the scale of the ratings it was fitted to",
            notes=notes,
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready record of the fit without the weight."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "method": METHOD,
            "regularisation": self.regularisation,
            "test": self.metrics.to_json(),
            "validation_mse": {f"{strength:.3g}": mse for strength, mse in self.validation_mse.items()},
            "rows": asdict(self.counts),
            "seed": self.seed,
        }


def fit_ridge(
    embeddings: FloatMatrix,
    ratings: npt.NDArray[np.floating[Any]],
    *,
    regularisation: float | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.1,
    seed: int = 0,
    name: str = "ridge",
    backbone: str | None = None,
) -> RidgeFit:
    """Fit a linear head to people's ratings.

    The rated rows are split at random into train, validation and test. The split depends on `seed` and the rows'
    values alone, not on their order, and equal rows always come into the same part, so that a picture rated twice
    does not test itself. The strength with the smallest mean squared error on the validation part is taken, the head is
    fitted again on train and validation together, and measured once on the test part.

    Args:
        embeddings: (N, D) float16, float32 or float64, normalised or not; may be memory-mapped. Rows without a rating
            are never read, and the others are read in blocks, so that memory does not grow with N.
        ratings: (N,) float, on any scale; NaN where there is none.
        regularisation: strength to use, >= 0 (0: least squares, the shortest weight where there are several);
            None: choose on the validation part. With a number no validation part is set apart.
        validation_share: share of the usable rows for the validation part, in (0, 1).
        test_share: share of the usable rows for the test part, in (0, 1).
        seed: draws the split.
        name: name of the head.
        backbone: the embedding space, as the stamp of the embedding set names it.

    Raises:
        InputError: wrong shapes, fewer usable rows than three parts need, ratings or embeddings that do not vary.
    """
    matrix, wanted = _checked(embeddings, ratings)
    _check_options(regularisation, validation_share, test_share)
    usable, excluded = _usable_rows(matrix, wanted)
    shares = (test_share, validation_share) if regularisation is None else (test_share, 0.0)
    _check_enough(wanted[usable], _MIN_PART_ROWS * (3 if regularisation is None else 2))
    test, validation, train = _split(matrix, usable, shares, seed)
    moments = _Moments.around(matrix, wanted, train)
    moments.add(matrix, wanted, train)
    tried: dict[float, float] = {}
    strength = regularisation
    if strength is None:
        tried = _validation_errors(moments, matrix, wanted, validation)
        strength = min(tried, key=lambda candidate: tried[candidate])
        moments.add(matrix, wanted, validation)
    weights, biases = moments.solve([strength])
    predictions = _predict(matrix, test, weights, biases)[:, 0]
    return RidgeFit(
        name=name,
        backbone=backbone,
        weight=np.ascontiguousarray(weights[:, 0]),
        bias=float(biases[0]),
        regularisation=float(strength),
        metrics=agreement(predictions, wanted[test]),
        validation_mse=tried,
        counts=RowCounts(given=len(wanted), train=len(train), validation=len(validation), test=len(test), excluded=excluded),
        seed=seed,
    )


def _checked(embeddings: FloatMatrix, ratings: npt.NDArray[np.floating[Any]]) -> tuple[FloatMatrix, npt.NDArray[np.float64]]:
    """Embeddings and ratings as float arrays that fit together."""
    matrix, wanted = np.asanyarray(embeddings), np.asarray(ratings)
    if matrix.ndim != 2 or matrix.shape[1] == 0 or matrix.dtype.kind != "f":
        raise InputError(f"cannot fit to embeddings of shape {matrix.shape} and type {matrix.dtype}: (N, D) floats are needed")
    if wanted.dtype.kind not in "fiu" or wanted.shape != (matrix.shape[0],):
        raise InputError(
            f"cannot fit to ratings of shape {wanted.shape} and type {wanted.dtype}: "
            f"one number for each of the {matrix.shape[0]} embeddings is needed"
        )
    return matrix, wanted.astype(np.float64)


def _check_options(regularisation: float | None, validation_share: float, test_share: float) -> None:
    """Refuse options that no fit can be made with."""
    if regularisation is not None and not 0 <= regularisation < np.inf:
        raise InputError(f"regularisation must be a number >= 0, not {regularisation}")
    for label, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise InputError(f"{label} must lie between 0 and 1, not {share}")
    if validation_share + test_share >= 1:
        raise InputError(f"validation_share {validation_share} and test_share {test_share} leave no rows to fit to")


def _block_rows(dim: int) -> int:
    """Rows whose float64 copy fills one block."""
    return max(1, _BLOCK_BYTES // (8 * dim))


def _unit_rows(matrix: FloatMatrix, rows: Rows) -> npt.NDArray[np.float64]:
    """Copies of `rows`, each of length 1, (n, D) float64. The rows must be finite and not all zeros."""
    block = matrix[rows].astype(np.float64)
    block /= np.abs(block).max(axis=1, keepdims=True)
    block /= np.sqrt(np.einsum("ij,ij->i", block, block))[:, None]
    return block


def _usable_rows(matrix: FloatMatrix, ratings: npt.NDArray[np.float64]) -> tuple[Rows, dict[str, int]]:
    """Ascending numbers of the rows that can be used, and how many cannot by reason."""
    rated = np.flatnonzero(np.isfinite(ratings))
    excluded = {NO_RATING: len(ratings) - len(rated)}
    statuses = np.zeros(len(rated), np.uint8)
    step = _block_rows(matrix.shape[1])
    for start in range(0, len(rated), step):
        block = matrix[rated[start : start + step]]
        found = statuses[start : start + step]
        found[~block.any(axis=1)] = RowStatus.ZERO_NORM
        found[np.isinf(block).any(axis=1)] = RowStatus.INF
        found[np.isnan(block).any(axis=1)] = RowStatus.NAN
    for status in (RowStatus.NAN, RowStatus.INF, RowStatus.ZERO_NORM):
        excluded[status.word] = int(np.count_nonzero(statuses == status))
    return rated[statuses == RowStatus.OK], {reason: count for reason, count in excluded.items() if count}


def _check_enough(ratings: npt.NDArray[np.float64], needed: int) -> None:
    """Refuse usable ratings that are too few for the parts, or all the same."""
    if len(ratings) < needed:
        raise InputError(
            f"too few rows to fit a head: {len(ratings)} have a usable embedding and a rating, {needed} are needed"
        )
    if np.ptp(ratings) == 0:
        raise InputError(f"cannot fit a head: all {len(ratings)} ratings are {ratings[0]:g}, there is nothing to learn")


def _split(matrix: FloatMatrix, rows: Rows, shares: tuple[float, float], seed: int) -> tuple[Rows, Rows, Rows]:
    """Test, validation and train rows, each ascending, cut from the order of a seeded hash of their directions."""
    keys = np.empty(len(rows), np.uint64)
    salt = hashlib.blake2b(str(seed).encode(), digest_size=16).digest()
    step = _block_rows(matrix.shape[1])
    for start in range(0, len(rows), step):
        block = matrix[rows[start : start + step]].astype(np.float64)
        block /= np.abs(block).max(axis=1, keepdims=True)
        for position, row in enumerate(block.astype(np.float32) + np.float32(0.0), start):
            keys[position] = int.from_bytes(hashlib.blake2b(row.data, digest_size=8, salt=salt).digest(), "little")
    order = np.argsort(keys, kind="stable")
    group_ends = np.append(np.flatnonzero(np.diff(keys[order])) + 1, len(rows))
    cuts, start = [], 0
    for share in shares:
        wanted = start + max(_MIN_PART_ROWS, round(share * len(rows))) if share > 0 else start
        stop = start if share == 0 else int(group_ends[np.searchsorted(group_ends, min(wanted, len(rows)))])
        cuts.append(stop)
        start = stop
    if len(rows) - cuts[1] < _MIN_PART_ROWS:
        raise InputError(
            f"too few different rows to fit a head: of {len(rows)} usable rows {len(rows) - cuts[1]} are left for the fit "
            f"after {cuts[1]} were set apart (equal embeddings stay together); add ratings of other pictures"
        )
    parts = [np.sort(part) for part in np.split(rows[order], cuts)]
    return parts[0], parts[1], parts[2]


class _Moments:
    """Sums over rows x of length 1 and ratings y, taken about a fixed point near their mean so that little cancels.

    Args:
        x_origin, y_origin: (D,) float64 and float, the fixed point.
    """

    def __init__(self, x_origin: npt.NDArray[np.float64], y_origin: float) -> None:
        dim = len(x_origin)
        self.count = 0
        self.x_origin, self.y_origin = x_origin, y_origin
        self.x_sum, self.y_sum = np.zeros(dim), 0.0
        self.xx_sum, self.xy_sum = np.zeros((dim, dim)), np.zeros(dim)

    @classmethod
    def around(cls, matrix: FloatMatrix, ratings: npt.NDArray[np.float64], rows: Rows) -> _Moments:
        """Empty sums about the mean of the first block of `rows`."""
        first = rows[: _block_rows(matrix.shape[1])]
        return cls(_unit_rows(matrix, first).mean(axis=0), float(ratings[first].mean()))

    def add(self, matrix: FloatMatrix, ratings: npt.NDArray[np.float64], rows: Rows) -> None:
        """Take in `rows`, a block at a time."""
        step = _block_rows(matrix.shape[1])
        for start in range(0, len(rows), step):
            block = rows[start : start + step]
            x, y = _unit_rows(matrix, block) - self.x_origin, ratings[block] - self.y_origin
            self.count += len(block)
            self.x_sum += x.sum(axis=0)
            self.y_sum += float(y.sum())
            self.xx_sum += x.T @ x
            self.xy_sum += x.T @ y

    def solve(self, strengths: list[float]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Weights (D, K) and biases (K,) of the ridge solutions for K strengths, from one eigendecomposition."""
        x_mean, y_mean = self.x_sum / self.count, self.y_sum / self.count
        covariance = self.xx_sum / self.count - np.outer(x_mean, x_mean)
        with_ratings = self.xy_sum / self.count - x_mean * y_mean
        values, vectors = np.linalg.eigh(covariance)
        if values[-1] <= _SMALLEST_VARIANCE:
            raise InputError(f"cannot fit a head: the embeddings of all {self.count} rows point the same way")
        noise = values[-1] * len(values) * 10 * np.finfo(np.float64).eps
        values = np.where(values > noise, values, 0.0)
        projected = np.where(values > 0, vectors.T @ with_ratings, 0.0)
        denominators = values[:, None] + np.asarray(strengths)[None, :]
        weights = vectors @ np.divide(projected[:, None], denominators, out=np.zeros_like(denominators), where=denominators > 0)
        return weights, self.y_origin + y_mean - (self.x_origin + x_mean) @ weights


def _predict(
    matrix: FloatMatrix, rows: Rows, weights: npt.NDArray[np.float64], biases: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Ratings (n, K) of `rows` by K heads, in float64."""
    predictions = np.empty((len(rows), len(biases)))
    step = _block_rows(matrix.shape[1])
    for start in range(0, len(rows), step):
        predictions[start : start + step] = _unit_rows(matrix, rows[start : start + step]) @ weights + biases
    return predictions


def _validation_errors(
    fitted: _Moments, matrix: FloatMatrix, ratings: npt.NDArray[np.float64], validation: Rows
) -> dict[float, float]:
    """Mean squared error on the validation rows for each of `STRENGTHS`, strongest first."""
    weights, biases = fitted.solve(list(STRENGTHS))
    errors = _predict(matrix, validation, weights, biases) - ratings[validation][:, None]
    return {strength: float(mse) for strength, mse in zip(STRENGTHS, np.mean(errors**2, axis=0), strict=True)}
