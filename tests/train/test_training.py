"""Heads trained on directions known by construction: the ceiling is reached, a prior helps, splits are honest."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from beholder import Head, load_head, save_head
from beholder.errors import InputError
from beholder.train.curve import fitted_curve
from beholder.train.measures import spearman
from beholder.train.mlp import fit_mlp, layers_of
from beholder.train.training import RowRatings, TrainOptions, train_head

Matrix = npt.NDArray[np.float64]

QUICK = {"near_duplicates": None, "with_curve": False, "resamples": 50, "compare_with": ()}


def spread_rows(num_rows: int, dim: int, seed: int, centre: Matrix | None = None) -> Matrix:
    """Rows about a centre along axes of falling length, as embeddings of real pictures are."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(dim, dim)))[0]
    deviations = np.arange(1, dim + 1) ** -0.5
    middle = np.random.default_rng(6).normal(size=dim) if centre is None else centre
    middle = middle / np.linalg.norm(middle)
    return middle + rng.normal(size=(num_rows, dim)) * 0.9 * deviations / np.linalg.norm(deviations) @ axes.T


def unit(rows: Matrix) -> Matrix:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def rated(num_rows: int, dim: int, noise: float, seed: int = 0) -> tuple[Matrix, Matrix, Matrix]:
    """Rows, their true means with deviation 1 about 5, and ratings with noise."""
    rows = spread_rows(num_rows, dim, seed)
    truth = unit(rows) @ np.random.default_rng(7).normal(size=dim)
    truth = 5 + (truth - truth.mean()) / truth.std()
    return rows, truth, truth + np.random.default_rng(seed + 1).normal(0, noise, num_rows)


def test_the_ceiling_that_is_printed_is_reached() -> None:
    rows, _, ratings = rated(1500, 24, 0.5)
    found = train_head(rows, RowRatings(values=ratings, variances=np.full(1500, 0.25)), TrainOptions(**QUICK))  # type: ignore[arg-type]
    assert found.ceiling is not None
    assert found.measures["plcc"].value == pytest.approx(found.ceiling["plcc"].value, abs=0.015)
    assert found.measures["srcc"].value == pytest.approx(found.ceiling["srcc"].value, abs=0.015)
    assert found.measures["rmse"].value == pytest.approx(found.ceiling["rmse"].value, rel=0.05)
    assert found.ceiling["plcc"].value == pytest.approx(math.sqrt(1 / 1.25), abs=0.02)
    constant = found.beside[0]
    assert constant.name == "constant"
    assert constant.measures["rmse"].value == pytest.approx(np.std(ratings), rel=0.01)
    np.testing.assert_allclose(found.head.score(rows), unit(rows) @ found.head.weight + found.head.bias, atol=1e-5)


@pytest.mark.parametrize(
    "num_marks", [30, pytest.param(100, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.soak)]
)
def test_with_a_public_head_as_prior_few_ratings_beat_it(num_marks: int, shared_models: Path, shared_reference: Path) -> None:
    public = load_head(shared_models / "sac+logos+ava1-l14-linearMSE.pth", backbone="ViT-L/14")
    middle = np.load(shared_reference / "laion_vit_l_14_rating5.npy")[0].astype(float)
    rows, fresh = spread_rows(num_marks, 768, 11, middle), spread_rows(2000, 768, 12, middle)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(768, 768)))[0]
    own = axes[:, :10] @ np.random.default_rng(8).normal(size=10)

    def taste(given: Matrix) -> Matrix:
        parts = [(unit(given) @ w - (unit(fresh) @ w).mean()) / (unit(fresh) @ w).std() for w in (public.weight, own)]
        return np.asarray(0.8 * parts[0] + 0.6 * parts[1])

    ratings = 3 + taste(rows) + np.random.default_rng(9).normal(0, 0.5, num_marks)
    options = TrainOptions(start_from=public, backbone="ViT-L/14", num_folds=5, repeats=1, **QUICK)  # type: ignore[arg-type]
    found = train_head(rows, RowRatings(values=ratings), options)
    alone, ours = spearman(public.score(fresh), taste(fresh)), spearman(found.head.score(fresh), taste(fresh))
    assert ours > alone + 0.05
    assert found.record["fit"]["prior_scale"] > 0


def test_marks_are_learnt_by_logistic() -> None:
    rows, truth, _ = rated(400, 16, 0.0)
    marks = (truth + np.random.default_rng(2).normal(0, 0.3, 400) > 5).astype(float)
    found = train_head(rows, RowRatings(values=marks), TrainOptions(method="logistic", **QUICK))  # type: ignore[arg-type]
    assert found.measures["accuracy"].value > 0.85
    assert found.measures["pair_accuracy"].value > 0.93
    assert found.measures.cut == 0.5
    assert ((found.predictions >= 0) & (found.predictions <= 1)).all()
    assert spearman(found.head.score(rows), truth) > 0.95


def test_public_heads_stand_beside_on_the_ratings_scale() -> None:
    rows, truth, ratings = rated(300, 12, 0.3)
    weight = np.random.default_rng(7).normal(size=12)
    rivals = (Head.affine(weight * 40, 7.0, name="good"), Head.affine(np.random.default_rng(1).normal(size=12), name="other"))
    options = TrainOptions(**{**QUICK, "compare_with": rivals})  # type: ignore[arg-type]
    found = train_head(rows, RowRatings(values=ratings), options)
    constant, best, other = found.beside
    assert (constant.name, best.name, other.name) == ("constant", "good", "other")
    assert best.measures["srcc"].value == pytest.approx(spearman(unit(rows) @ weight, ratings), abs=1e-6)
    assert best.measures["rmse"].value == pytest.approx(0.3, rel=0.1)  # although its own scores are far away
    assert best.difference is not None
    assert best.difference["srcc"].value == pytest.approx(found.measures["srcc"].value - best.measures["srcc"].value)
    assert other.difference is not None
    assert other.difference["srcc"].low > 0
    assert truth.shape == (300,)


@pytest.mark.slow
def test_photographers_never_straddle() -> None:
    # Each photographer has a colour of their own and a rating for it: a split through them would let the fit know the answer.
    rng = np.random.default_rng(3)
    photographers = np.repeat(np.arange(40), 6)
    colours, tastes = rng.normal(size=(40, 60)), rng.normal(size=40)
    rows, ratings = colours[photographers] + rng.normal(0, 0.3, (240, 60)), 5 + tastes[photographers]
    found, leaky = (
        train_head(rows, RowRatings(values=ratings, groups=groups), TrainOptions(**QUICK))  # type: ignore[arg-type]
        for groups in ([photographers], [])
    )
    assert leaky.measures["plcc"].value > 0.7
    assert found.measures["plcc"].value < 0.45
    assert found.measures.num_groups == found.record["rows"]["num_groups"] == 40
    by_nearness = train_head(rows, RowRatings(values=ratings), TrainOptions(**{**QUICK, "near_duplicates": 0.7}))  # type: ignore[arg-type]
    assert by_nearness.record["rows"]["num_groups"] == 40


def test_unusable_rows_are_counted_and_wrong_ratings_listed_by_name() -> None:
    rows, _, ratings = rated(250, 10, 0.2)
    rows[3], rows[4], ratings[5] = 0.0, math.nan, math.nan
    ratings[17] += 4
    weights = np.ones(250)
    weights[6] = 0.0
    names = [f"{number}.jpg" for number in range(250)]
    found = train_head(rows, RowRatings(values=ratings, weights=weights, samples=names), TrainOptions(**QUICK))  # type: ignore[arg-type]
    assert found.record["rows"]["excluded"] == {"no_rating": 1, "nan": 1, "zero_norm": 1, "no_weight": 1}
    assert found.record["rows"]["num_used"] == 246
    assert found.record["suspicious"][0]["sample"] == "17.jpg"
    assert found.suspicious.rows[0] == 17
    json.dumps(found.record, allow_nan=False)


def test_the_same_data_and_seed_give_the_same_bits_in_any_order_of_rows() -> None:
    rows, _, ratings = rated(200, 10, 0.4)
    names = [f"{number}.jpg" for number in range(200)]
    order = np.random.default_rng(4).permutation(200)
    one, again = (train_head(rows, RowRatings(values=ratings, samples=names), TrainOptions(**QUICK)) for _ in range(2))  # type: ignore[arg-type]
    moved = train_head(
        rows[order],
        RowRatings(values=ratings[order], samples=[names[row] for row in order]),
        TrainOptions(**QUICK),  # type: ignore[arg-type]
    )
    assert np.array_equal(one.head.weight, again.head.weight)
    assert one.record == again.record
    np.testing.assert_allclose(moved.predictions[:, np.argsort(order)], one.predictions, atol=1e-9)
    assert moved.record["measured"]["samples_sha256"] == one.record["measured"]["samples_sha256"]


def test_classes_can_count_the_same() -> None:
    rows, truth, _ = rated(600, 8, 0.0)
    is_rare = truth > 6.2
    marks = is_rare.astype(float)
    plain, balanced = (
        train_head(rows, RowRatings(values=marks, balance=balance), TrainOptions(method="logistic", strength=1e-4, **QUICK))  # type: ignore[arg-type]
        for balance in (None, marks)
    )
    found = balanced.head.score(rows) > 0
    assert found[is_rare].mean() > (plain.head.score(rows) > 0)[is_rare].mean()


def test_the_learning_curve_falls_and_is_extrapolated() -> None:
    rows, _, ratings = rated(600, 30, 0.5)
    found = train_head(rows, RowRatings(values=ratings), TrainOptions(**{**QUICK, "with_curve": True}))  # type: ignore[arg-type]
    assert found.curve is not None
    sizes, errors = [p.num_rows for p in found.curve.points], [p.mse for p in found.curve.points]
    assert sizes == [30, 60, 120, 240, 480]
    assert errors[0] > errors[2] > errors[-1] > 0.2
    assert list(found.curve.predicted) == [960, 1920]
    assert found.curve.predicted[1920] < math.sqrt(errors[-1])


def test_a_curve_through_points_by_hand() -> None:
    sizes = np.array([10, 20, 40, 80])
    assert fitted_curve(sizes, 0.3 + 2.0 / sizes) == pytest.approx((0.3, 2.0, 1.0))
    assert np.isnan(fitted_curve(sizes[:2], [1.0, 0.5])).all()
    assert np.isnan(fitted_curve(sizes, [0.1, 0.2, 0.3, 0.4])).all()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_many_rows_are_measured_on_a_part_that_is_held_out(method: str) -> None:
    rows, truth, ratings = rated(12_000, 16, 0.5)
    values = ratings if method == "ridge" else (ratings > 5).astype(float)
    groups = np.arange(12_000) // 3
    given = RowRatings(values=values, groups=[groups], variances=np.full(12_000, 0.25))
    found = train_head(rows.astype(np.float16), given, TrainOptions(method=method, **QUICK))  # type: ignore[arg-type]
    assert len(found.tested) == found.record["measured"]["num_test_rows"] == 1200
    assert set(np.bincount(groups[found.tested])) <= {0, 3}
    assert spearman(found.head.score(rows), truth) > 0.97
    if method == "ridge":
        changed = values.copy()
        changed[found.tested] += 1
        again = train_head(rows.astype(np.float16), RowRatings(values=changed, groups=[groups]), TrainOptions(**QUICK))  # type: ignore[arg-type]
        assert np.array_equal(again.head.weight, found.head.weight)


@pytest.mark.parametrize("kind", ["mlp-linear", "mlp-relu"])
def test_the_published_layers_have_the_published_names(kind: str, shared_models: Path) -> None:
    file = {"mlp-linear": "ava+logos-l14-linearMSE.pth", "mlp-relu": "ava+logos-l14-reluMSE.pth"}[kind]
    state = torch.load(shared_models / file, map_location="cpu", weights_only=True)
    module = layers_of(kind, 768)  # type: ignore[arg-type]
    module.load_state_dict({name.removeprefix("layers."): tensor for name, tensor in state.items()})


@pytest.mark.parametrize("kind", ["mlp-linear", pytest.param("mlp-relu", marks=pytest.mark.slow)])
def test_the_layers_learn_keep_their_best_epoch_and_repeat(kind: str) -> None:
    rows, _, ratings = rated(400, 12, 0.3)
    out = np.arange(400) % 4 == 0
    fits = [fit_mlp(rows, np.arange(400), ratings * 10, None, out, kind, most_epochs=6) for _ in range(2)]  # type: ignore[arg-type]
    assert fits[0].validation_mse == fits[1].validation_mse
    assert fits[0].validation_mse[fits[0].best_epoch - 1] == min(fits[0].validation_mse)
    head = Head(name="layers", math=fits[0].math)
    error = np.mean((head.score(rows[out]) - ratings[out] * 10) ** 2)
    assert error == pytest.approx(min(fits[0].validation_mse), rel=1e-3)
    assert error < 0.75 * np.var(ratings * 10)
    assert head.is_affine == (kind == "mlp-linear")


def test_a_trained_head_is_used_like_any_other(tmp_path: Path) -> None:
    rows, _, ratings = rated(60, 12, 0.3)
    found = train_head(rows, RowRatings(values=ratings), TrainOptions(name="mine", method="mlp-relu", num_folds=2, **QUICK))  # type: ignore[arg-type]
    save_head(found.head, tmp_path / "mine.safetensors")
    loaded = load_head(tmp_path / "mine.safetensors")
    assert loaded.name == "mine"
    np.testing.assert_allclose(loaded.score(rows), found.head.score(rows), atol=1e-5)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ([5.0] * 9, {}, "nothing to learn"),
        ([1.0, 2.0, 3.0], {}, "too few rows"),
        ([1.0, 2.0] * 5, {"method": "logistic"}, "use ridge"),
        ([1.0, 2.0] * 5, {"method": "forest"}, "choose ridge"),
        ([1.0, 2.0] * 5, {"strength": -1.0}, "strength"),
        ([1.0, 2.0] * 5, {"start_from": Head.affine([1.0, 2.0])}, "start from"),
        ([1.0, 2.0] * 5, {"compare_with": (Head.affine([1.0, 2.0]),)}, "scores embeddings of 2"),
    ],
)
def test_refused_in_one_line(values: list[float], options: dict[str, object], words: str) -> None:
    rows = np.random.default_rng(0).normal(size=(len(values), 6))
    with pytest.raises(InputError, match=words) as caught:
        train_head(rows, RowRatings(values=values), TrainOptions(**{**QUICK, **options}))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_all_of_one_photographer_cannot_be_tested() -> None:
    rows, _, ratings = rated(30, 6, 0.1)
    with pytest.raises(InputError, match="1 group"):
        train_head(rows, RowRatings(values=ratings, groups=[["me"] * 30]), TrainOptions(**QUICK))  # type: ignore[arg-type]
