"""Maps between scales: thresholds through steps and ties by brute force, their files, where they are kept and found."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from beholder.errors import InputError, OutputError
from beholder.scoreset.head_key import HeadKey
from beholder.scoreset.kept_scales import (
    Scale,
    carry_over,
    find_map,
    folder_of,
    forget_maps,
    head_named,
    keep_map,
    maps_of,
    scale_records,
    translate,
)
from beholder.scoreset.scales import Bounds, ScaleMap, StepMap, read_map, write_map
from oracles.scale_sets import V1, V2

A, B = HeadKey(name="one", hashes=("a" * 64,)), HeadKey(name="two", hashes=("b" * 64,))


@st.composite
def step_maps(draw: st.DrawFn) -> StepMap:
    """Maps of one to eight knots, with level stretches; knots are float32 as scores are."""
    number = draw(st.integers(1, 8))
    scores = draw(
        hnp.arrays(np.float32, number, elements=st.floats(-8, 8, width=32, allow_subnormal=False), unique=True)
    ).astype(np.float64)
    rises = draw(hnp.arrays(np.float64, number, elements=st.sampled_from([0.0, 0.0, 0.25, 1.0, 1 / 3])))
    return StepMap(np.sort(scores), draw(st.sampled_from([-2.0, 0.0, 3.1])) + np.cumsum(rises))


def probes(steps: StepMap) -> np.ndarray:
    """Float32 scores of the fitted range and beyond: a fine grid, the knots, and their neighbours."""
    low, high = steps.score_range
    knots = steps.scores.astype(np.float32)
    near = [np.nextafter(knots, np.float32(side)) for side in (-np.inf, np.inf)]
    return np.concatenate([np.linspace(low - 1, high + 1, 200).astype(np.float32), knots, *near])


@given(step_maps(), st.floats(-3, 8))
@settings(max_examples=300, deadline=None)
def test_a_threshold_keeps_what_is_mapped_to_it_and_above(steps: StepMap, value: float) -> None:
    scores = probes(steps)
    mapped, wanted = steps(scores).astype(np.float32), np.float32(value)
    np.testing.assert_array_equal(scores >= steps.least_reaching(value), mapped >= wanted)
    np.testing.assert_array_equal(scores >= steps.least_reaching(value, is_strict=True), mapped > wanted)
    np.testing.assert_array_equal(scores <= steps.largest_within(value), mapped <= wanted)


@given(step_maps(), st.floats(-3, 8), st.floats(0, 3))
@settings(max_examples=200, deadline=None)
def test_translations_never_fall_and_come_back(steps: StepMap, value: float, more: float) -> None:
    assert steps.least_reaching(value) <= steps.least_reaching(value + more)
    assert steps.largest_within(value) <= steps.largest_within(value + more)
    for score in probes(steps)[::20]:
        there = float(np.float32(steps(score)))
        back = steps.least_reaching(there)
        assert back <= score <= steps.largest_within(there)
        assert np.float32(steps(back)) >= np.float32(there)


def test_steps_by_hand() -> None:
    # Rises from 1 to 2 between 0 and 1, is level up to 3, and rises to 4 at 5.
    steps = StepMap(np.array([0.0, 1.0, 3.0, 5.0]), np.array([1.0, 2.0, 2.0, 4.0]))
    found = [steps.least_reaching(value) for value in (1.5, 2.0, 3.0)]
    assert found == pytest.approx([0.5, 1.0, 4.0], abs=2e-7)  # values are compared as float32
    assert steps.largest_within(2.0) == pytest.approx(3.0, abs=3e-7)
    assert steps.least_reaching(2.0, is_strict=True) == pytest.approx(3.0, abs=1e-6)
    assert (steps.least_reaching(0.0), steps.least_reaching(4.1)) == (-math.inf, math.inf)
    assert (steps.largest_within(0.9), steps.largest_within(9.0)) == (-math.inf, math.inf)
    # All scores are mapped to 1 or more and to 4 or less, those below 0 and above 5 as well.
    assert (steps.least_reaching(1.0), steps.largest_within(4.0)) == (-math.inf, math.inf)
    assert steps.least_reaching(1.0, is_strict=True) == pytest.approx(0.0, abs=2e-7)
    assert math.isnan(steps(np.nan))
    assert steps([-7.0, 9.0]).tolist() == [1.0, 4.0]


def test_a_map_of_one_knot() -> None:
    steps = StepMap(np.array([2.0]), np.array([5.0]))
    assert (steps.least_reaching(5.0), steps.least_reaching(5.1), steps.largest_within(4.9)) == (
        -math.inf,
        math.inf,
        -math.inf,
    )


@given(step_maps())
@settings(max_examples=100, deadline=None)
def test_a_thinned_map_is_the_same_map(steps: StepMap) -> None:
    scores = np.linspace(-9, 9, 400)
    np.testing.assert_allclose(steps.thinned()(scores), steps(scores), atol=1e-12)
    assert len(steps.thinned().scores) <= len(steps.scores)


def made(of: HeadKey = A, onto: HeadKey | None = B) -> ScaleMap:
    steps = StepMap(np.array([0.0, 1.0, 3.0, 5.0]), np.array([1.0, 2.0, 2.0, 4.0]))
    bounds = Bounds(steps=steps, residuals=np.array([0.1, 0.25, 0.5]))
    kind = "head" if onto is not None else "ratings"
    return ScaleMap(
        of=of, kind=kind, onto=onto, method="isotonic", steps=steps, num_pictures=1234, error=0.2149, bounds=bounds,
        more={"error_of": "mean absolute error", "reason": "asked for"},
    )  # fmt: skip


def test_the_file_holds_the_map_to_the_bit(tmp_path: Path) -> None:
    thirds = replace(made(), steps=StepMap(np.array([0.1, 1 / 3]), np.array([2 / 3, 1e17])), bounds=None)
    write_map(thirds, str(tmp_path / "map.json"))
    found = read_map(str(tmp_path / "map.json"))
    assert found.steps.scores.tolist() == [0.1, 1 / 3]
    assert found.steps.values.tolist() == [2 / 3, 1e17]
    assert (found.of, found.onto, found.method, found.num_pictures, found.error) == (A, B, "isotonic", 1234, 0.2149)
    assert (found.bounds, dict(found.more)) == (None, dict(thirds.more))
    write_map(made(), str(tmp_path / "bounds.json"))
    bounds = read_map(str(tmp_path / "bounds.json")).bounds
    assert bounds is not None
    assert (bounds.residuals.tolist(), bounds.groups, bounds.num_groups) == ([0.1, 0.25, 0.5], None, 3)
    grouped = replace(bounds, groups=np.array([1, 0, 1]))
    write_map(replace(made(), bounds=grouped, ends=(np.array([0.0]), np.array([5.0]))), str(tmp_path / "groups.json"))
    again = read_map(str(tmp_path / "groups.json"))
    assert again.bounds is not None
    assert again.bounds.groups is not None
    assert (again.bounds.groups.tolist(), again.bounds.num_groups) == ([1, 0, 1], 2)
    assert [part.tolist() for part in again.ends] == [[0.0], [5.0]]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("scores", [0.0, 1.0, 1.0, 5.0], "checksum"),
        ("format", "beholder-score-set", "checksum"),
    ],
)
def test_a_map_that_was_changed_is_refused(tmp_path: Path, field: str, value: object, said: str) -> None:
    path = tmp_path / "map.json"
    write_map(made(), str(path))
    record = json.loads(path.read_text()) | {field: value}
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match=said):
        read_map(str(path))
    del record["sha256"]  # a record without a checksum is taken as it is
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="run beholder calibrate again"):
        read_map(str(path))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scores", [0.0]), ("scores", ["a", "b", "c", "d"]), ("values", [4.0, 3.0, 2.0, 1.0]), ("values", [1, 2, 3, None]),
        ("of", None), ("onto", {"kind": "else"}), ("method", "guess"), ("num_pictures", -1), ("error", "much"),
        ("error", 10**400), ("scores", [1, 2, 3, 10**400]),
        ("bounds", {"scores": []}), ("bounds", {"scores": [1], "values": [1], "residuals": [0.5], "groups": [1e300]}),
        ("version", 9),
    ],
)  # fmt: skip
def test_a_map_with_a_wrong_field_is_refused_in_a_line(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "map.json"
    write_map(made(), str(path))
    record = json.loads(path.read_text()) | {field: value}
    del record["sha256"]
    path.write_text(json.dumps(record))
    with pytest.raises(InputError, match="map.json is damaged") as caught:
        read_map(str(path))
    assert "\n" not in str(caught.value)


def test_a_map_of_an_older_version_is_made_again() -> None:
    path = keep_map(made())
    record = json.loads(path.read_text()) | {"version": 1}
    del record["sha256"]
    path.write_text(json.dumps(record))
    old: list[str] = []
    assert scale_records(A, old) == []
    assert old == [f"{path} was made by an older version; run beholder calibrate again, with --overwrite"]
    with pytest.raises(OutputError, match="--overwrite"):
        keep_map(made())
    assert keep_map(made(), overwrite=True) == path
    assert len(scale_records(A, [])) == 1


def test_maps_are_found_in_both_directions() -> None:
    path = keep_map(made())
    assert re.fullmatch(r"onto-two-[0-9a-f]{8}\.json", path.name)
    found, is_forward = find_map(A, Scale(said="two", kind="head", head=B), "s.parquet")
    assert (found.of, is_forward) == (A, True)
    with pytest.raises(
        InputError,
        match="the isotonic map that is kept goes from one onto two, and says nothing of the other direction; make that one: "
        "beholder calibrate s.parquet --onto SCORES_BY_one",
    ):
        find_map(B, Scale(said="one", kind="head", head=A), "s.parquet")
    keep_map(replace(made(), method="quantile"), overwrite=True)
    found, is_forward = find_map(B, Scale(said="one", kind="head", head=A), "s.parquet")
    assert (found.of, is_forward) == (A, False)
    keep_map(made(B, A))  # of the head itself: it comes first
    found, is_forward = find_map(B, Scale(said="one", kind="head", head=A), "s.parquet")
    assert (found.of, is_forward) == (B, True)


def test_files_of_maps_never_collide(tmp_path: Path) -> None:
    slash, dash = HeadKey(name="a/b", hashes=("1" * 64,)), HeadKey(name="a-b", hashes=("2" * 64,))
    paths = [keep_map(made(slash, None)), keep_map(made(dash, None)), keep_map(made(A, slash)), keep_map(made(A, dash))]
    assert len(set(paths)) == 4
    assert paths[0].parent != paths[1].parent
    files = [tmp_path / "mine.pt", tmp_path / "mine.safetensors"]
    heads = []
    for number, file in enumerate(files):
        file.write_bytes(bytes([number]))
        heads.append(HeadKey(name="mine", hashes=(hashlib.sha256(bytes([number])).hexdigest(),), place=str(file)))
    beside = [keep_map(replace(made(head, None), num_pictures=30 + at)) for at, head in enumerate(heads)]
    assert {path.parent for path in beside} == {tmp_path / "mine.scales"}
    assert [scale_records(head, [])[0]["num_pictures"] for head in heads] == [30, 31]
    assert len(scale_records(heads[0], [])) == 1


def test_only_a_heads_own_maps_are_removed() -> None:
    path = keep_map(made())
    (path.parent / "notes.txt").write_text("mine")
    (path.parent / "other.json").write_text("{}")
    theirs = keep_map(made(replace(A, name="one/")))
    (path.parent / "torn.json").write_bytes(path.read_bytes()[:200])
    assert sorted(gone.name for gone in forget_maps("one")) == sorted([path.name, "torn.json"])
    assert sorted(one.name for one in path.parent.iterdir()) == ["notes.txt", "other.json"]
    assert theirs.is_file()
    assert forget_maps("nobody") == []


def test_maps_that_are_there_stay_when_others_come_along() -> None:
    keep_map(made())
    copy = HeadKey(name="copy", hashes=A.hashes)
    assert carry_over(A, copy) == (1, [])
    assert carry_over(A, copy) == (1, [])  # the same once more
    keep_map(replace(made(copy), num_pictures=7), overwrite=True)
    count, lines = carry_over(A, copy)
    assert count == 0
    assert "its map onto two did not go along: another one is there" in lines[0]
    assert scale_records(copy, [])[0]["num_pictures"] == 7
    assert carry_over(A, copy, overwrite=True) == (1, [])
    assert scale_records(copy, [])[0]["num_pictures"] == 1234


def test_a_damaged_map_stops_only_what_needs_it() -> None:
    path, ratings = keep_map(made()), keep_map(made(A, None))
    path.write_bytes(path.read_bytes()[:100])
    damaged: list[str] = []
    assert find_map(A, Scale.named("ratings"), "s.csv", damaged)[0].kind == "ratings"
    assert len(damaged) == 1
    assert "is damaged" in damaged[0]
    assert [one["onto"]["kind"] for one in scale_records(A, [])] == ["ratings"]
    with pytest.raises(InputError, match="is damaged"):
        find_map(A, Scale(said="two", kind="head", head=B), "s.csv")
    assert ratings.is_file()


def test_few_pictures_at_an_end_are_told() -> None:
    scale = Scale(said="two", kind="head", head=B)
    fitted = np.linspace(0, 5, 101)  # .05 apart: 4.1, 4.15, ... 5 are 19 of them, from 4.05 on 20
    found = replace(made(), ends=(fitted[:20], fitted[-20:]))
    few = translate(found, is_forward=True, value=3.1, flag="--min-score", scale=scale, head=A)
    assert few.used == pytest.approx(4.1, abs=1e-6)
    num = sum(score >= few.used for score in fitted.tolist())  # 19, or 18 where the float32 lies above 4.1
    assert num in (18, 19)
    assert str(few).endswith(f"; only {num} of the fitted pictures lie at or beyond it, so little is known there")
    assert "only" not in str(translate(found, is_forward=True, value=3.0, flag="--min-score", scale=scale, head=A))
    assert "only 3 of the fitted" in str(translate(found, is_forward=True, value=1.12, flag="--max-score", scale=scale, head=A))


def test_a_map_is_replaced_only_when_that_is_asked_for() -> None:
    keep_map(made())
    with pytest.raises(OutputError, match=r"one has a map onto two already \(.*onto-two-.*json\); use --overwrite"):
        keep_map(made())
    keep_map(replace(made(), num_pictures=9), overwrite=True)
    assert [one.num_pictures for one in maps_of(A, [])] == [9]


def test_maps_of_other_weights_are_not_used() -> None:
    keep_map(made())
    newer = replace(A, hashes=("c" * 64,))
    with pytest.raises(InputError, match=r"made for other weights of that name \(sha256\)"):
        find_map(newer, Scale(said="two", kind="head", head=B), "s.parquet")
    with pytest.raises(InputError, match="other weights"):
        find_map(A, Scale(said="two", kind="head", head=replace(B, hashes=("d" * 64,))), "s.parquet")
    copy = HeadKey(name="another-name", hashes=("e" * 64, "a" * 64))  # the same weights in another file
    assert copy.is_same(A)


def test_what_is_missing_is_said_with_the_command_that_makes_it() -> None:
    with pytest.raises(
        InputError, match=r"no map between one and ratings is kept; make one: beholder calibrate s.csv --ratings FILE"
    ):
        find_map(A, Scale.named("ratings"), "s.csv")
    with pytest.raises(InputError, match=r"beholder calibrate s.csv --percentiles"):
        find_map(A, Scale.named("percentiles"), "s.csv")
    with pytest.raises(InputError, match=r"no map between one and laion-v1.*--onto SCORES_BY_laion-v1"):
        find_map(A, Scale.named("laion-v1"), "s.csv")
    with pytest.raises(InputError, match="there is no head laion-v11.*did you mean"):
        find_map(A, Scale.named("laion-v11"), "s.csv")
    with pytest.raises(InputError, match="on this scale already"):
        find_map(HeadKey(name=V1, hashes=head_named(V1).hashes), Scale.named("laion-v1"), "s.csv")


def test_a_head_by_its_name_alone_is_found_by_maps_that_name_it() -> None:
    keep_map(made())
    found, is_forward = find_map(A, Scale.named("two"), "s.csv")
    assert is_forward
    assert found.onto == B


def test_thresholds_outside_of_what_was_fitted_are_refused() -> None:
    scale = Scale(said="two", kind="head", head=B)
    with pytest.raises(InputError, match="was fitted from 1 to 4 on two, and nothing is known outside"):
        translate(made(), is_forward=True, value=4.5, flag="--min-score", scale=scale, head=A)
    with pytest.raises(InputError, match="fitted from 0 to 5 on one"):
        translate(
            made(), is_forward=False, value=-0.1, flag="--min-score", scale=Scale(said="one", kind="head", head=A), head=B
        )
    with pytest.raises(InputError, match="nothing is known outside"):  # nothing lies above the highest
        translate(made(), is_forward=True, value=4.0, flag="--min-score", scale=scale, head=A, is_strict=True)
    at_the_end = translate(made(), is_forward=True, value=4.0, flag="--min-score", scale=scale, head=A)
    assert at_the_end.used == 5.0
    assert str(at_the_end) == "4 on two is 5 on one (isotonic, 1,234 pictures, error 0.21)"
    assert translate(made(), is_forward=True, value=2.0, flag="--max-score", scale=scale, head=A).used == 3.0
    every = translate(made(), is_forward=True, value=4.0, flag="--max-score", scale=scale, head=A)
    assert (every.used, every.to_json()["used"]) == (math.inf, None)
    assert str(every).startswith("4 on two is any score on one")
    percent = replace(made(onto=None), kind="percentiles")
    for flag, value, used in (("--max-score", 100, math.inf), ("--min-score", 0, -math.inf), ("--min-score", 100, math.inf)):
        found = translate(percent, is_forward=True, value=value, flag=flag, scale=Scale.named("percentiles"), head=A)
        assert found.used == used


def test_maps_of_a_head_that_is_a_file_lie_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes(b"weights")
    assert folder_of(HeadKey(name="mine", hashes=("f" * 64,), place=str(file))) != tmp_path / "mine.scales"
    head = HeadKey(name="mine", hashes=(hashlib.sha256(b"weights").hexdigest(),), place=str(file))
    assert folder_of(head) == tmp_path / "mine.scales"
    keep_map(made(head))
    assert [path.name[:8] for path in (tmp_path / "mine.scales").iterdir()] == ["onto-two"]
    assert len(list(maps_of(head, []))) == 1


def test_public_heads_are_known_by_their_published_file() -> None:
    key = head_named("laion-v2")
    assert (key.name, key.short) == (V2, "laion-v2")
    assert HeadKey.of_record({"name": V2}) == key
    assert HeadKey.of_record({"name": None}) is None
    twin = HeadKey.of_record({"name": "ttj/sac-logos-ava1-l14-linearMSE", "sha256": "f" * 64})
    assert twin is not None
    assert twin.is_same(key)
