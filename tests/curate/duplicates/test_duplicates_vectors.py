"""Embeddings of a score set's rows, matched by sample, from every layout; and the groups of near-duplicates by name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.curate.duplicates.groups import GROUPS_SCHEMA, drop_near_duplicates
from beholder.curate.options import DedupMethod, SelectRules
from beholder.errors import InputError, OutputError
from beholder.scoreset.score_set import ScoreSet, open_scores
from beholder.scoreset.vectors import Vectors, load_vectors
from oracles.duplicates import keep_best

DIM = 20
NAMES = ["a/1.jpg", "a/2.jpg", "b/é.jpg", 'b/,"x".jpg', "t.tar/k", "t.tar/k#2", "z"]


def table_of(names: Any, column: str = "sample") -> pa.Table:
    return pa.table({column: list(names), "aesthetic_score": pa.array(np.linspace(7, 1, len(names)), pa.float32())})


@pytest.fixture
def rows() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((len(NAMES), DIM)).astype(np.float16)


def write_npy(folder: Path, names: Any, rows: np.ndarray, number: int = 0, column: str = "image_path") -> str:
    for kind in ("img_emb", "metadata"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    np.save(folder / "img_emb" / f"img_emb_{number}.npy", rows)
    pq.write_table(pa.table({column: list(names)}), folder / "metadata" / f"metadata_{number}.parquet")
    return str(folder)


def write_parquet(path: Path, names: Any, rows: np.ndarray, kind: Any = None) -> str:
    lists = pa.array(list(rows.astype(np.float32)), kind or pa.list_(pa.float32()))
    pq.write_table(pa.table({"sample": list(names), "embedding": lists}), path)
    return str(path)


def write_csv(path: Path, names: Any, rows: np.ndarray) -> str:
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    lines = [",".join(["sample", *map(str, range(rows.shape[1]))])]
    lines += [",".join([name, *(repr(float(v)) for v in row)]) for name, row in zip(quoted, rows, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def write_any(layout: str, folder: Path, names: Any, rows: np.ndarray) -> str:
    if layout == "npy":
        return write_npy(folder / "set", names, rows)
    if layout == "list":
        return write_parquet(folder / "e.parquet", names, rows)
    if layout == "fixed":
        return write_parquet(folder / "e.parquet", names, rows, pa.list_(pa.float32(), rows.shape[1]))
    if layout == "wide":
        columns = {str(i): rows[:, i].astype(np.float32) for i in range(rows.shape[1])}
        pq.write_table(pa.table({"sample": list(names), **columns}), folder / "e.parquet")
        return str(folder / "e.parquet")
    if layout == "npz":
        np.savez(folder / "e.npz", embeddings=rows, samples=np.array(names))
        return str(folder / "e.npz")
    return write_csv(folder / "e.csv", names, rows)


@pytest.fixture
def scores() -> Iterator[ScoreSet]:
    with open_scores(table_of(NAMES)) as found:
        yield found


LAYOUTS = ["npy", "list", "fixed", "wide", "npz", "csv"]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("permuted", [False, True])
def test_every_layout_in_any_order(layout: str, permuted: bool, tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    at = np.array([3, 0, 6, 5, 1, 2, 4]) if permuted else np.arange(7)
    source = write_any(layout, tmp_path, [NAMES[i] for i in at], rows[at])
    found = load_vectors(scores, source, scratch=tmp_path)
    assert found.dim == DIM
    assert found.matrix.shape == (7, 32)
    assert not found.matrix[:, DIM:].any()
    assert np.array_equal(found.matrix[found.place, :DIM].astype(np.float32), rows.astype(np.float32))
    assert found.matrix.dtype == (np.float16 if layout in ("npy", "npz") else np.float32)


def test_nothing_is_left_in_the_scratch_folder(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    source = write_npy(tmp_path / "set", NAMES, rows)
    load_vectors(scores, source, scratch=tmp_path / "scratch")
    assert list((tmp_path / "scratch").iterdir()) == []


def test_parts_and_names_that_agree_only_for_a_while(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    write_npy(tmp_path, NAMES[:3], rows[:3], 0)
    write_npy(tmp_path, ["unknown", *NAMES[4:]], rows[[0, 4, 5, 6]], 1)
    found = load_vectors(scores, str(tmp_path), scratch=tmp_path)
    assert (found.place >= 0).tolist() == [True, True, True, False, True, True, True]
    has = [0, 1, 2, 4, 5, 6]
    assert np.array_equal(found.matrix[found.place[has], :DIM], rows[has])


def test_only_the_rows_in_question_are_kept(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    for at in (np.arange(7), np.arange(7)[::-1]):
        source = write_parquet(tmp_path / "e.parquet", [NAMES[i] for i in at], rows[at])
        found = load_vectors(scores, source, scratch=tmp_path, rows=np.array([5, 2]))
        assert found.matrix.shape == (2, 32)
        assert (found.place >= 0).nonzero()[0].tolist() == [2, 5]
        assert np.array_equal(found.matrix[found.place[[2, 5]], :DIM], rows[[2, 5]].astype(np.float32))


def test_rows_without_a_direction_have_no_embedding(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    rows[1], rows[2, 3], rows[4, 0] = 0, np.nan, np.inf
    found = load_vectors(scores, write_npy(tmp_path, NAMES, rows), scratch=tmp_path)
    assert (found.place < 0).nonzero()[0].tolist() == [1, 2, 4]
    lists = pa.array([None, [1.0] * 3, *([1.0] * DIM for _ in range(5))], pa.list_(pa.float32()))
    swapped = pa.table({"sample": NAMES[::-1], "embedding": lists.take(pa.array(range(6, -1, -1)))})
    pq.write_table(swapped, tmp_path / "e.parquet")
    found = load_vectors(scores, str(tmp_path / "e.parquet"), scratch=tmp_path)
    assert (found.place < 0).nonzero()[0].tolist() == [0, 1]


def test_a_sample_twice_in_the_set_of_embeddings(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    twice = [*NAMES, NAMES[2]]
    same = write_parquet(tmp_path / "same.parquet", twice, rows[[*range(7), 2]])
    found = load_vectors(scores, same, scratch=tmp_path)
    assert np.array_equal(found.matrix[found.place, :DIM], rows.astype(np.float32))
    other = write_parquet(tmp_path / "other.parquet", twice, rows[[*range(7), 3]])
    with pytest.raises(InputError, match=r"'b/é.jpg' is there twice with different embeddings"):
        load_vectors(scores, other, scratch=tmp_path)
    inside = write_parquet(tmp_path / "inside.parquet", [NAMES[2], NAMES[2]], rows[:2])
    with pytest.raises(InputError, match="twice"):
        load_vectors(scores, inside, scratch=tmp_path)
    inside = write_parquet(tmp_path / "inside.parquet", [NAMES[2], NAMES[2]], rows[[0, 0]])
    assert (load_vectors(scores, inside, scratch=tmp_path).place >= 0).nonzero()[0].tolist() == [2]


def test_a_sample_twice_among_the_scores(tmp_path: Path, rows: np.ndarray) -> None:
    """By position each has its own; looked up, they share one."""
    names = ["x", "y", "x"]
    with open_scores(table_of(names)) as scores:
        found = load_vectors(scores, write_npy(tmp_path / "1", names, rows[:3]), scratch=tmp_path)
        assert np.array_equal(found.matrix[found.place, :DIM], rows[:3])
        found = load_vectors(scores, write_npy(tmp_path / "2", ["y", "x"], rows[:2]), scratch=tmp_path)
        assert np.array_equal(found.matrix[found.place, :DIM], rows[[1, 0, 1]])


def test_other_names_are_refused(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    source = write_npy(tmp_path, [f"other/{name}" for name in NAMES], rows)
    with pytest.raises(InputError, match=r"none of the pictures of the table: .* as 'other/a/1.jpg', .* as 'a/1.jpg'"):
        load_vectors(scores, source, scratch=tmp_path)


def test_names_come_from_the_column_that_the_scores_are_named_by(tmp_path: Path, rows: np.ndarray) -> None:
    (tmp_path / "img_emb").mkdir()
    (tmp_path / "metadata").mkdir()
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", rows)
    table = pa.table({"image_path": [str(i) for i in range(7)], "url": NAMES})
    pq.write_table(table, tmp_path / "metadata" / "metadata_0.parquet")
    with open_scores(table_of(NAMES, "url")) as scores:
        assert (load_vectors(scores, str(tmp_path), scratch=tmp_path).place >= 0).all()
    recorded = pa.table(table_of(NAMES)).replace_schema_metadata({"beholder": '{"options": {"sample_column": "url"}}'})
    with open_scores(recorded) as scores:
        assert (load_vectors(scores, str(tmp_path), scratch=tmp_path).place >= 0).all()


def test_parts_of_different_dimensions_are_refused(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    write_npy(tmp_path, NAMES[:3], rows[:3], 0)
    write_npy(tmp_path, NAMES[3:], rows[3:, :10], 1)
    with pytest.raises(InputError, match="10 dimensions"):
        load_vectors(scores, str(tmp_path), scratch=tmp_path)


def test_a_scratch_folder_that_cannot_be_written(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        load_vectors(scores, write_npy(tmp_path / "set", NAMES, rows), scratch=tmp_path / "file" / "inside")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_an_error_and_no_crash(tmp_path: Path, rows: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix is written with write(2), whose error is told; the file of this test is one that is always full."""
    with open_scores(table_of(NAMES)) as scores:
        source = write_npy(tmp_path, NAMES, rows)
        monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb+", buffering=0))  # noqa: SIM115
        with pytest.raises(OutputError, match="disk is full"):
            load_vectors(scores, source, scratch=tmp_path)


def test_the_backbone_is_noted(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    source = write_npy(tmp_path, NAMES, rows)
    assert load_vectors(scores, source, scratch=tmp_path).backbone is None
    (tmp_path / "beholder.json").write_text('{"backbone": "test/clip"}')
    assert load_vectors(scores, source, scratch=tmp_path).backbone == "test/clip"


def test_many_rows_over_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from beholder.scoreset import vectors

    monkeypatch.setattr(vectors, "_WRITE_BYTES", 1 << 12)
    rng = np.random.default_rng(3)
    rows, names = rng.standard_normal((5000, DIM)).astype(np.float16), np.array([f"{i:05d}" for i in range(5000)])
    order = np.arange(5000)
    order[3000:] = rng.permutation(order[3000:])
    source = write_npy(tmp_path, names[order], rows[order])
    told: list[tuple[int, int]] = []
    with open_scores(table_of(names)) as scores:
        found = load_vectors(scores, source, scratch=tmp_path, on_progress=lambda done, total: told.append((done, total)))
    assert np.array_equal(found.matrix[found.place, :DIM], rows)
    assert told[-1] == (5000, 5000)


@settings(max_examples=60)
@given(st.data())
def test_any_names_in_any_order(data: st.DataObject) -> None:
    """Against a dictionary: names that are missing, repeated, in or out of order, rows not asked for, in several parts."""
    known = [f"n{i}" for i in range(8)]
    ours = data.draw(st.lists(st.sampled_from(known), max_size=12))
    others = st.lists(st.sampled_from([*known, "other"]), min_size=1)
    theirs = data.draw(st.one_of(st.just(ours), st.just(list(dict.fromkeys(ours))), st.just(ours[:4]), others))
    theirs = theirs or ["other"]
    wanted = data.draw(st.lists(st.integers(0, len(ours) - 1), unique=True)) if ours else []
    value = {name: np.full(16, 1 + i, np.float16) for i, name in enumerate([*known, "other"])}
    cut = data.draw(st.integers(0, len(theirs)))
    with tempfile.TemporaryDirectory() as folder, open_scores(table_of(ours)) as scores:
        for number, names in enumerate((theirs[:cut], theirs[cut:])):
            write_npy(Path(folder), names, np.array([value[name] for name in names], np.float16).reshape(-1, 16), number)
        if ours and not set(ours) & set(theirs):
            with pytest.raises(InputError, match="none of the pictures"):
                load_vectors(scores, folder, scratch=Path(folder))
            return
        found = load_vectors(scores, folder, scratch=Path(folder), rows=np.array(wanted, np.int64))
    for row in wanted:
        if ours[row] in theirs:
            assert np.array_equal(found.matrix[found.place[row]], value[ours[row]])
        else:
            assert found.place[row] == -1
    assert len(found.matrix) <= len(wanted)


def test_a_matrix_that_kernels_cannot_read_is_refused() -> None:
    for matrix in (
        np.ones((2, 8), np.float32),
        np.ones((2, 16)),
        np.ones((16, 32), np.float32).T,
        np.ones((4, 64), "f4")[:, ::2],
    ):
        with pytest.raises(ValueError, match="multiple of 16"):
            Vectors(matrix, np.arange(2), 16)


def test_vectors_of_an_array() -> None:
    rows = np.ones((3, 5), np.float64)
    rows[1] = 0
    found = Vectors.of(rows)
    assert found.place.tolist() == [0, -1, 1]
    assert found.matrix.shape == (2, 16)
    assert found.matrix.dtype == np.float32


def test_dropped_rows_and_groups(tmp_path: Path, rows: np.ndarray) -> None:
    rows = rows[:4]
    wide = np.concatenate([rows, rows[:3] * np.float16(1.01), np.zeros((1, DIM), np.float16)])
    names = [f"s{i}" for i in range(8)]
    source = write_npy(tmp_path, names, wide)
    order = np.array([6, 1, 0, 3, 5, 4, 2, 7])
    methods: tuple[DedupMethod, ...] = ("exact", "auto")
    with open_scores(table_of(names)) as scores:
        told: list[tuple[str, int, int]] = []
        rule, again = (
            drop_near_duplicates(
                scores,
                source,
                order,
                SelectRules(dedup=0.95, dedup_method=method, num_threads=2),
                tmp_path,
                lambda stage, done, total: told.append((stage, done, total)),
            )
            for method in methods
        )
    assert rule.dropped.tolist() == [5, 4, 2]
    assert rule.num_without_embedding == 1
    assert rule.groups.schema == GROUPS_SCHEMA
    assert rule.groups.column("group").to_pylist() == [0, 0, 1, 1, 2, 2]
    assert rule.groups.column("sample").to_pylist() == ["s6", "s2", "s1", "s5", "s0", "s4"]
    assert rule.groups.column("kept").to_pylist() == [True, False] * 3
    assert rule.groups.column("row").to_pylist() == [6, 2, 1, 5, 0, 4]
    similar = keep_best(wide[order[:-1]], 0.95)[1].astype(np.float32)
    expected = [1.0, similar[6], 1.0, similar[4], 1.0, similar[5]]
    assert rule.groups.column("similarity").to_pylist() == pytest.approx(expected, abs=0)
    assert again.groups.equals(rule.groups)
    assert {stage for stage, _, _ in told} == {"embeddings read", "rows compared"}


def test_no_rows_and_no_duplicates_give_an_empty_table(tmp_path: Path, rows: np.ndarray, scores: ScoreSet) -> None:
    source = write_npy(tmp_path, NAMES, rows)
    for order in (np.empty(0, np.int64), np.arange(7)):
        rules = SelectRules(dedup=0.999, dedup_method="exact", num_threads=1)
        rule = drop_near_duplicates(scores, source, order, rules, tmp_path, lambda *_: None)
        assert rule.groups.num_rows == 0
        assert rule.groups.schema == GROUPS_SCHEMA
        assert len(rule.dropped) == 0


@pytest.mark.slow
@settings(max_examples=50, deadline=None)
@given(st.data())
def test_what_is_read_step_by_step_gives_what_reading_all_gives(data: st.DataObject) -> None:
    """Only the first so many that stay are wanted: all that is told of the rows that were looked at is as it is anyway."""
    num = data.draw(st.integers(1, 80))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    rows = rng.integers(-1, 2, (num, 3)).astype(np.float32)
    order, num_always = rng.permutation(num)[: data.draw(st.integers(1, num))], data.draw(st.integers(0, 2))
    num_always = min(num_always, len(order))
    more: dict[str, Any] = {"groups": rng.integers(0, 2, len(order)) if data.draw(st.booleans()) else None}
    most = data.draw(st.integers(max(1, num_always), num))
    with tempfile.TemporaryDirectory() as folder, open_scores(table_of([f"s{i}" for i in range(num)])) as scores:
        source = write_npy(Path(folder) / "set", [f"s{i}" for i in range(num)], rows)
        threshold = data.draw(st.sampled_from([0.7, 0.7, None]))  # None: compared with the reference alone
        rules = SelectRules(dedup=threshold, dedup_method="exact", num_threads=1)
        if threshold is None or data.draw(st.booleans()):
            np.save(Path(folder) / "r.npy", rng.integers(-1, 2, (2, 3)).astype(np.float16))
            rules = replace(rules, dedup_against=(f"{folder}/r.npy",), dedup_against_similarity=0.99)
        given_all = (scores, source, order, rules, Path(folder), lambda *_: None)
        whole = drop_near_duplicates(*given_all, num_always=num_always, **more)
        found = drop_near_duplicates(*given_all, num_always=num_always, most_stays=most, first_rows=2, **more)
    seen = order[: found.num_looked_at]
    gone = np.union1d(whole.dropped, whole.near_reference)
    stays = [row for row in order.tolist() if row not in gone]
    assert [row for row in seen.tolist() if row not in gone] == stays[:most]
    assert found.num_looked_at == (len(order) if len(stays) < most else order.tolist().index(stays[most - 1]) + 1)
    assert found.dropped.tolist() == [row for row in whole.dropped.tolist() if row in seen]
    assert found.near_reference.tolist() == [row for row in whole.near_reference.tolist() if row in seen]
    similar, expected = (
        {line["row"]: line["similarity"] for line in rule.groups.to_pylist() if not line["kept"] and line["row"] in seen}
        for rule in (found, whole)
    )
    assert similar == expected
