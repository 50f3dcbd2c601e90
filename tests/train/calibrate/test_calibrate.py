"""`beholder calibrate`: maps against scikit-learn and numpy, errors against what is known of made data, tables, wrong input."""

from __future__ import annotations

import csv
import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression

from beholder import Head, save_head
from beholder.errors import BeholderError, InputError, OutputError
from beholder.scoreset.kept_scales import head_named
from beholder.scoreset.scales import read_map
from beholder.train.calibrate.fit import bounds_of, conformal_margin, fit_percentiles, ks_distance, quantile_error
from beholder.train.calibrate.job import Calibrated, calibrate
from beholder.train.calibrate.series import Series
from beholder.train.calibrate.table import mapped
from beholder.train.options import CalibrateOptions
from beholder.train.public import on_the_scale
from oracles.program import beholder as program
from oracles.scale_sets import V1, V2, head_record, two_heads, write_scores


def run(scores: Path | str, **more: Any) -> Calibrated:
    given = {name: str(value) if isinstance(value, Path) else value for name, value in more.items()}
    return calibrate(CalibrateOptions(scores=str(scores), **given))


def write_csv(path: Path, header: list[str], rows: Any) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def names(count: int) -> list[str]:
    return [f"photos/{number:05d}.jpg" for number in range(count)]


def test_the_map_of_two_heads_is_scikit_learns(tmp_path: Path) -> None:
    one, two, v2, v1 = two_heads(tmp_path)
    found = run(one, onto=two)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(v2.astype(float), v1.astype(float))
    probe = np.linspace(0, 10, 1000)
    assert found.kept is not None
    kept = read_map(found.kept)
    np.testing.assert_allclose(kept.steps(probe), theirs.predict(probe), atol=1e-9)
    assert (kept.method, kept.num_pictures, kept.scale) == ("isotonic", 400, "laion-v1")
    assert kept.of == head_named("laion-v2")
    assert [part.tolist() for part in kept.ends] == [np.sort(v2)[:20].tolist(), np.sort(v2)[-20:].tolist()]
    assert kept.onto == head_named("laion-v1")


def test_pictures_are_matched_by_their_names(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    v2 = rng.normal(5, 1, 300).astype(np.float32)
    v1 = (v2 + rng.normal(0, 0.2, 300)).astype(np.float32)
    v1[5] = np.nan
    order = rng.permutation(300)[:200]
    one = write_scores(tmp_path / "one.parquet", {"aesthetic_score": v2}, [head_record(V2)])
    two = write_scores(
        tmp_path / "two.parquet", {"aesthetic_score": v1[order]}, [head_record(V1)], [names(300)[at] for at in order]
    )
    found = run(one, onto=two)
    both = np.sort(order[np.isfinite(v1[order])])
    theirs = IsotonicRegression(out_of_bounds="clip").fit(v2[both].astype(float), v1[both].astype(float))
    assert found.found.num_pictures == len(both)
    np.testing.assert_allclose(found.found.steps(v2), theirs.predict(v2.astype(float)), atol=1e-9)


def test_two_scores_of_one_set(tmp_path: Path) -> None:
    _, _, v2, v1 = two_heads(tmp_path)
    both = write_scores(tmp_path / "both.parquet", {"laion-v2": v2, "laion-v1": v1}, [head_record(V2), head_record(V1)])
    found = run(both, score="laion-v1", onto="laion-v2")
    theirs = IsotonicRegression(out_of_bounds="clip").fit(v1.astype(float), v2.astype(float))
    np.testing.assert_allclose(found.found.steps(v1), theirs.predict(v1.astype(float)), atol=1e-9)
    assert (found.found.of.name, found.column) == (V1, "laion-v1")


def test_the_error_is_that_of_pictures_not_seen(tmp_path: Path) -> None:
    # Noise of standard deviation .3 about a line: mean absolute error .3 sqrt(2 / pi), and no map can do better.
    one, two, _, _ = two_heads(tmp_path, num_rows=4000)
    record = run(one, onto=two).to_json()
    values = record["measures"]["values"]
    assert values["mae"]["value"] == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.05)
    assert values["rmse"]["value"] == pytest.approx(0.3, rel=0.05)
    assert values["mae"]["low"] < values["mae"]["value"] < values["mae"]["high"]
    (beside,) = record["beside"]
    line = beside["measures"]["values"]["mae"]["value"]
    assert line == pytest.approx(0.3 * np.sqrt(2 / np.pi), rel=0.03)
    assert beside["difference"]["values"]["mae"]["value"] == pytest.approx(values["mae"]["value"] - line)
    assert record["error"] == values["mae"]["value"]


def test_a_bent_relation_is_followed_better_than_by_a_line(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 1000)
    one = write_scores(tmp_path / "x.parquet", {"aesthetic_score": x}, [head_record(V2)])
    two = write_scores(tmp_path / "y.parquet", {"aesthetic_score": x**6 + rng.normal(0, 0.02, 1000)}, [head_record(V1)])
    difference = run(one, onto=two).to_json()["beside"][0]["difference"]["values"]["mae"]
    assert difference["high"] < 0


def test_the_line_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    x, y, v = rng.normal(size=50), rng.normal(size=50), rng.uniform(0.5, 3, 50)
    theirs = LinearRegression().fit(x[:, None], y, sample_weight=v)
    np.testing.assert_allclose(on_the_scale(x, y, v, is_marks=False)(x), theirs.predict(x[:, None]), atol=1e-12)
    assert on_the_scale(np.ones(3), np.arange(3.0), np.ones(3), is_marks=False)(np.ones(2)).tolist() == [1.0, 1.0]


def test_the_quantile_map_is_numpys(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    v2, v1 = rng.normal(5, 1, 2000).astype(np.float32), rng.gamma(4, 1.2, 1500).astype(np.float32)
    one = write_scores(tmp_path / "one.parquet", {"aesthetic_score": v2}, [head_record(V2)])
    others = [f"elsewhere/{number}.jpg" for number in range(1500)]
    two = write_scores(tmp_path / "two.parquet", {"aesthetic_score": v1}, [head_record(V1)], others)
    found = run(one, onto=two)
    assert found.found.method == "quantile"
    assert "no picture has both numbers" in found.found.more["reason"]
    shares = np.linspace(0.01, 0.99, 50)
    wide = v2.astype(float)
    np.testing.assert_allclose(found.found.steps(np.quantile(wide, shares)), np.quantile(v1.astype(float), shares), atol=0.01)
    record = found.to_json()
    assert 0 < record["error"] < 0.3
    # The 1 % bound for two samples, twice the variance: the halves that the map was fitted to are samples as well.
    assert 0 < record["ks_distance"] < 1.63 * np.sqrt(2 * (1 / 1000 + 1 / 750))
    assert record["num_other"] == 1500


def test_distances_are_scipys() -> None:
    rng = np.random.default_rng(4)
    one, two = np.round(rng.normal(size=300), 1), np.round(rng.normal(0.3, 1, 200), 1)
    assert ks_distance(one, two) == pytest.approx(stats.ks_2samp(one, two).statistic, abs=1e-12)
    assert quantile_error(one, one + 0.25) == pytest.approx(0.25)


def test_which_map_is_chosen(tmp_path: Path) -> None:
    one, two, v2, v1 = two_heads(tmp_path)
    found = run(one, onto=two, map_method="quantile").found
    assert (found.method, found.bounds) == ("quantile", None)
    np.testing.assert_allclose(found.steps(np.median(v2)), np.median(v1), atol=0.02)
    few = write_scores(tmp_path / "few.parquet", {"aesthetic_score": v1[:10]}, [head_record(V1)])
    with pytest.raises(InputError, match="10 pictures have both .* an isotonic map needs at least 20, and --map quantile"):
        run(one, onto=few, map_method="isotonic", overwrite=True)
    with pytest.raises(InputError, match="the scores by laion-v1 are 10; a map needs at least 20"):
        run(one, onto=few, overwrite=True)


def test_percentiles_are_scipys(tmp_path: Path) -> None:
    values = np.round(np.random.default_rng(5).normal(5, 1, 800), 1).astype(np.float32)
    values[3] = np.nan
    path = write_scores(tmp_path / "s.parquet", {"aesthetic_score": values}, [head_record(V2)])
    found = run(path, percentiles=True).found
    given = values[np.isfinite(values)].astype(float)
    for score in (4.0, 5.0, 5.5, 6.2):
        near = given[np.argmin(np.abs(given - score))]
        assert found.steps(near) == pytest.approx(stats.percentileofscore(given, near, kind="mean"), abs=0.3)
    assert found.steps.value_range[0] >= 0
    assert found.steps.value_range[1] <= 100
    assert (found.kind, found.scale, found.method) == ("percentiles", "percentiles", "quantile")
    assert found.error < 5


@pytest.fixture
def rated(tmp_path: Path) -> tuple[Path, np.ndarray]:
    values = np.random.default_rng(6).uniform(3, 7, 240).astype(np.float32)
    return write_scores(tmp_path / "s.parquet", {"aesthetic_score": values}, [head_record(V2)]), values


def test_means_with_votes(tmp_path: Path, rated: tuple[Path, np.ndarray]) -> None:
    path, values = rated
    rng = np.random.default_rng(7)
    votes = rng.integers(1, 20, 240)
    means = np.round(values / 2 + rng.normal(0, 0.5, 240), 3)
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating", "num_votes"], zip(names(240), means, votes, strict=True))
    found = run(path, ratings=ratings).found
    theirs = IsotonicRegression(out_of_bounds="clip").fit(values.astype(float), means, sample_weight=votes)
    np.testing.assert_allclose(found.steps(values), theirs.predict(values.astype(float)), atol=1e-9)
    assert (found.kind, found.more["ratings"]["kind"], found.num_pictures) == ("ratings", "mean", 240)


def test_a_row_per_rater_and_histograms(tmp_path: Path, rated: tuple[Path, np.ndarray]) -> None:
    path, values = rated
    rng = np.random.default_rng(8)
    stars = np.clip(np.round(values[:, None] - 2 + rng.normal(0, 0.7, (240, 5))), 1, 5).astype(int)
    rows = [[f"r{at}", name, star] for name, line in zip(names(240), stars, strict=True) for at, star in enumerate(line)]
    raters = write_csv(tmp_path / "raters.csv", ["worker", "image", "rating"], rows)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(values.astype(float), stars.mean(axis=1))
    one = run(path, ratings=raters).found
    np.testing.assert_allclose(one.steps(values), theirs.predict(values.astype(float)), atol=1e-9)
    counts = [
        [name, *(int((line == star).sum()) for star in range(1, 6))] for name, line in zip(names(240), stars, strict=True)
    ]
    histogram = write_csv(tmp_path / "h.csv", ["image", "c1", "c2", "c3", "c4", "c5"], counts)
    two = run(path, ratings=histogram, overwrite=True).found
    np.testing.assert_allclose(two.steps(values), theirs.predict(values.astype(float)), atol=1e-9)
    assert two.more["ratings"]["kind"] == "histogram"


def test_decisions_give_a_chance_and_no_bounds(tmp_path: Path, rated: tuple[Path, np.ndarray]) -> None:
    path, values = rated
    keeps = np.random.default_rng(9).uniform(size=240) < (values - 3) / 4
    marks = write_csv(
        tmp_path / "m.csv",
        ["image", "label"],
        [[name, "keep" if k else "drop"] for name, k in zip(names(240), keeps, strict=True)],
    )
    found = run(path, ratings=marks).found
    theirs = IsotonicRegression(out_of_bounds="clip").fit(values.astype(float), keeps.astype(float))
    np.testing.assert_allclose(found.steps(values), theirs.predict(values.astype(float)), atol=1e-9)
    low, high = found.steps.value_range
    assert 0 <= low < high <= 1
    assert found.bounds is None
    assert "root Brier score" in found.how
    with pytest.raises(InputError, match="chances of a keep, which has no bounds"):
        run(path, ratings=marks, interval=0.9, out=tmp_path / "o.parquet", overwrite=True)


def test_the_error_of_a_chance_is_the_root_of_the_brier_score(tmp_path: Path) -> None:
    # The chance of a keep is uniform on 0 to 1, so even the true one has the expected Brier score E p (1 - p) = 1 / 6.
    rng = np.random.default_rng(12)
    values = rng.uniform(3, 7, 4000).astype(np.float32)
    words = np.where(rng.uniform(size=4000) < (values - 3) / 4, "keep", "drop")
    path = write_scores(tmp_path / "s.parquet", {"aesthetic_score": values}, [head_record(V2)])
    marks = write_csv(tmp_path / "m.csv", ["image", "label"], zip(names(4000), words, strict=True))
    record = run(path, ratings=marks).to_json()
    assert record["error"] == pytest.approx(np.sqrt(1 / 6), abs=0.01)
    assert record["error_of"] == "root of the Brier score on pictures that the fit has not seen"
    assert list(record["measures"]["values"]) == ["rmse"]
    assert record["measures"]["values"]["rmse"]["value"] == record["error"]
    shown = program("calibrate", path, "--ratings", marks, "--overwrite").stdout
    assert "the map          root of the Brier score 0.4" in shown
    assert "MAE" not in shown


def test_pairs_are_refused(tmp_path: Path, rated: tuple[Path, np.ndarray]) -> None:
    pairs = write_csv(tmp_path / "p.csv", ["better", "worse"], zip(names(240)[1:], names(240), strict=False))
    with pytest.raises(InputError, match="holds pairs, which say that one picture is better and not how good it is"):
        run(rated[0], ratings=pairs)


def table_of(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def test_the_table_has_the_scores_on_the_new_scale_with_bounds(tmp_path: Path) -> None:
    one, two, v2, _ = two_heads(tmp_path)
    with_more = write_scores(
        tmp_path / "more.parquet", {"aesthetic_score": np.append(v2, np.nan)}, [head_record(V2)],
        width=pa.array(range(401)), aesthetic_score_low=pa.array(["text"] * 401),
    )  # fmt: skip
    out = tmp_path / "out.parquet"
    found = run(with_more, onto=two, interval=0.9, out=out)
    assert found.new_columns == ("aesthetic_score_calibrated", "aesthetic_score_low", "aesthetic_score_high")
    schema = pq.read_schema(out)
    assert schema.names == ["sample", "aesthetic_score", *found.new_columns, "width", "source_aesthetic_score_low"]
    assert all(schema.field(name).type == pa.float32() for name in found.new_columns)
    table = table_of(out)
    np.testing.assert_array_equal(table["aesthetic_score_calibrated"][:400], found.found.steps(v2).astype(np.float32))
    assert found.found.bounds is not None
    assert found.margin == conformal_margin(found.found.bounds.residuals, 0.9)
    middle = found.found.bounds.steps(v2)
    np.testing.assert_array_equal(table["aesthetic_score_low"][:400], (middle - found.margin).astype(np.float32))
    np.testing.assert_array_equal(table["aesthetic_score_high"][:400], (middle + found.margin).astype(np.float32))
    assert all(np.isnan(table[name][400]) for name in found.new_columns)
    record = json.loads(schema.metadata[b"beholder"])
    assert (record["format"], record["interval"], record["num_rows"]) == ("beholder-calibrated", 0.9, 401)
    assert record["heads"][0]["name"] == V2
    assert record["scale"]["onto"]["name"] == V1
    kept = json.loads(program("select", out, "--where", "aesthetic_score_low >= 4", "--json").stdout)
    assert kept["num_kept"] == int((table["aesthetic_score_low"] >= 4).sum())
    assert one.is_file()


def test_a_kept_map_is_applied_to_other_scores(tmp_path: Path) -> None:
    one, two, _, _ = two_heads(tmp_path)
    made = run(one, onto=two)
    values = np.array([4.5, 5.5, np.nan, 99.0], np.float32)
    new = write_scores(tmp_path / "new.parquet", {"aesthetic_score": values}, [head_record(V2)])
    found = run(new, scale_of="laion-v1", interval=0.8, out=tmp_path / "new.csv")
    assert found.kept is None
    rows = list(csv.DictReader((tmp_path / "new.csv").open()))
    expected = made.found.steps(values).astype(np.float32)
    assert [float(row["aesthetic_score_calibrated"] or "nan") for row in rows] == pytest.approx(expected.tolist(), nan_ok=True)
    back = write_scores(tmp_path / "back.parquet", {"aesthetic_score": values}, [head_record(V1)])
    with pytest.raises(InputError, match="says nothing of the other direction; make that one: beholder calibrate"):
        run(back, scale_of="laion-v2", out=tmp_path / "b.csv")


def drawn(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    x = rng.normal(5, 1, count)
    return x, x + 0.3 * (x - 5) ** 3 + (0.2 + 0.3 * np.abs(x - 5)) * rng.standard_t(4, count)


@pytest.mark.parametrize("level", [0.5, 0.9])
def test_bounds_hold_as_often_as_they_say(level: float) -> None:
    num, fresh, held = 100, 200, []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x, y = drawn(rng, num)
        series = Series(
            scores=x, truth=y, weights=np.ones(num), samples=names(num), groups=np.arange(num), all_scores=x, all_truth=y
        )
        found = bounds_of(series, seed)
        assert len(found.residuals) == 50
        margin = conformal_margin(found.residuals, level)
        new, truth = drawn(rng, fresh)
        held.append(np.mean(np.abs(truth - found.steps(new)) <= margin))
    error = np.std(held, ddof=1) / np.sqrt(len(held))
    # Exactly ceil(level 51) / 51 on average, which lies between the level and 1 / 51 above it.
    assert level - 3 * error <= np.mean(held) <= level + 1 / 51 + 3 * error
    assert np.mean(held) == pytest.approx(np.ceil(level * 51) / 51, abs=3 * error)


@pytest.mark.parametrize(("num_groups", "level"), [(6, 0.7), (10, 0.8), (20, 0.9)])
def test_bounds_hold_pictures_of_new_groups(num_groups: int, level: float) -> None:
    """Groups of 50 whose truth is shifted by a normal effect of standard deviation 1, against the pictures of one new group."""
    held = []
    group = np.repeat(np.arange(num_groups + 1), 50)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.normal(5, 1, len(group))
        y = x + rng.normal(0, 1, num_groups + 1)[group] + rng.normal(0, 0.3, len(group))
        is_new = group == num_groups
        known = x[~is_new], y[~is_new]
        series = Series(
            scores=known[0], truth=known[1], weights=np.ones(len(known[0])), samples=names(len(known[0])),
            groups=group[~is_new], all_scores=known[0], all_truth=known[1],
        )  # fmt: skip
        found = bounds_of(series, seed)
        assert found.num_groups == num_groups // 2
        margin = conformal_margin(found.residuals, level, found.groups)
        assert np.isfinite(margin)
        assert conformal_margin(found.residuals, num_groups / 2 / (num_groups / 2 + 1) + 0.01, found.groups) == np.inf
        held.append(np.mean(np.abs(y[is_new] - found.steps(x[is_new])) <= margin))
    error = np.std(held, ddof=1) / np.sqrt(len(held))
    # Lee, Barber and Willett: at least the level, and at most 2 / (groups + 1) above it.
    assert level - 2 * error <= np.mean(held) <= level + 2 / (num_groups // 2 + 1) + 2 * error


def test_of_many_residuals_as_many_of_each_group_are_kept() -> None:
    rng = np.random.default_rng(0)
    group = np.concatenate([np.repeat(np.arange(4), 3000), np.repeat(np.arange(4, 8), 100)])
    x = rng.normal(size=len(group))
    series = Series(
        scores=x, truth=x + rng.normal(size=len(group)), weights=np.ones(len(group)), samples=names(len(group)), groups=group,
        all_scores=x, all_truth=x,
    )  # fmt: skip
    found = bounds_of(series, 0)
    assert found.groups is not None
    assert len(found.residuals) == 4000
    counts = np.bincount(found.groups)
    large = counts[counts > 100]
    assert np.ptp(large) <= 1  # and of the small ones all


def test_too_few_groups_for_a_level(tmp_path: Path) -> None:
    one, two, v2, v1 = two_heads(tmp_path, num_rows=120)
    samples = [f"{row % 6}/{row}.jpg" for row in range(120)]
    write_scores(one, {"aesthetic_score": v2}, [head_record(V2)], samples)
    write_scores(two, {"aesthetic_score": v1}, [head_record(V1)], samples)
    said = fails(one, "--onto", two, "--interval", "0.9", "--split-by", "folder", "-o", tmp_path / "o.csv")
    assert "--interval 0.9 takes more than the 3 groups of pictures that the bounds were measured on" in said
    assert said.endswith("or ask for at most 0.75")
    shown = program(
        "calibrate", one, "--onto", two, "--interval", "0.75", "--split-by", "folder", "-o", tmp_path / "o.csv"
    ).stdout
    assert "hold 75 % of pictures of new groups (split conformal, measured on 60 of 3 groups that" in shown
    said = "No source has embeddings, so near-duplicates could not be looked for; where there are many, errors and bounds are"
    assert said in shown
    assert said in program("calibrate", one, "--onto", two, "--overwrite").stdout
    again = program("calibrate", one, "--onto", two, "--overwrite", "--near-duplicates", "0")
    assert "near-duplicates" not in again.stdout


def twins(folder: Path, num_pictures: int = 60) -> tuple[Path, Path, Path, Path]:
    """Pictures that are there twice, under two names: scores by two heads, embeddings, and those of the first ones alone.

    Twins have the same scores, so a map that was fitted to the one has no error on the other.
    """
    rng = np.random.default_rng(8)
    v2 = rng.normal(5, 1, num_pictures)
    v1 = v2 + rng.normal(0, 0.8, num_pictures)
    rows = rng.normal(size=(num_pictures, 16)).astype(np.float32)
    np.save(folder / "e.npy", np.concatenate([rows, 3 * rows]))
    np.save(folder / "some.npy", rows)
    samples = [f"e.npy#{row}" for row in range(2 * num_pictures)]
    one = write_scores(folder / "v2.parquet", {"aesthetic_score": np.tile(v2, 2)}, [head_record(V2)], samples)
    two = write_scores(folder / "v1.parquet", {"aesthetic_score": np.tile(v1, 2)}, [head_record(V1)], samples)
    return one, two, folder / "e.npy", folder / "some.npy"


def test_near_duplicates_are_on_one_side_of_each_split(tmp_path: Path) -> None:
    one, two, embeddings, some = twins(tmp_path)
    apart = run(one, onto=two)
    record = run(one, onto=two, embeddings=embeddings, overwrite=True)
    found = record.to_json()
    assert "The 120 pictures are 60 groups: near-duplicates. Those of a group are on one side of each split." in record.lines
    assert (found["measured"]["near_duplicates"], found["measures"]["num_groups"]) == (0.95, 60)
    assert apart.to_json()["measured"]["near_duplicates"] is None
    assert found["error"] > 1.1 * apart.to_json()["error"]
    bounds = record.found.bounds
    assert bounds is not None
    assert bounds.groups is not None
    assert np.bincount(bounds.groups).tolist() == [2] * 30  # whole pairs of twins, half of them
    # The picture that is left out with its twin is measured by a map of the others alone.
    single = run(one, onto=two, embeddings=embeddings, near_duplicates=0, overwrite=True)
    assert single.to_json()["error"] == apart.to_json()["error"]
    assert not any("near-duplicates" in line for line in single.lines)
    np.save(some, np.load(embeddings)[:60])
    few = write_scores(tmp_path / "some-v2.parquet", {"aesthetic_score": np.arange(60.0)}, [head_record(V2)],
                       [f"some.npy#{row}" if row < 40 else f"{row}.jpg" for row in range(60)])  # fmt: skip
    rated = write_csv(tmp_path / "r.csv", ["image", "rating"], [[f"some.npy#{row}", row] for row in range(40)]
                      + [[f"{row}.jpg", row + row % 3] for row in range(40, 60)])  # fmt: skip
    lines = run(few, ratings=rated, embeddings=some).lines
    said = "20 pictures have no embedding, so near-duplicates could not be looked for among them; where there are many, errors"
    assert any(line.startswith(said) for line in lines)


def test_embeddings_are_for_maps_that_are_measured_on_folds(tmp_path: Path) -> None:
    one, _, embeddings, _ = twins(tmp_path)
    said = fails(one, "--percentiles", "--embeddings", embeddings)
    assert said.endswith("--embeddings is for isotonic maps, whose error is measured on folds; leave it out")


def test_groups_are_found_in_the_ratings_first_then_in_the_scores(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    values = rng.normal(5, 1, 200)
    scores = write_scores(
        tmp_path / "s.parquet", {"aesthetic_score": values}, [head_record(V2)], camera=pa.array(range(200)),
        who=pa.array(range(200)),
    )  # fmt: skip
    rows = [[name, f"{value:.3f}", f"p{row % 8}"] for row, (name, value) in enumerate(zip(names(200), values, strict=True))]
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating", "who"], rows)
    by_ratings = run(scores, ratings=ratings, split_by="who").found.bounds
    assert by_ratings is not None
    assert by_ratings.num_groups == 4  # half of the 8 of the ratings; of the scores' column each row is one
    by_scores = run(scores, ratings=ratings, split_by="camera", overwrite=True).found.bounds
    assert by_scores is not None
    assert by_scores.num_groups == 100
    with pytest.raises(InputError, match="--split-by nobody: neither .*r.csv nor .*s.parquet has such a column"):
        run(scores, ratings=ratings, split_by="nobody", overwrite=True)


def test_percentiles_take_little_memory_beyond_a_copy() -> None:
    numbers = np.random.default_rng(0).normal(size=4_000_000).astype(np.float32)
    tracemalloc.start()
    found = fit_percentiles(numbers, "the scores", seed=0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * numbers.nbytes  # a sorted copy, and 200,000 drawn ones
    assert found.error < 0.5
    assert found.steps(0.0) == pytest.approx(50, abs=0.2)  # 2.5 standard errors of .05 are .1
    assert len(found.steps.scores) < 2000


@pytest.mark.slow
def test_bounds_of_the_table_hold_pictures_that_nobody_had_rated(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    x, y = drawn(rng, 6000)
    scores = write_scores(tmp_path / "s.parquet", {"aesthetic_score": x}, [head_record(V2)])
    rated = np.sort(rng.permutation(6000)[:2000])
    rows = [[names(6000)[row], f"{y[row]:.6f}"] for row in rated]
    run(scores, ratings=write_csv(tmp_path / "r.csv", ["image", "rating"], rows), interval=0.9, out=tmp_path / "o.parquet")
    table, new = table_of(tmp_path / "o.parquet"), np.setdiff1d(np.arange(6000), rated)
    held = (table["aesthetic_score_low"][new] <= y[new]) & (y[new] <= table["aesthetic_score_high"][new])
    # The share varies by both the 1,000 residuals and the 4,000 new pictures.
    assert held.mean() == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / 1000 + 0.09 / 4000))


def test_groups_are_not_on_both_sides_of_a_split(tmp_path: Path) -> None:
    # Ten folders, each with a taste of its own: errors on folders that were not seen are larger than those on single pictures.
    rng = np.random.default_rng(10)
    folder = np.repeat(np.arange(10), 40)
    x = np.concatenate([rng.normal(place / 2, 0.05, 40) for place in range(10)])
    y = x + rng.normal(0, 1, 10)[folder] + rng.normal(0, 0.05, 400)
    samples = [f"{place}/{number}.jpg" for number, place in enumerate(folder)]
    one = write_scores(tmp_path / "x.parquet", {"aesthetic_score": x}, [head_record(V2)], samples, who=pa.array(folder))
    two = write_scores(tmp_path / "y.parquet", {"aesthetic_score": y}, [head_record(V1)], samples)
    single = run(one, onto=two).found.error
    by_folder = run(one, onto=two, split_by="folder", overwrite=True).found
    by_column = run(one, onto=two, split_by="who", overwrite=True).found
    assert by_folder.error > 1.5 * single
    assert by_column.error == pytest.approx(by_folder.error, rel=0.2)
    with pytest.raises(InputError, match="has no column 'nobody'"):
        run(one, onto=two, split_by="nobody", overwrite=True)


def test_the_same_data_and_seed_give_the_same_file(tmp_path: Path) -> None:
    one, two, _, _ = two_heads(tmp_path)
    first = run(one, onto=two).kept
    assert first is not None
    before = Path(first).read_bytes()
    run(one, onto=two, overwrite=True)
    assert Path(first).read_bytes() == before


def test_mapped_takes_nulls_and_infinite_scores(tmp_path: Path) -> None:
    one, two, _, _ = two_heads(tmp_path)
    found = run(one, onto=two).found
    column = pa.chunked_array([pa.array([5.0, None, np.inf, np.nan], pa.float64()), pa.array([], pa.float64())])
    low, high = found.steps.value_range
    (values,) = mapped(column, found, None)
    assert low < values[0] < high
    assert np.isnan(values[1:]).all()


def fails(*line: Any) -> str:
    done = program("calibrate", *line)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_wrong_input_is_one_line(tmp_path: Path) -> None:
    one, two, v2, _ = two_heads(tmp_path, num_rows=60)
    assert "onto which scale? give one of --onto, --ratings, --percentiles, --scale-of" in fails(one)
    assert "--onto and --percentiles: choose one scale at a time" in fails(one, "--onto", two, "--percentiles")
    assert "its scores are by the same head (laion-v2), so there is nothing to map" in fails(one, "--onto", one)
    for level in ("0", "1", "1.5", "-1"):
        assert f"--interval {level}: give a chance between 0 and 1" in fails(
            one, "--onto", two, "-o", "o.csv", "--interval", level
        )
    assert "--interval adds columns to a table" in fails(one, "--onto", two, "--interval", "0.9")
    falling = write_scores(tmp_path / "f.parquet", {"aesthetic_score": -v2}, [head_record(V1)])
    said = fails(one, "--onto", falling)
    assert "the scores by laion-v2 do not rise with the scores by laion-v1: their rank correlation is negative (-1.00)" in said
    assert "rank correlation is -1.00 on 60" in fails(one, "--onto", falling, "--map", "quantile")
    constant = write_scores(tmp_path / "c.parquet", {"aesthetic_score": [4.0] * 60}, [head_record(V1)])
    assert "the scores by laion-v1 are all 4; a map needs numbers that differ" in fails(one, "--onto", constant)
    assert "the scores by laion-v1 are all 4" in fails(constant, "--percentiles")
    nobody = write_csv(tmp_path / "n.csv", ["sample", "score"], zip(names(60), v2, strict=True))
    assert "does not say which head its scores score are by" in fails(nobody, "--percentiles")
    assert "there is no head laion-v11" in fails(nobody, "--percentiles", "--head", "laion-v11")
    assert "are by laion-v2, as the set itself says, not by laion-v1" in fails(one, "--percentiles", "--head", "laion-v1")
    assert "no map between laion-v2 and ratings is kept" in fails(one, "--scale-of", "ratings", "-o", tmp_path / "o.csv")
    assert "does not exist" in fails(one, "--onto", "nothing.parquet")
    assert "--rating-column is for --ratings, which is not given" in fails(one, "--percentiles", "--rating-column", "x")
    assert "--onto-head is for --onto, which is not given" in fails(one, "--percentiles", "--onto-head", "laion-v1")
    assert "--split-by is for isotonic maps" in fails(one, "--percentiles", "--split-by", "folder")
    assert "--map quantile is for scores of two heads" in fails(one, "--ratings", "r.csv", "--map", "quantile")
    assert "a table is written as .parquet, .csv, .jsonl" in fails(one, "--percentiles", "-o", "o.txt")


def test_too_few_pictures_for_a_level(tmp_path: Path) -> None:
    one, two, _, _ = two_heads(tmp_path, num_rows=60)
    said = fails(one, "--onto", two, "--interval", "0.99", "-o", tmp_path / "o.csv")
    assert "--interval 0.99 takes more than the 30 pictures that the bounds were measured on" in said
    assert not (tmp_path / "o.csv").exists()
    run(one, onto=two)  # nothing was kept of the try before


def test_what_is_there_is_replaced_only_when_asked(tmp_path: Path) -> None:
    one, two, _, _ = two_heads(tmp_path, num_rows=60)
    run(one, onto=two)
    with pytest.raises(OutputError, match="laion-v2 has a map onto laion-v1 already"):
        run(one, onto=two)
    made = tmp_path / "made.parquet"
    run(one, onto=two, out=made, overwrite=True)
    with pytest.raises(OutputError, match="made.parquet exists"):
        run(one, onto=two, out=made)
    run(one, onto=two, out=made, overwrite=True)
    with pytest.raises(BeholderError, match="choose one of auto, isotonic, quantile|one of auto, isotonic, quantile"):
        run(one, onto=two, map_method="linear", overwrite=True)


def test_what_is_read_or_not_ours_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, v2, _ = two_heads(tmp_path, num_rows=60)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.parquet").symlink_to(one)
    (tmp_path / "set").mkdir()
    write_scores(tmp_path / "set" / "a.parquet", {"aesthetic_score": v2}, [head_record(V2)])
    before = {path: path.read_bytes() for path in (one, two, tmp_path / "set" / "a.parquet")}
    for scores, out in (
        ("v2.parquet", "./v2.parquet"), ("v2.parquet", "link.parquet"), ("v2.parquet", "set/../v1.parquet"),
        ("set", "set/a.parquet"), ("set", "set/new.parquet"), ("set/*.parquet", "set/a.parquet"),
        ("set/*.parquet", "./set/new.parquet"), ("set/**/*.parquet", "set/deep/new.parquet"),
    ):  # fmt: skip
        with pytest.raises(OutputError, match="is read by this command"):
            run(scores, onto="v1.parquet", out=out, overwrite=True)
    ratings = write_csv(tmp_path / "r.csv", ["image", "rating"], [(name, row) for row, name in enumerate(names(60))])
    with pytest.raises(OutputError, match="r.csv is read by this command"):
        run("v2.parquet", ratings="r.csv", out="./r.csv", overwrite=True)
    for name in ("theirs.parquet", "theirs.csv", "theirs.jsonl"):
        (tmp_path / name).write_bytes(one.read_bytes() if name.endswith("parquet") else b"sample,aesthetic_score\na,1\n")
        with pytest.raises(OutputError, match="was not written by this command; move it"):
            run("v2.parquet", onto="v1.parquet", out=name, overwrite=True)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        run("v2.parquet", onto="v1.parquet", out="folder.csv", overwrite=True)
    assert {path: path.read_bytes() for path in before} == before
    assert ratings.read_text().startswith("image,rating")
    for name in ("ours.parquet", "ours.csv", "ours.jsonl", "set/ours.jsonl"):
        run("set" if "/" in name else "v2.parquet", onto="v1.parquet", out=name, overwrite=True)
        first = (tmp_path / name).read_bytes()
        run("set" if "/" in name else "v2.parquet", onto="v1.parquet", out=name, overwrite=True)
        assert (tmp_path / name).read_bytes() == first


def test_the_whole_way_with_a_head_of_ones_own(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((80, 12)).astype(np.float32)
    np.save(tmp_path / "e.npy", rows)
    for name, seed in (("mine", 1), ("other", 2)):
        weight = rows[0] + 0.3 * np.random.default_rng(seed).standard_normal(12)
        save_head(Head.affine(weight, 5.0, name=name), tmp_path / f"{name}.safetensors")
        done = program(
            "score", "e.npy", "--head", f"./{name}.safetensors", "-o", f"{name}.parquet", "--space-check", "off", cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
    done = program("calibrate", "mine.parquet", "--onto", "other.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine onto other: isotonic, 80 pictures" in done.stdout
    assert [path.name[:11] for path in (tmp_path / "mine.scales").iterdir()] == ["onto-other-"]
    said = program("select", "mine.parquet", "--min-score", "5", "--scale-of", "./other.safetensors", cwd=tmp_path).stdout
    assert "5 on ./other.safetensors is" in said
    info = program("models", "info", "mine.safetensors", cwd=tmp_path).stdout
    assert "onto other: isotonic, 80 pictures, error" in info
    added = program("models", "add", "mine.safetensors", "--name", "taste", cwd=tmp_path).stdout
    assert "its map onto other scales went along" in added
    scales = json.loads(program("models", "info", "taste", "--json", cwd=tmp_path).stdout)["scales"]
    assert [scale["onto"]["name"] for scale in scales] == ["other"]
    removed = program("models", "remove", "taste", cwd=tmp_path).stdout
    assert removed.count("removed") == 2
    elsewhere = program("select", tmp_path / "mine.parquet", "--min-score", "5", "--scale-of", "other")
    assert "there is no head other" in elsewhere.stderr
    assert "beside its file, which is not at mine.safetensors; --head says where it is" in elsewhere.stderr
    line = ["select", tmp_path / "mine.parquet", "--min-score", "5", "--scale-of", "other"]
    assert "5 on other is" in program(*line, "--head", tmp_path / "mine.safetensors").stdout
