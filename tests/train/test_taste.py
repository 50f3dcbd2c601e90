"""Heads learned from marks in a moment: the fit, what is said of marks not seen, all rows' scores, the public head beaten."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from beholder import Head, load_head
from beholder.errors import InputError, OutputError
from beholder.kernels.scoring import Affine
from beholder.train.card import HeadFiles
from beholder.train.linear import Prior
from beholder.train.logistic import chances, fit_logistic
from beholder.train.measures import spearman
from beholder.train.taste import MOST_MARKS, Taste, learn_taste, scores_of_all

Matrix = npt.NDArray[np.float64]


def spread_rows(num_rows: int, dim: int, seed: int, centre: Matrix | None = None) -> Matrix:
    """Rows about a centre along axes of falling length, as embeddings of real pictures are."""
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(dim, dim)))[0]
    deviations = np.arange(1, dim + 1) ** -0.5
    middle = np.random.default_rng(6).normal(size=dim) if centre is None else centre
    middle = middle / np.linalg.norm(middle)
    return middle + rng.normal(size=(num_rows, dim)) * 0.9 * deviations / np.linalg.norm(deviations) @ axes.T


def unit(rows: Matrix) -> Matrix:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def marked(num_rows: int, dim: int, seed: int, sharpness: float = 3.0) -> tuple[Matrix, npt.NDArray[np.bool_], Matrix]:
    """Rows, marks drawn by chance from log odds, and these."""
    rows = spread_rows(num_rows, dim, seed)
    liking = unit(rows) @ np.random.default_rng(7).normal(size=dim)
    middle = unit(spread_rows(4000, dim, 99)) @ np.random.default_rng(7).normal(size=dim)
    odds = sharpness * (liking - middle.mean()) / middle.std()
    return rows, np.random.default_rng(seed + 1000).random(num_rows) < chances(odds), odds


def names(num_rows: int) -> list[str]:
    return [f"{number}.jpg" for number in range(num_rows)]


def test_the_head_is_the_logistic_fit_of_train() -> None:
    rows, keeps, _ = marked(60, 20, 1)
    public = Head.affine(np.random.default_rng(3).normal(size=20), 1.0, name="public")
    found = learn_taste(rows, keeps, samples=names(60), start_from=public)
    fit = fit_logistic(unit(rows), keeps.astype(float), prior=Prior(public.weight))
    np.testing.assert_allclose(found.fit.weight, fit.weight, atol=1e-9)
    assert (found.fit.bias, found.fit.strength) == (pytest.approx(fit.bias), fit.strength)
    assert (found.num_keep, found.num_drop, found.num_left_out) == (keeps.sum(), 60 - keeps.sum(), 0)
    assert (found.start_from, found.num_groups) == ("public", 60)


@pytest.mark.parametrize("num_rows", [40, 700])
def test_without_a_head_to_start_from_it_is_scikit_learns(num_rows: int) -> None:
    """Of many marks the strength is chosen on some, as a prior precision, and all are fitted to."""
    rows, keeps, _ = marked(num_rows, 12, 2)
    taste = learn_taste(rows.astype(np.float32), keeps, samples=names(num_rows))
    found = taste.fit
    theirs = LogisticRegression(C=1 / (found.strength * num_rows), tol=1e-13, max_iter=1000, solver="newton-cholesky")
    theirs.fit(unit(rows.astype(np.float32).astype(float)), keeps)
    np.testing.assert_allclose(found.weight, theirs.coef_[0], rtol=1e-5, atol=1e-6)
    assert found.bias == pytest.approx(theirs.intercept_[0], rel=1e-5, abs=1e-6)
    assert taste.num_keep + taste.num_drop == num_rows


@pytest.mark.parametrize("num_marks", [pytest.param(40, marks=pytest.mark.slow), pytest.param(80, marks=pytest.mark.slow)])
def test_what_is_said_of_marks_not_seen_comes_true(num_marks: int) -> None:
    """Against fresh pictures: neither too good nor too bad, on the mean of many draws; and so for what was there before."""
    fresh, is_kept, _ = marked(3000, 16, 500)
    said, true, inside = [], [], []
    for seed in range(30):
        rows, keeps, _ = marked(num_marks, 16, seed)
        found = learn_taste(rows, keeps, samples=names(num_marks), before=rows[:, 0])
        assert found.unseen is not None
        assert found.unseen.before is not None
        assert found.unseen.before["pair_accuracy"].value == pytest.approx(roc_auc_score(keeps, rows[:, 0]))
        order = found.unseen.order
        said.append(order.value)
        true.append(roc_auc_score(is_kept, unit(fresh) @ found.fit.weight))
        inside.append(order.low <= true[-1] <= order.high)
        gain = found.unseen.gain
        assert gain is not None
        assert gain["pair_accuracy"].value == pytest.approx(order.value - roc_auc_score(keeps, rows[:, 0]))
    assert np.mean(said) == pytest.approx(np.mean(true), abs=0.04)
    assert np.mean(inside) >= 0.9


def test_marks_by_chance_are_not_foretold() -> None:
    values = []
    for seed in range(12):
        rows = spread_rows(60, 16, seed)
        keeps = np.random.default_rng(seed).permutation(60) < 30
        found = learn_taste(rows, keeps, samples=names(60)).unseen
        assert found is not None
        values.append(found.order.value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_near_duplicates_are_one_picture_and_never_on_both_sides() -> None:
    """Bursts of five whose marks are drawn by chance: who has seen one of a burst would foretell the others."""
    rng = np.random.default_rng(0)
    values = []
    for seed in range(6):
        rows = np.repeat(rng.normal(size=(16, 40)), 5, axis=0) + 0.01 * rng.normal(size=(80, 40))
        keeps = np.repeat(np.random.default_rng(seed).permutation(16) < 8, 5)
        found = learn_taste(rows, keeps, samples=names(80))
        assert found.num_groups == 16
        assert found.unseen is not None
        assert found.unseen.measures.num_groups == 16
        values.append(found.unseen.order.value)
    assert np.mean(values) < 0.7
    one = np.ones(40) + 0.001 * rng.normal(size=(8, 40))
    of_one = learn_taste(one, np.arange(8) < 4, samples=names(8))
    assert (of_one.unseen, of_one.num_groups) == (None, 1)


def test_few_marks_tell_nothing_and_a_perfect_order_has_an_interval() -> None:
    rows, keeps, odds = marked(200, 10, 4, sharpness=50.0)
    few = np.concatenate([np.flatnonzero(keeps)[:6], np.flatnonzero(~keeps)[:6]])
    found = learn_taste(rows[few], keeps[few], samples=names(12)).unseen
    assert found is not None
    assert not found.is_known
    order = np.argsort(odds)
    clear = np.concatenate([order[:15], order[-15:]])
    found = learn_taste(rows[clear], keeps[clear], samples=names(30)).unseen
    assert found is not None
    assert found.is_known
    assert found.order.value == 1.0
    wilson = scipy.stats.binomtest(15, 15).proportion_ci(method="wilson")
    assert (found.order.low, found.order.high) == (pytest.approx(wilson.low, abs=1e-3), 1.0)


@pytest.mark.parametrize(("num_keep", "num_drop"), [(0, 0), (5, 0), (0, 40), (1, 30), (3, 2)])
def test_too_few_marks_are_one_line(num_keep: int, num_drop: int) -> None:
    total = num_keep + num_drop
    with pytest.raises(InputError) as caught:
        learn_taste(spread_rows(total, 8, 0), np.arange(total) < num_keep, samples=names(total))
    assert str(caught.value) == (
        f"too few marks to learn from: {num_keep} keep and {num_drop} drop; mark at least 6 pictures, 2 or more of them keep "
        "and 2 or more drop"
    )


def test_six_marks_are_enough_whatever_they_are() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        keeps = rng.permutation(6) < rng.integers(2, 5)
        rows = rng.normal(size=(6, 30))
        rows[1] = rows[0]  # a near-duplicate, perhaps marked otherwise
        found = learn_taste(rows, keeps, samples=names(6), before=np.full(6, np.nan))
        assert np.isfinite(found.fit.weight).all()
        assert found.unseen is None or (found.unseen.before is None and not found.unseen.is_known)


def test_a_head_of_other_embeddings_cannot_be_started_from() -> None:
    rows, keeps, _ = marked(30, 10, 1)
    with pytest.raises(InputError, match="10 finite numbers"):
        learn_taste(rows, keeps, samples=names(30), start_from=Head.affine(np.ones(11), 0.0))


@pytest.mark.slow
def test_of_very_many_marks_some_are_drawn_of_both_kinds_and_the_same_each_time() -> None:
    rows, _, odds = marked(MOST_MARKS + 2000, 8, 3)
    keeps = odds > np.sort(odds)[-41]  # 40 keep, all others drop
    found = learn_taste(rows.astype(np.float16), keeps, samples=names(len(rows)))
    assert (found.num_keep, found.num_drop, found.num_left_out) == (40, MOST_MARKS - 40, 2000)
    again = learn_taste(rows.astype(np.float16), keeps, samples=names(len(rows)))
    np.testing.assert_array_equal(found.fit.weight, again.fit.weight)
    assert found.unseen is not None
    assert "held out" in found.unseen.by
    assert found.unseen.order.value > 0.9


def test_scores_of_all_rows_are_the_heads() -> None:
    rows = np.random.default_rng(0).normal(size=(5000, 48)).astype(np.float16)
    rows[17], rows[18, 3] = 0, np.nan
    padded = np.zeros((5000, 64), np.float16)
    padded[:, :48] = rows
    weight = np.random.default_rng(1).normal(size=48)
    found = scores_of_all(Affine(weight, 0.25), padded[:, :48])
    wide = rows.astype(float)
    with np.errstate(invalid="ignore"):
        exact = wide @ weight / np.linalg.norm(wide, axis=1) + 0.25
    assert np.isnan(found[[17, 18]]).all()
    has_one = np.delete(np.arange(5000), [17, 18])
    np.testing.assert_allclose(found[has_one], exact[has_one], atol=2e-6)
    assert len(scores_of_all(Affine(weight, 0.0), padded[:0, :48])) == 0


def learned() -> Taste:
    rows, keeps, _ = marked(80, 16, 1)
    public = Head.affine(np.ones(16), name="public")
    return learn_taste(rows, keeps, samples=names(80), start_from=public, before=rows[:, 0])


def test_a_head_is_saved_with_card_and_record_and_replaces_nothing_of_others(tmp_path: Path) -> None:
    found, files = learned(), HeadFiles(str(tmp_path / "mine.safetensors"))
    ratings = {"kind": "decisions", "remarks": ["by hand"]}
    record = {"beholder": "1", "learned_in": "here", **found.record("mine", "ViT-L/14"), "ratings": ratings}
    head, written = files.write(found.to_head("mine", None), record, ["by hand"])
    back = load_head(tmp_path / "mine.safetensors")
    np.testing.assert_array_equal(back.weight, found.fit.weight)
    assert (back.name, back.scale_note, back.sha256) == ("mine", "log odds of a keep; 0 is even", head.sha256)
    on_disk = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert on_disk == written
    assert on_disk["measures"]["values"]["pair_accuracy"]["value"] == found.unseen.order.value  # type: ignore[union-attr]
    card = (tmp_path / "mine.md").read_text(encoding="utf-8")
    assert "| pairs in the right order |" in card
    assert "by hand" in card
    assert "name: decisions" in card
    assert "shrunk towards public" in card
    files.check(overwrite=True, advice="move", mark='"learned_in": "here"')
    for mark in ('"learned_in": "there"', "anything"):
        with pytest.raises(OutputError, match=r"mine\.json would be replaced, and was not written by this command"):
            files.check(overwrite=True, advice="move", mark=mark)
    (tmp_path / "mine.md").write_text("my notes", encoding="utf-8")
    with pytest.raises(OutputError, match=r"mine\.md would be replaced"):
        files.check(overwrite=True, advice="move")


@pytest.mark.parametrize(
    "num_marks", [30, pytest.param(100, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.slow)]
)
def test_few_marks_beat_the_public_head(num_marks: int, shared_models: Path, shared_reference: Path) -> None:
    """docs/train.md, "How many ratings": a taste that is four fifths a public head and three fifths something else."""
    public = load_head(shared_models / "sac+logos+ava1-l14-linearMSE.pth", backbone="ViT-L/14")
    middle = np.load(shared_reference / "laion_vit_l_14_rating5.npy")[0].astype(float)
    rows, fresh = spread_rows(num_marks, 768, 11, middle), spread_rows(2000, 768, 12, middle)
    axes = np.linalg.qr(np.random.default_rng(5).normal(size=(768, 768)))[0]
    own = axes[:, :10] @ np.random.default_rng(8).normal(size=10)

    def taste(given: Matrix) -> Matrix:
        parts = [(unit(given) @ w - (unit(fresh) @ w).mean()) / (unit(fresh) @ w).std() for w in (public.weight, own)]
        return np.asarray(0.8 * parts[0] + 0.6 * parts[1])

    keeps = taste(rows) + np.random.default_rng(9).normal(0, 0.3, num_marks) > 0
    found = learn_taste(rows.astype(np.float32), keeps, samples=names(num_marks), start_from=public, before=public.score(rows))
    alone, ours = spearman(public.score(fresh), taste(fresh)), spearman(unit(fresh) @ found.fit.weight, taste(fresh))
    assert ours > alone + {30: 0.05, 100: 0.1, 300: 0.13}[num_marks]
    assert found.fit.prior_scale > 0
