"""One quick split: a ridge head, its strength chosen on a validation part, measured once on a test part."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.train.folds import row_keys
from beholder.train.measures import Agreement, agreement
from beholder.train.ridge import METHOD, STRENGTHS, collect, solve
from beholder.train.rows import Matrix, Rows, blocks_of, checked_matrix, checked_series, unit_rows, usable_rows

if TYPE_CHECKING:
    from beholder.models.heads import Head

_MIN_PART_ROWS = 2
_BLOCK_ROWS = 1 << 14


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
    embeddings: Matrix,
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
    matrix = checked_matrix(embeddings)
    wanted = checked_series(ratings, len(matrix), "ratings")
    _check_options(regularisation, validation_share, test_share)
    usable, excluded = usable_rows(matrix, wanted)
    shares = (test_share, validation_share) if regularisation is None else (test_share, 0.0)
    check_enough(wanted[usable], _MIN_PART_ROWS * (3 if regularisation is None else 2))
    test, validation, train = _split(matrix, usable, shares, seed)
    parts = [train, validation] if len(validation) else [train]
    rows = np.concatenate(parts)
    order = np.argsort(rows, kind="stable")  # a file is read in its own order
    folds = np.repeat(np.arange(len(parts)), [len(part) for part in parts])[order]
    sums = collect(blocks_of(matrix, rows[order], wanted[rows[order]], None, folds), num_folds=len(parts))
    tried: dict[float, float] = {}
    strength = regularisation
    fitted = sums[0]
    if strength is None:
        solution = solve(fitted, STRENGTHS)
        errors = sums[1].squared_error(solution.weights, solution.biases) / sums[1].total
        tried = {each: float(mse) for each, mse in zip(STRENGTHS, errors, strict=True)}
        strength = min(tried, key=lambda candidate: tried[candidate])
        fitted = sums[0] + sums[1]
    solution = solve(fitted, [strength])
    weight, bias = np.ascontiguousarray(solution.weights[:, 0]), float(solution.biases[0])
    predictions = np.concatenate(
        [unit_rows(matrix, test[at : at + _BLOCK_ROWS]) @ weight for at in range(0, len(test), _BLOCK_ROWS)]
    )
    return RidgeFit(
        name=name,
        backbone=backbone,
        weight=weight,
        bias=bias,
        regularisation=float(strength),
        metrics=agreement(predictions + bias, wanted[test]),
        validation_mse=tried,
        counts=RowCounts(given=len(wanted), train=len(train), validation=len(validation), test=len(test), excluded=excluded),
        seed=seed,
    )


def _check_options(regularisation: float | None, validation_share: float, test_share: float) -> None:
    """Refuse options that no fit can be made with."""
    if regularisation is not None and not 0 <= regularisation < np.inf:
        raise InputError(f"regularisation must be a number >= 0, not {regularisation}")
    for label, share in (("validation_share", validation_share), ("test_share", test_share)):
        if not 0 < share < 1:
            raise InputError(f"{label} must lie between 0 and 1, not {share}")
    if validation_share + test_share >= 1:
        raise InputError(f"validation_share {validation_share} and test_share {test_share} leave no rows to fit to")


def check_enough(ratings: npt.NDArray[np.float64], needed: int) -> None:
    """Refuse usable ratings that are too few for the parts, or all the same."""
    if len(ratings) < needed:
        raise InputError(
            f"too few rows to fit a head: {len(ratings)} have a usable embedding and a rating, {needed} are needed"
        )
    if np.ptp(ratings) == 0:
        raise InputError(f"cannot fit a head: all {len(ratings)} ratings are {ratings[0]:g}, there is nothing to learn")


def _split(matrix: Matrix, rows: Rows, shares: tuple[float, float], seed: int) -> tuple[Rows, Rows, Rows]:
    """Test, validation and train rows, each ascending, cut from the order of a seeded hash of their directions."""
    keys = row_keys(seed, matrix, rows)
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
