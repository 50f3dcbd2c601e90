"""From embeddings and ratings to a head, with everything that was measured of it.

Under 10,000 rated rows every row is predicted by fits that have not seen it, in grouped folds that are drawn several times, and
the head is fitted to all rows; with more, a part is held out, and the head that was measured on it is the one returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError
from beholder.kernels.scoring import Affine, Perceptron
from beholder.models.heads import Head
from beholder.train import folds as splitting
from beholder.train import logistic, mlp, ridge
from beholder.train.curve import LearningCurve, learning_curve
from beholder.train.fitting import check_enough
from beholder.train.linear import LinearFit, Prior, PriorScale
from beholder.train.measures import CONSTANT, OUT_OF_FOLD, SCALED, Beside, Comparison, Measures, Predictor, spearman
from beholder.train.noise import Ceiling, Suspicious, noise_ceiling, suspicious_marks, suspicious_ratings
from beholder.train.public import on_the_scale, public_heads, scores_of
from beholder.train.resampling import Resampling
from beholder.train.rows import (
    Doubles,
    Matrix,
    RatedBlock,
    Rows,
    balancing_weights,
    blocks_of,
    checked_matrix,
    checked_series,
    checked_weights,
    names_of_rows,
    renumbered,
    unit_rows,
    usable_rows,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Method = Literal["ridge", "logistic", "mlp-linear", "mlp-relu"]
METHODS: tuple[Method, ...] = get_args(Method)

LEAST_ROWS, LEAST_FITTED = 4, 2
"""Rows in all, and of these outside of a fold."""
MOST_SINGLE_PASS = 100_000
"""Rows whose products are made in float64; of more they are float32, refined by a second pass (`ridge.refined`)."""
_INNER_FOLDS = 5
_LEAST_TEST, _MOST_TEST, _TEST_SHARE = 1000, 50_000, 0.1
_MOST_LINE_ROWS = 50_000
_LARGE_STRENGTHS = ridge.STRENGTHS[6:18:2]
_STREAMED_FOLDS = 3
"""Of many rows: each fold and strength is a linear system, and what they say hardly differs."""


@dataclass(frozen=True, kw_only=True)
class RowRatings:
    """What each embedding was rated. All arrays have its N rows, in its order.

    Attributes:
        values: (N,) mean ratings, or marks from 0 (drop) to 1 (keep) for method logistic; NaN where there is none.
        variances: (N,) of each mean about the true one (`noise`); None or NaN: nothing tells.
        weights: (N,) >= 0, votes; None: 1 each.
        groups: (N,) labels each (photographer, folder): rows that share one are never on both sides of a split.
        balance: (N,) labels (a class, a source) that count the same in all; None: as they are.
        samples: N names; None: rows are known by their directions, and lists of them by their numbers.
    """

    values: npt.ArrayLike
    variances: npt.ArrayLike | None = None
    weights: npt.ArrayLike | None = None
    groups: Sequence[npt.ArrayLike] = ()
    balance: npt.ArrayLike | None = None
    samples: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How a head is trained and measured.

    Attributes:
        method: "ridge" for ratings, "logistic" for marks, "mlp-linear" or "mlp-relu".
        start_from: an affine head for the same embeddings that is shrunk towards (ridge, logistic).
        prior_scale: "free": towards any multiple of it; "fixed": towards itself.
        strength: how much; None: chosen on rows left out.
        near_duplicates: cosine from which pictures are one group; None: not looked for.
        num_folds, repeats: of small sets; None: by their size (`folds.fold_plan`).
        seed: of splits, resamples and training.
        name: of the head; backbone: the tower of the embeddings, by any tool's name.
        compare_with: heads to stand beside it; None: the public ones of the backbone.
        offline: whether these may be fetched, as `load_head` has it.
        cut: ratings from here count as good; None: their median (0.5 for marks).
        level: of intervals; resamples: None: by the number of rows.
        with_curve: whether to measure a learning curve.
    """

    method: Method = "ridge"
    start_from: Head | None = None
    prior_scale: PriorScale = "free"
    strength: float | None = None
    near_duplicates: float | None = splitting.NEAR
    num_folds: int | None = None
    repeats: int | None = None
    seed: int = 0
    name: str = "trained"
    backbone: str | None = None
    compare_with: tuple[Head, ...] | None = None
    offline: bool | None = None
    cut: float | None = None
    level: float = 0.95
    resamples: int | None = None
    with_curve: bool = True

    def __post_init__(self) -> None:
        """Raises InputError for a method that is none, or a prior that it cannot take."""
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r}: choose {', '.join(METHODS)}")
        if self.start_from is not None and self.method.startswith("mlp"):
            raise InputError(f"{self.method} cannot start from a head; use ridge or logistic")
        if self.start_from is not None and not self.start_from.is_affine:
            raise InputError(f"cannot start from {self.start_from.name}: it has ReLUs between its layers, and so no one weight")
        if self.strength is not None and not 0 <= self.strength < np.inf:
            raise InputError(f"the strength must be a number >= 0, not {self.strength}")

    def to_json(self, method_note: str) -> dict[str, Any]:
        """What a record says of them first."""
        return {
            "name": self.name,
            "backbone": self.backbone,
            "method": self.method,
            "method_note": method_note,
            "seed": self.seed,
            "start_from": None if self.start_from is None else self.start_from.name,
        }

    def rivals(self, dim: int) -> tuple[list[Head], list[str]]:
        """The heads to compare with, of embeddings of `dim` numbers, and a line for each that is missing. Raises InputError."""
        if self.compare_with is None:
            return public_heads(self.backbone, dim, offline=self.offline)
        for head in self.compare_with:
            if head.dim != dim:
                raise InputError(f"{head.name} scores embeddings of {head.dim} numbers, and these have {dim}")
        return list(self.compare_with), []

    @property
    def prior(self) -> Prior | None:
        """What a fit shrinks towards."""
        return None if self.start_from is None else Prior(self.start_from.weight, self.prior_scale)

    @property
    def resampling(self) -> Resampling:
        """How intervals are made."""
        return Resampling(self.level, self.resamples, self.seed)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A head and how good it is.

    Attributes:
        head: ready to score, and to be saved.
        measures: on what its fits have not seen.
        beside: other heads, best first.
        ceiling: what the raters' noise allows; None where nothing tells it.
        predictions: by fits that have not seen what they are of.
        fitted: row numbers of the embeddings that the head was fitted to.
        record: everything of this, ready for JSON.
    """

    head: Head
    measures: Measures
    beside: tuple[Beside, ...]
    ceiling: Ceiling | None
    predictions: Doubles
    fitted: Rows
    record: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class TrainedHead(Trained):
    """A head from ratings or marks; `beside` begins with a constant.

    Attributes:
        curve: by the number of ratings; None where it was not wanted.
        suspicious: ratings that look odd, as row numbers of the embeddings.
        tested: (n,) row numbers of what was measured; `predictions` are (R, n) of these, of R repetitions.
    """

    curve: LearningCurve | None
    suspicious: Suspicious
    tested: Rows


def train_head(embeddings: Matrix, ratings: RowRatings, options: TrainOptions | None = None) -> TrainedHead:
    """Fit a head to ratings and measure it.

    Args:
        embeddings: (N, D) float16, float32 or float64, normalised or not; may be memory-mapped, and is read in blocks. Rows
            without a rating are never read. Under 10,000 rated rows, and for logistic and the layers always, those that are
            rated are held in memory.
        ratings: of each.
        options: None: a ridge.

    Raises:
        InputError: what does not fit together, too few rows, ratings that are all the same, groups that leave nothing to test.
    """
    chosen = options or TrainOptions()
    data = _Data.of(embeddings, ratings, chosen)
    return _by_folds(data, chosen) if len(data.rows) < splitting.MANY_ROWS else _by_part(data, chosen)


@dataclass(frozen=True)
class _Data:
    """The usable rated rows, and what goes with each: all (n,)."""

    matrix: Matrix
    rows: Rows
    targets: Doubles
    weights: Doubles
    variances: Doubles
    groups: Rows
    samples: Sequence[str] | None
    excluded: dict[str, int]
    num_given: int

    @classmethod
    def of(cls, embeddings: Matrix, ratings: RowRatings, options: TrainOptions) -> _Data:
        matrix = checked_matrix(embeddings)
        num_rows = len(matrix)
        values = checked_series(ratings.values, num_rows, "ratings")
        weights = checked_weights(ratings.weights, num_rows)
        if ratings.samples is not None and len(ratings.samples) != num_rows:
            raise InputError(f"{len(ratings.samples)} sample names do not fit {num_rows} embeddings")
        if options.start_from is not None:
            Prior(options.start_from.weight).checked(matrix.shape[1])
        rows, excluded = usable_rows(matrix, np.where(weights > 0, values, np.nan))
        without = int(np.count_nonzero(np.isfinite(values) & (weights == 0)))
        if without:
            excluded = {**excluded, "no_rating": excluded["no_rating"] - without, "no_weight": without}
            excluded = {reason: count for reason, count in excluded.items() if count}
        check_enough(values[rows], LEAST_ROWS)
        if options.method == "logistic" and not ((values[rows] >= 0) & (values[rows] <= 1)).all():
            raise InputError(
                f"logistic is for marks from 0 (drop) to 1 (keep), and these ratings go from {values[rows].min():g} to "
                f"{values[rows].max():g}; use ridge"
            )
        chosen = weights[rows]
        if ratings.balance is not None:
            chosen = balancing_weights(np.asarray(ratings.balance)[rows], chosen)
        variances = (
            np.full(num_rows, np.nan) if ratings.variances is None else checked_series(ratings.variances, num_rows, "variances")
        )
        pairs = None
        if options.near_duplicates is not None:
            pairs = splitting.near_pairs(matrix[rows], options.near_duplicates)
        labels = [np.asarray(label) for label in ratings.groups]
        for label in labels:
            if label.shape != (num_rows,):
                raise InputError(f"labels of shape {label.shape} do not fit {num_rows} embeddings")
        groups = splitting.joined_groups(len(rows), [label[rows] for label in labels], pairs)
        return cls(matrix, rows, values[rows], chosen, variances[rows], groups, ratings.samples, excluded, num_rows)

    def keys(self, seed: int, repeat: int = 0) -> npt.NDArray[np.uint64]:
        return splitting.fold_keys(seed, repeat, self.matrix, self.rows, self.samples)

    @property
    def is_grouped(self) -> bool:
        return int(self.groups.max()) + 1 < len(self.groups)

    def part(self, chosen: npt.NDArray[np.bool_]) -> _Data:
        """Some of the rows."""
        return replace(
            self, rows=self.rows[chosen], targets=self.targets[chosen], weights=self.weights[chosen],
            variances=self.variances[chosen], groups=renumbered(self.groups[chosen]),
        )  # fmt: skip

    def names(self) -> list[str]:
        """The samples of the rows, or their numbers."""
        return names_of_rows(self.samples, self.rows)


@dataclass(frozen=True)
class _Fit:
    """A fitted head's arithmetic, and what is told of the fit."""

    math: Affine | Perceptron
    told: dict[str, Any]


def _fit(data: _Data, unit: Doubles | None, options: TrainOptions) -> _Fit:
    """Fit to all rows of `data`; `unit` are their copies of length 1, or None to read them a block at a time."""
    if options.method == "ridge" and unit is None:
        return _streamed_ridge(data, options)
    if options.method in ("ridge", "logistic"):
        rows = unit_rows(data.matrix, data.rows) if unit is None else unit
        inner = None
        if data.is_grouped and options.strength is None:
            inner = splitting.grouped_folds(data.groups, data.keys(options.seed, -1), _INNER_FOLDS)
        fit_rows: Callable[..., LinearFit] = ridge.fit_ridge_rows if options.method == "ridge" else logistic.fit_logistic
        found = fit_rows(rows, data.targets, data.weights, strength=options.strength, prior=options.prior, folds=inner)
        return _Fit(found.math, found.to_json())
    num_validation = max(1, round(_TEST_SHARE * len(data.rows)))
    is_validation = splitting.held_out(data.groups, data.keys(options.seed, -1), num_validation)
    kind: mlp.Kind = "mlp-relu" if options.method == "mlp-relu" else "mlp-linear"
    trained = mlp.fit_mlp(data.matrix, data.rows, data.targets, data.weights, is_validation, kind, seed=options.seed)
    return _Fit(trained.math, {"best_epoch": trained.best_epoch, "validation_mse": list(trained.validation_mse)})


def _streamed_ridge(data: _Data, options: TrainOptions) -> _Fit:
    """One pass in bounded memory, folds by subtraction, and a second pass where the products were float32."""
    inner = np.zeros(len(data.rows), np.int64)
    if options.strength is None:
        inner = splitting.grouped_folds(data.groups, data.keys(options.seed, -1), _STREAMED_FOLDS)

    def blocks() -> Iterator[RatedBlock]:
        return blocks_of(data.matrix, data.rows, data.targets, data.weights, inner)

    precision: ridge.Precision = "float64" if len(data.rows) <= MOST_SINGLE_PASS else "float32"
    parts = ridge.collect(blocks(), num_folds=int(inner.max()) + 1, precision=precision)
    found, solution = ridge.fit_sums(parts, strength=options.strength, strengths=_LARGE_STRENGTHS, prior=options.prior)
    weight, bias = found.weight, found.bias
    if precision == "float32":
        weight, bias = ridge.refined(solution, blocks(), 0)
    return _Fit(Affine(weight, bias), found.to_json())


def predict(math: Affine | Perceptron, unit: Doubles) -> Doubles:
    """(n, D) rows of length 1 -> (n,) float64 scores."""
    if isinstance(math, Affine):
        return np.asarray(unit @ math.weight + math.bias)
    values = unit
    for at, (weight, bias) in enumerate(zip(math.weights, math.biases, strict=True)):
        values = values @ weight.T + bias
        if at < len(math.weights) - 1:
            values = np.maximum(values, 0.0)
    return np.asarray(values[:, 0])


def _given(math: Affine | Perceptron, unit: Doubles, options: TrainOptions) -> Doubles:
    """What is compared with ratings: scores, or chances for marks."""
    scores = predict(math, unit)
    return logistic.chances(scores) if options.method == "logistic" else scores


def _others(data: _Data, options: TrainOptions) -> tuple[list[tuple[Head, Doubles]], list[str]]:
    """The heads to compare with, with their scores of all rows of `data`, and lines about those that are missing."""
    heads, missing = options.rivals(data.matrix.shape[1])
    return [(head, scores_of(head, data.matrix, data.rows)) for head in heads], missing


def _by_folds(data: _Data, options: TrainOptions) -> TrainedHead:
    """Out-of-fold predictions of all rows, and a head fitted to all."""
    plan = splitting.fold_plan(len(data.rows))
    num_folds, repeats = options.num_folds or plan.num_folds, options.repeats or plan.repeats
    if options.method.startswith("mlp") and options.repeats is None:
        repeats = 1  # each fit takes long
    unit = unit_rows(data.matrix, data.rows)
    others, missing = _others(data, options)
    drawn = [splitting.grouped_folds(data.groups, data.keys(options.seed, repeat), num_folds) for repeat in range(repeats)]
    num_folds = int(drawn[0].max()) + 1
    predictions = np.empty((repeats, len(data.rows)))
    for repeat, folds in enumerate(drawn):
        for fold in range(num_folds):
            test = folds == fold
            train = data.part(~test)
            if len(train.targets) < LEAST_FITTED:
                raise splitting.too_few_groups(data.groups)
            check_enough(train.targets, LEAST_FITTED)
            fitted = _fit(train, unit[~test], options)
            predictions[repeat, test] = _given(fitted.math, unit[test], options)
    fitter = partial(on_the_scale, is_marks=options.method == "logistic")
    constants, *lined = (
        splitting.out_of_fold(drawn, fitter, scores, data.targets, data.weights)
        for scores in (np.zeros(len(data.rows)), *(scores for _, scores in others))
    )
    final = _fit(data, unit, options)
    curve = _curve_by_folds(data, unit, options, num_folds) if options.with_curve else None
    told = {"by": OUT_OF_FOLD, "num_folds": num_folds, "num_repeats": repeats, "num_train_rows": len(data.rows)}
    unseen = _Unseen(
        measured=data, predictions=predictions, constants=constants, others=others, lined=lined, missing=missing, told=told
    )
    return _finished(unseen, data, final, curve, options)


def _curve_by_folds(data: _Data, unit: Doubles, options: TrainOptions, num_folds: int) -> LearningCurve | None:
    """Errors of fits to the first rows, in the order of their groups' keys, of what each fold leaves."""
    keys = data.keys(options.seed, 0)
    folds = splitting.grouped_folds(data.groups, keys, min(num_folds, _INNER_FOLDS))
    order = np.argsort(keys, kind="stable")
    num_train = len(data.rows) - int(np.bincount(folds).max())

    def errors(size: int) -> tuple[float, float]:
        squares, total, ranks = 0.0, 0.0, []
        for fold in range(int(folds.max()) + 1):
            chosen = order[folds[order] != fold][:size]
            is_chosen = np.zeros(len(data.rows), bool)
            is_chosen[chosen] = True
            train, test = data.part(is_chosen), folds == fold
            if np.ptp(train.targets) == 0 or int(train.groups.max()) < 1:
                return float("nan"), float("nan")
            guessed = _given(_fit(train, unit[is_chosen], options).math, unit[test], options)
            squares += float(data.weights[test] @ (guessed - data.targets[test]) ** 2)
            total += float(data.weights[test].sum())
            ranks.append(spearman(guessed, data.targets[test]))
        return squares / total, float(np.mean(ranks))

    return _curve(num_train, errors)


def _curve(num_train: int, errors: Callable[[int], tuple[float, float]]) -> LearningCurve | None:
    try:
        return learning_curve(num_train, errors)
    except InputError:  # too few ratings for one
        return None


def _by_part(data: _Data, options: TrainOptions) -> TrainedHead:
    """Measures on a part that is held out, and the head that was measured."""
    wanted = int(np.clip(round(_TEST_SHARE * len(data.rows)), _LEAST_TEST, _MOST_TEST))
    keys = data.keys(options.seed, 0)
    is_test = splitting.held_out(data.groups, keys, wanted)
    train, test = data.part(~is_test), data.part(is_test)
    check_enough(train.targets, LEAST_ROWS)
    final = _fit(train, None, options)
    unit = unit_rows(test.matrix, test.rows)
    predictions = _given(final.math, unit, options)[None]
    constants = np.full_like(predictions, np.average(train.targets, weights=train.weights))
    others, missing = _others(test, options)
    some = np.linspace(0, len(train.rows) - 1, min(len(train.rows), _MOST_LINE_ROWS)).astype(np.int64)
    lined = []
    for head, scores in others:
        line = on_the_scale(
            scores_of(head, train.matrix, train.rows[some]), train.targets[some], train.weights[some],
            is_marks=options.method == "logistic",
        )  # fmt: skip
        lined.append(line(scores)[None])
    curve = _curve_by_part(train, keys[~is_test], test, unit, options) if options.with_curve else None
    told = {"by": "a part that was held out", "num_train_rows": len(train.rows), "num_test_rows": len(test.rows)}
    unseen = _Unseen(
        measured=test, predictions=predictions, constants=constants, others=others, lined=lined, missing=missing, told=told
    )
    return _finished(unseen, data, final, curve, options)


def _curve_by_part(
    train: _Data, keys: npt.NDArray[np.uint64], test: _Data, unit: Doubles, options: TrainOptions
) -> LearningCurve | None:
    """Errors on the test part of fits to the first rows in the order of their keys."""
    order = np.argsort(keys, kind="stable")

    def errors(size: int) -> tuple[float, float]:
        chosen = np.zeros(len(train.rows), bool)
        chosen[order[:size]] = True
        guessed = _given(_fit(train.part(chosen), None, options).math, unit, options)
        return float(np.average((guessed - test.targets) ** 2, weights=test.weights)), spearman(guessed, test.targets)

    return _curve(len(train.rows), errors)


@dataclass(frozen=True, kw_only=True)
class _Unseen:
    """What was predicted of rows that no fit had seen: of n measured rows, by R repetitions.

    Attributes:
        measured: the rows.
        predictions, constants: (R, n) by the fits, and by the mean of what they were fitted to.
        others: heads to compare with, and their scores (n,); lined: (R, n) each, these brought to the ratings' scale.
        missing: lines about heads that could not be compared with.
        told: how it was done, for the record.
    """

    measured: _Data
    predictions: Doubles
    constants: Doubles
    others: list[tuple[Head, Doubles]]
    lined: list[Doubles]
    missing: list[str]
    told: dict[str, Any]


def _finished(unseen: _Unseen, data: _Data, final: _Fit, curve: LearningCurve | None, options: TrainOptions) -> TrainedHead:
    """Measures, what stands beside them, and the record."""
    is_marks, measured, truth = options.method == "logistic", unseen.measured, unseen.measured.targets
    measures, beside = _compared(unseen, options)
    ceiling = noise_ceiling(truth, measured.variances, weights=measured.weights, groups=measured.groups, how=options.resampling)
    if is_marks:
        found = suspicious_marks(truth, unseen.predictions)
    else:
        found = suspicious_ratings(truth, unseen.predictions, measured.variances)
    method = {"ridge": ridge.METHOD, "logistic": logistic.METHOD}.get(options.method, "the published five layers")
    head = Head(
        name=options.name,
        math=final.math,
        backbone=options.backbone,
        scale_note="log odds of a keep; 0 is even" if is_marks else "the scale of the ratings it was fitted to",
        notes={
            "method": method,
            "rows": f"{len(data.rows)} rated, measured by {unseen.told['by']}",
            "measures": ", ".join(f"{name} {one.value:.4g}" for name, one in measures.values.items()),
            "seed": str(options.seed),
        },
    )
    record = {
        **options.to_json(method),
        "rows": {
            "num_given": data.num_given,
            "num_used": len(data.rows),
            "num_groups": int(data.groups.max()) + 1,
            "num_in_largest_group": int(np.bincount(data.groups).max()),
            "excluded": data.excluded,
        },
        "scale": {
            "lowest": float(data.targets.min()),
            "highest": float(data.targets.max()),
            "mean": float(data.targets.mean()),
        },
        "fit": final.told,
        "measured": {
            "unit": "pictures",
            **unseen.told,
            "near_duplicates": options.near_duplicates,
            "weigh_by": "votes" if np.ptp(measured.weights) > 0 else "pictures",
            "num_pictures": len(truth),
            "samples_sha256": splitting.list_sha256(measured.names()),
        },
        "measures": measures.to_json(),
        "beside": [one.to_json() for one in beside],
        "missing_heads": unseen.missing,
        "ceiling": None if ceiling is None else ceiling.to_json(),
        "learning_curve": None if curve is None else curve.to_json(),
        "suspicious": found.to_json(measured.names(), truth, unseen.predictions) if len(found.rows) else [],
    }
    return TrainedHead(
        head=head,
        measures=measures,
        beside=beside,
        ceiling=ceiling,
        curve=curve,
        suspicious=Suspicious(measured.rows[found.rows], found.residuals, found.deviations),
        predictions=unseen.predictions,
        tested=measured.rows,
        fitted=data.rows if measured is data else np.setdiff1d(data.rows, measured.rows),
        record=record,
    )


def _compared(unseen: _Unseen, options: TrainOptions) -> tuple[Measures, tuple[Beside, ...]]:
    """The head's measures, and a constant and the other heads beside it, these best first."""
    measured = unseen.measured
    rivals = [Predictor(scores, scaled=line) for (_, scores), line in zip(unseen.others, unseen.lined, strict=True)]
    compared = Comparison(
        [Predictor(unseen.predictions), Predictor(unseen.constants, SCALED), *rivals],
        measured.targets,
        weights=measured.weights,
        groups=measured.groups,
        cut=0.5 if options.method == "logistic" and options.cut is None else options.cut,
        how=options.resampling,
    )
    heads = [
        Beside(name=head.name, measures=compared.measures(at), difference=compared.difference(0, at))
        for at, (head, _) in enumerate(unseen.others, start=2)
    ]
    heads.sort(key=lambda one: -np.nan_to_num(one.measures["srcc"].value, nan=-2.0))
    return compared.measures(0), (Beside(name=CONSTANT, measures=compared.measures(1)), *heads)
