"""`--dedup` and what goes with it, against the slow reference: which picture stays, inside which groups, what must not leak."""

from __future__ import annotations

import csv
import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from beholder.cli.app import app
from beholder.curate.duplicates.group_files import open_groups
from beholder.curate.select.row_mask import RULES
from beholder.curate.select.selection import select
from beholder.errors import InputError
from oracles.duplicates import similarities, survivors

THRESHOLDS = [1.0, 0.99, 0.9, 0.75, 0.5]
DIM = 3


def write_embeddings(path: Path, names: list[str], rows: np.ndarray) -> str:
    lists = pa.array([None if not row.any() else row.tolist() for row in rows.astype(np.float32)], pa.list_(pa.float32(), DIM))
    pq.write_table(pa.table({"sample": names, "embedding": lists}), path)
    return str(path)


def similar_rows(*sets: np.ndarray) -> np.ndarray:
    """(N, N) similarities of all rows of all sets; NaN for rows of zeros."""
    rows = np.concatenate(sets).astype(np.float32)
    zero = ~rows.any(axis=1)
    found = similarities(np.where(zero[:, None], np.float32(1), rows))
    found[zero], found[:, zero] = np.nan, np.nan
    return found


KEEP: dict[str, Any] = {
    "score": lambda row: 0,
    "pixels": lambda row: None if not row["width"] or not row["height"] else row["width"] * row["height"],
    "bytes": lambda row: None if row["num_bytes"] is None or row["num_bytes"] < 0 else row["num_bytes"],
    "width - height": lambda row: None if row["width"] is None or row["height"] is None else row["width"] - row["height"],
    "label = 'a'": lambda row: None if row["label"] is None else int(row["label"] == "a"),
    "-aesthetic_score": lambda row: -row["aesthetic_score"],
    "CASE WHEN width = 2 THEN 'nan'::DOUBLE ELSE width END": lambda row: None if row["width"] == 2 else row["width"],
}
"""What may stay -> its value of a row, the highest first; None where it is not known."""


@st.composite
def sets(draw: st.DrawFn) -> tuple[pa.Table, np.ndarray]:
    """A table of scores with ties and gaps, and an embedding of small whole numbers for each row."""
    num = draw(st.integers(1, 14))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def some(values: list[Any]) -> list[Any]:
        return [values[at] for at in rng.integers(0, len(values), num)]

    names = [f"{folder}/{at:02d}" for at, folder in zip(rng.permutation(num), some(["a", "b"]), strict=True)]
    table = pa.table({
        "sample": names,
        "aesthetic_score": pa.array(some([4.0, 5.0, 6.0]), pa.float32()),
        "width": pa.array(some([None, 0, 1, 2, 3]), pa.int32()),
        "height": pa.array(some([None, 1, 2]), pa.int32()),
        "num_bytes": pa.array(some([None, -1, 10, 20]), pa.int64()),
        "label": pa.array(some(["a", "b", None]), pa.string()),
    })  # fmt: skip
    return table, rng.integers(-1, 3, (num, DIM))


@settings(max_examples=40, deadline=None)
@given(sets(), st.data())
def test_what_stays_is_what_the_slow_reference_keeps(given_set: tuple[pa.Table, np.ndarray], data: st.DataObject) -> None:
    table, rows = given_set
    lines = table.to_pylist()
    names = [line["sample"] for line in lines]
    keep = data.draw(st.sampled_from(list(KEEP)))
    per = data.draw(st.sampled_from([None, "label", "folder"]))
    threshold = data.draw(st.sampled_from(THRESHOLDS))
    marked = data.draw(st.sets(st.sampled_from(range(len(names))), max_size=3))
    references = data.draw(st.lists(st.lists(st.integers(-1, 2), min_size=DIM, max_size=DIM), max_size=3))
    against = data.draw(st.sampled_from([None, *THRESHOLDS]))
    top = data.draw(st.sampled_from([None, 1, 3]))
    with tempfile.TemporaryDirectory() as folder:
        rules: dict[str, Any] = {
            "dedup": threshold, "dedup_keep": keep, "embeddings": write_embeddings(Path(folder) / "e.parquet", names, rows)
        }  # fmt: skip
        rules |= {"dedup_per": per} if per else {}
        rules |= {"top": top} if top else {}
        if references:
            halves = [references[::2], references[1::2]]
            rules["dedup_against"] = [
                write_embeddings(Path(folder) / f"r{at}.parquet", [f"r{n}" for n in range(len(half))], np.array(half))
                for at, half in enumerate(halves)
                if half
            ]
            rules |= {"dedup_against_similarity": against} if against else {}
        if marked:
            (Path(folder) / "m.jsonl").write_text(
                "".join(json.dumps({"sample": names[row], "mark": "keep"}) + "\n" for row in marked)
            )
            rules["marks"] = Path(folder) / "m.jsonl"
        with select(table, **rules) as selection:
            words = [RULES[number] for number in selection.dropped_by]
            near_of = [line for line in selection.groups.to_pylist() if line["reference"] is not None]
            groups = [line for line in selection.groups.to_pylist() if line["reference"] is None]
            decisions = selection.decisions().to_pylist()

    similar = similar_rows(rows, np.array(references, int).reshape(-1, DIM))
    ranked = sorted(range(len(names)), key=lambda row: (row not in marked, -lines[row]["aesthetic_score"], names[row]))
    value = {row: KEEP[keep](lines[row]) for row in ranked}
    claim = sorted(ranked, key=lambda row: (row not in marked, value[row] is None, -(value[row] or 0)))  # stable
    limit = against or threshold
    leaks = {row for row in ranked if row not in marked and (similar[row, len(names) :] >= limit).any()}
    of = {row: {"label": lines[row]["label"], "folder": names[row].split("/")[0], None: 0}[per] for row in ranked}
    keeper = survivors([row for row in claim if row not in leaks], similar, threshold, always=frozenset(marked), group_of=of)
    stay = [row for row in ranked if keeper.get(row) == row]
    stay = stay[: max(top, sum(row in marked for row in stay))] if top else stay
    expected = ["near_reference" if row in leaks else "duplicate" if keeper[row] != row else "top" for row in range(len(names))]
    assert words == ["" if row in stay else expected[row] for row in range(len(names))]
    found = {line["row"]: line["group"] for line in groups}
    kept = {line["group"]: line["row"] for line in groups if line["kept"]}
    assert {row: kept[group] for row, group in found.items() if row != kept[group]} == {
        row: other for row, other in keeper.items() if row != other
    }
    assert [line["row"] for line in groups if line["kept"]] == [row for row in claim if row in kept.values()]
    named = [f"r{n}" for half in (references[::2], references[1::2]) for n in range(len(half))]
    order = [at for start in (0, 1) for at in range(start, len(references), 2)]  # as they are given to select
    assert {line["row"] for line in near_of} == leaks
    assert {line["group"] for line in near_of}.isdisjoint(kept)
    told = {line["row"]: (line["reference"], line["similarity"]) for line in near_of}
    for row, line in enumerate(decisions):
        assert line["sample"] == names[row]
        if row in leaks:
            to = np.nan_to_num(similar[row, len(names) :][order], nan=-2)  # a reference without a direction is near to none
            assert told[row] == (line["near_to"], line["similarity"])
            assert line["near_to"] == named[int(np.argmax(to))]
            assert abs(line["similarity"] - to.max()) < 1e-6
        elif keeper[row] != row:
            assert line["near_to"] == names[keeper[row]]
            assert abs(line["similarity"] - similar[row, keeper[row]]) < 1e-6
        else:
            assert (line["near_to"], line["similarity"]) == (None, None)


def pictures_table(**more: Any) -> pa.Table:
    """Six rows, the better ones first; 0, 1 and 2 are alike, and 3 and 4."""
    columns = {
        "sample": [f"{at}.jpg" for at in range(6)],
        "aesthetic_score": pa.array([6.0, 5.5, 5, 4.5, 4, 3.5], pa.float32()),
    }
    return pa.table(columns | more)


ALIKE = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [0, 1, 0], [0, 5, 0], [0, 0, 1]])


@pytest.fixture
def embeddings(tmp_path: Path) -> str:
    return write_embeddings(tmp_path / "e.parquet", [f"{at}.jpg" for at in range(6)], ALIKE)


def test_the_summary_says_how_many_groups_would_keep_another_picture_by_pixels(embeddings: str) -> None:
    sides = [10, 20, 10, 30, 30, 5]
    table = pictures_table(width=sides, height=[10] * 6)
    with select(table, dedup=0.95, embeddings=embeddings) as selection:
        assert selection.selection.notes == [
            "a picture with more pixels than the one kept is in 1 of 2 groups of near-duplicates; "
            "--dedup-keep pixels keeps the largest"
        ]
        assert selection.kept_rows().column("sample").to_pylist() == ["0.jpg", "3.jpg", "5.jpg"]
    with select(table, dedup=0.95, dedup_keep="pixels", embeddings=embeddings) as selection:
        assert selection.selection.notes == []
        assert selection.kept_rows().column("sample").to_pylist() == ["1.jpg", "3.jpg", "5.jpg"]  # 3 and 4 tie: the better
        assert "keeping most pixels" in selection.funnel[0].text
    with select(pictures_table(), dedup=0.95, embeddings=embeddings) as selection:  # nothing is known of pixels
        assert selection.selection.notes == []


def test_what_is_not_known_is_counted_and_comes_last(embeddings: str) -> None:
    table = pictures_table(width=[None, 1, None, None, None, 1], height=[1] * 6)
    with select(table, dedup=0.95, dedup_keep="pixels", embeddings=embeddings) as selection:
        assert selection.kept_rows().column("sample").to_pylist() == ["1.jpg", "3.jpg", "5.jpg"]
        assert selection.selection.notes == [
            "--dedup-keep pixels: the size in pixels of 4 of 6 rows is not known; all others go before them"
        ]


def test_columns_of_a_csv_are_numbers_where_they_are_meant_so(tmp_path: Path, embeddings: str) -> None:
    scores = tmp_path / "s.csv"
    lines = ["sample,aesthetic_score,width,height,num_bytes,code"]
    lines += [f"{at}.jpg,{6 - at / 2},{width},10,{size},{at}" for at, (width, size) in enumerate(
        [(9, 7), (10, 8), (9, 100), (5, 5), (5, 5), (5, 5)]
    )]  # fmt: skip
    scores.write_text("\n".join(lines) + "\n")
    for keep, best in (("pixels", 1), ("bytes", 2), ("width", 1), ("num_bytes", 2), ("code", 2), ("-code", 0)):
        with select(scores, dedup=0.95, dedup_keep=keep, embeddings=embeddings) as selection:
            assert f"{best}.jpg" in selection.kept_rows().column("sample").to_pylist(), keep


@pytest.mark.parametrize(
    ("rules", "text"),
    [
        ({"dedup": 0.9, "dedup_keep": "pixels"}, "--dedup-keep pixels needs the column width, which is not there (label)"),
        ({"dedup": 0.9, "dedup_keep": "bytes"}, "--dedup-keep bytes needs the column num_bytes"),
        ({"dedup": 0.9, "dedup_keep": "oldest"}, "--dedup-keep oldest: no picture is a local file whose time is known"),
        ({"dedup": 0.9, "dedup_keep": "pixel"}, "words that are no columns: score, pixels, bytes, oldest"),
        ({"dedup": 0.9, "dedup_keep": "label"}, "--dedup-keep 'label' gives values of VARCHAR, not numbers"),
        ({"dedup": 0.9, "dedup_keep": "1; 2"}, "one condition without ';'"),
        ({"dedup": 0.9, "dedup_keep": " "}, "--dedup-keep is empty"),
        ({"dedup": 0.9, "dedup_per": "nothing"}, "--dedup-per nothing: there is no such column"),
        ({"dedup": "exact_bytes"}, "--dedup exact_bytes: give a cosine similarity, for example 0.95, or exact-bytes"),
        ({"dedup": "nan"}, "--dedup nan: give a cosine similarity above 0"),
        (
            {"dedup": 0.9, "dedup_method": "quick"},
            "'quick' for near-duplicates; choose auto, exact, approximate",
        ),
        ({"dedup": "exact-bytes", "dedup_method": "exact"}, "--dedup-method is for --dedup with a similarity"),
        ({"top": 1, "dedup_keep": "pixels"}, "--dedup-keep is for --dedup"),
        ({"top": 1, "dedup_per": "label"}, "--dedup-per is for --dedup"),
        ({"top": 1, "dedup_against_similarity": 0.9}, "--dedup-against-similarity is for --dedup-against"),
        ({"dedup_against": "EMBEDDINGS"}, "--dedup-against needs a similarity"),
        (
            {"dedup_against": "EMBEDDINGS", "dedup_against_similarity": 7},
            "--dedup-against-similarity 7: give a cosine similarity",
        ),
        ({"dedup": 0.9, "dedup_against": "/nothing/here"}, "/nothing/here"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(embeddings: str, rules: dict[str, Any], text: str) -> None:
    table = pictures_table(label=list("aabbcc"))
    if rules.get("dedup_against") == "EMBEDDINGS":
        rules = rules | {"dedup_against": embeddings}
    if rules.get("dedup") == 0.9:
        rules = rules | {"embeddings": embeddings}
    with pytest.raises(InputError) as found:
        select(table, **rules)
    assert text in str(found.value)
    assert "\n" not in str(found.value)


def test_reference_sets_of_another_model_are_refused(tmp_path: Path, embeddings: str) -> None:
    np.save(tmp_path / "wide.npy", np.ones((2, DIM + 1), np.float32))
    with pytest.raises(InputError, match=r"wide\.npy has embeddings of 4 dimensions.*have 3"):
        select(pictures_table(), dedup_against=tmp_path / "wide.npy", dedup_against_similarity=0.9, embeddings=embeddings)
    np.save(tmp_path / "other.npy", np.ones((2, DIM), np.float32))
    for path, backbone in ((embeddings, "ViT-L/14"), (tmp_path / "other.npy", "ViT-B/32")):
        Path(f"{path}.beholder.json").write_text(json.dumps({"backbone": backbone}))
    with pytest.raises(InputError, match="ViT-B/32 by its stamp, the pictures' embeddings are of ViT-L/14"):
        select(pictures_table(), dedup_against=tmp_path / "other.npy", dedup_against_similarity=0.9, embeddings=embeddings)


def test_a_reference_alone_drops_no_near_duplicates_and_says_what_it_had(tmp_path: Path, embeddings: str) -> None:
    np.save(tmp_path / "test.npy", np.array([[0, 3, 0.1], [0, 0, 0], [np.nan, 1, 1]], np.float16))
    with select(
        pictures_table(), dedup_against=tmp_path / "test.npy", dedup_against_similarity=0.9, embeddings=embeddings
    ) as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["", "", "", "near_reference", "near_reference", ""]
        (step,) = selection.funnel
        assert (step.word, step.dropped, step.note) == (
            "near_reference", 2, "1 in the reference; 2 more without an embedding; exact",
        )  # fmt: skip
        assert selection.groups.column("reference").to_pylist() == ["test.npy#0"] * 2
        assert selection.groups.column("row").to_pylist() == [3, 4]
        assert selection.groups.column("kept").to_pylist() == [False, False]


def test_lists_name_what_a_dropped_picture_is_near_to(tmp_path: Path, embeddings: str) -> None:
    """Of near-duplicates and of a reference set with odd names, by the slow reference; in CSV, Parquet and the group file."""
    names = ['odd, "name".jpg', "0.jpg"]  # the second is also the name of a picture of the set
    vectors = np.array([[0, 3, 0.1], [0, 5, 0.2]], np.float32)
    write_embeddings(tmp_path / "test.parquet", names, vectors)
    pq.write_table(pictures_table(), tmp_path / "s.parquet")
    lists = {"decisions": "d.csv", "dropped": "x.parquet", "groups": "g.csv"}
    flags = [part for name, path in lists.items() for part in (f"--{name}", str(tmp_path / path))]
    dedup = ["--dedup", "0.9", "--dedup-against", str(tmp_path / "test.parquet"), "--embeddings", embeddings]
    done = CliRunner().invoke(app, ["select", str(tmp_path / "s.parquet"), *dedup, *flags])
    assert done.exit_code == 0, done.output
    similar = similar_rows(ALIKE, vectors)
    nearest = similar[3:5, 6:].argmax(axis=1)
    expected = [
        ("1.jpg", "duplicate", "0.jpg", similar[1, 0]),
        ("2.jpg", "duplicate", "0.jpg", similar[2, 0]),
        ("3.jpg", "near_reference", names[nearest[0]], similar[3, 6 + nearest[0]]),
        ("4.jpg", "near_reference", names[nearest[1]], similar[4, 6 + nearest[1]]),
    ]
    dropped = pq.read_table(tmp_path / "x.parquet").to_pylist()
    assert [(row["sample"], row["dropped_by"], row["near_to"]) for row in dropped] == [row[:3] for row in expected]
    assert np.allclose([row["similarity"] for row in dropped], [row[3] for row in expected], atol=1e-6)
    with (tmp_path / "d.csv").open(newline="") as file:
        decisions = list(csv.DictReader(file))
    assert [row["near_to"] for row in decisions] == ["", *(row[2] for row in expected), ""]
    with (tmp_path / "g.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(line["sample"], line["reference"]) for line in lines if line["reference"]] == [
        (row[0], row[2]) for row in expected if row[1] == "near_reference"
    ]
    whole, alone = (open_groups(str(tmp_path / "g.csv"), tmp_path, with_references=wanted) for wanted in (True, False))
    with duckdb.connect() as connection:
        counts = [connection.sql(f"SELECT count(*) FROM {found.table}").fetchall()[0] for found in (whole, alone)]
    assert counts == [(5,), (3,)]  # what report shows has none that is near to a reference


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Pictures with other bytes and sizes; a is c and e, b has their size, d is alone, f is gone."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in {"a": b"xx" * 50, "b": b"xy" * 50, "c": b"xx" * 50, "d": b"alone", "e": b"xx" * 50}.items():
        (folder / f"{name}.jpg").write_bytes(data)
    return folder


SIZES = {"a": 100, "b": 100, "c": 100, "d": 5, "e": 100, "f": 100}


def write_scores(path: Path, samples: list[str], source: Path, **more: Any) -> Path:
    """Scores, the best first, whose record says where the pictures are."""
    record = {"pictures": {"sources": [str(source)], "folder": str(path.parent)}}
    scores = pa.array(np.arange(len(samples), 0, -1), pa.float32())
    table = pa.table({"sample": samples, "aesthetic_score": scores} | more)
    pq.write_table(table.replace_schema_metadata({b"beholder": json.dumps(record).encode()}), path)
    return path


def test_the_same_bytes_in_local_files(photos: Path, tmp_path: Path) -> None:
    names = [f"{photos}/{name}.jpg" for name in SIZES]
    for sizes in (list(SIZES.values()), None, [100, 100, None, 5, 100, 100]):
        more = {} if sizes is None else {"num_bytes": pa.array(sizes, pa.int64())}
        scores = write_scores(tmp_path / "s.parquet", names, photos, **more)
        with select(scores, dedup="exact-bytes") as selection:
            assert [RULES[number] for number in selection.dropped_by] == ["", "", "duplicate", "", "duplicate", ""]
            assert selection.funnel[0].note == "4 of 6 read"
            (note,) = selection.selection.notes
            assert note.startswith(f"1 picture could not be read, so it stays (the first: {photos}/f.jpg: ")
            groups = selection.groups.to_pylist()
            assert [(line["group"], line["row"], line["kept"]) for line in groups] == [
                (0, 0, True),
                (0, 2, False),
                (0, 4, False),
            ]
            assert {line["similarity"] for line in groups} == {1.0}
            near_to = [line["near_to"] for line in selection.decisions().to_pylist()]
            assert near_to == [None, None, names[0], None, names[0], None]


@pytest.mark.parametrize("has_alike", [True, False])
def test_the_same_bytes_and_a_reference_together(photos: Path, tmp_path: Path, has_alike: bool) -> None:
    """f.jpg and d.jpg are near to the reference; of a, c and e, which hold the same bytes, a stays. All are in the lists."""
    if not has_alike:
        for name in "ce":
            (photos / f"{name}.jpg").write_bytes(name.encode())
    names = [f"{photos}/{name}.jpg" for name in SIZES]
    scores = write_scores(tmp_path / "s.parquet", names, photos)
    vectors = np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 2]], np.float32)
    embeddings = write_embeddings(tmp_path / "e.parquet", names, vectors)
    reference = write_embeddings(tmp_path / "r.parquet", ["up", "left"], np.array([[0, 0, 1], [0, 3, 0]], np.float32))
    groups, decisions = tmp_path / "g.jsonl", tmp_path / "d.parquet"
    flags = ["--dedup", "exact-bytes", "--dedup-against", reference, "--dedup-against-similarity", "0.9"]
    lists = ["--groups-out", str(groups), "--decisions-out", str(decisions)]
    done = CliRunner().invoke(app, ["select", str(scores), *flags, "--embeddings", embeddings, *lists])
    assert done.exit_code == 0, done.output
    alike = [(0, names[0], True, None), (0, names[2], False, None), (0, names[4], False, None)] if has_alike else []
    lines = [json.loads(line) for line in groups.read_text().splitlines()]
    assert [(line["group"], line["sample"], line["kept"], line["reference"]) for line in lines] == [
        *alike,
        (has_alike, names[3], False, "left"),
        (has_alike + 1, names[5], False, "up"),
    ]
    rows = pq.read_table(decisions).to_pylist()
    told = {row["sample"]: (row["dropped_by"], row["near_to"], row["similarity"]) for row in rows}
    same = ("duplicate", names[0], 1.0) if has_alike else (None, None, None)
    left, up = ("near_reference", "left", 1.0), ("near_reference", "up", 1.0)
    assert told == dict(zip(names, [(None, None, None), (None, None, None), same, left, same, up], strict=True))


def test_the_oldest_of_the_same_bytes_stays(photos: Path, tmp_path: Path) -> None:
    times = {"a": 300, "b": 1, "c": 200, "d": 1, "e": 200}
    for name, seconds in times.items():
        os.utime(photos / f"{name}.jpg", (seconds, seconds))
    names = [f"{photos}/{name}.jpg" for name in SIZES]
    scores = write_scores(tmp_path / "s.parquet", names, photos, num_bytes=list(SIZES.values()), label=list("xxyxyy"))
    with select(scores, dedup="exact-bytes", dedup_keep="oldest") as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["duplicate", "", "", "", "duplicate", ""]  # c and e tie
    with select(scores, dedup="exact-bytes", dedup_keep="oldest", dedup_per="label") as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["", "", "", "", "duplicate", ""]
    marks = tmp_path / "m.jsonl"
    marks.write_text("".join(json.dumps({"sample": names[at], "mark": "keep"}) + "\n" for at in (0, 4)))
    with select(scores, dedup="exact-bytes", marks=marks) as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["", "", "duplicate", "", "", ""]


def test_the_oldest_of_near_duplicates_stays_and_what_has_no_time_is_told(photos: Path, tmp_path: Path) -> None:
    names = [f"{photos}/{name}.jpg" for name in SIZES]
    for at, name in enumerate("abcde"):
        os.utime(photos / f"{name}.jpg", (1000 - at, 1000 - at))
    scores = write_scores(tmp_path / "s.parquet", names, photos)
    found = write_embeddings(tmp_path / "e.parquet", names, ALIKE[[0, 0, 0, 3, 3, 3]])
    with select(scores, dedup=0.9, dedup_keep="oldest", embeddings=found) as selection:
        assert [RULES[number] for number in selection.dropped_by] == [
            "duplicate",
            "duplicate",
            "",
            "duplicate",
            "",
            "duplicate",
        ]
        assert selection.selection.notes == [
            "--dedup-keep oldest: the file time of 1 of 6 rows is not known (no local file of its own, or one that has gone); "
            "all others go before them"
        ]


def test_pictures_are_looked_for_where_they_are_now(photos: Path, tmp_path: Path) -> None:
    """Names count from a folder that has moved since; so do file times."""
    for at, name in enumerate("abcde"):
        os.utime(photos / f"{name}.jpg", (1000 - at, 1000 - at))
    scores = write_scores(tmp_path / "s.parquet", [f"photos/{name}.jpg" for name in "abcde"], Path("photos"))
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    photos.rename(moved / "photos")
    with select(scores, dedup="exact-bytes", dedup_keep="oldest", root=moved) as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["duplicate", "", "duplicate", "", ""]
        assert selection.selection.notes == []
    with select(scores, dedup="exact-bytes", dedup_keep="oldest", pictures=moved / "photos") as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["duplicate", "", "duplicate", "", ""]
    with select(scores, dedup="exact-bytes") as selection:
        assert selection.num_kept == 5
        assert selection.selection.notes[0].startswith("5 pictures could not be read, so they stay (the first: photos/a.jpg: ")


def test_sizes_that_changed_since_are_found_out_by_reading(photos: Path, tmp_path: Path) -> None:
    """One was recorded with the size of another, and holds what a third one holds now."""
    (photos / "b.jpg").write_bytes(b"alone")
    names = [f"{photos}/{name}.jpg" for name in "abd"]
    scores = write_scores(tmp_path / "s.parquet", names, photos, num_bytes=[100, 100, 5])
    with select(scores, dedup="exact-bytes") as selection:
        assert [RULES[number] for number in selection.dropped_by] == ["", "", "duplicate"]
        assert selection.funnel[0].note == "3 of 3 read"


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "zip", "parquet"])
def test_the_same_bytes_in_archives_and_tables(photos: Path, tmp_path: Path, kind: str) -> None:
    import zipfile

    path = tmp_path / f"set.{kind}"
    files = sorted(photos.glob("*.jpg"))
    names = [f"{path}/{file.stem}" for file in files]
    if kind.startswith("tar"):
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as archive:
            for file in files:
                archive.add(file, file.name)
    elif kind == "zip":
        names = [f"{path}/{file.name}" for file in files]
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in files:
                archive.write(file, file.name)
    else:
        names = [f"row {file.stem}" for file in files]
        cells = pa.array([{"bytes": file.read_bytes(), "path": file.name} for file in files])
        pq.write_table(pa.table({"sample": names, "image": cells}), path)
    for more in ({}, {"num_bytes": [100, 100, 100, 5, 100]}):
        scores = write_scores(tmp_path / "s.parquet", names, path, **more)
        with select(scores, dedup="exact-bytes") as selection:
            assert [RULES[number] for number in selection.dropped_by] == ["", "", "duplicate", "", "duplicate"]
            assert selection.selection.notes == []


def test_the_same_bytes_on_a_server(photos: Path, tmp_path: Path) -> None:
    from oracles.web import Answer, Server, running

    class Files(Answer):
        def answer(self, *, with_body: bool) -> None:
            file = photos / self.name
            self.send(200, file.read_bytes()) if file.exists() else self.send(404, b"")

    with running(Server(Files)) as server:
        names = [f"{server.url}/{name}.jpg" for name in SIZES]
        (tmp_path / "list.txt").write_text("\n".join(names) + "\n")
        scores = write_scores(tmp_path / "s.parquet", names, tmp_path / "list.txt")
        with select(scores, dedup="exact-bytes") as selection:
            assert [RULES[number] for number in selection.dropped_by] == ["", "", "duplicate", "", "duplicate", ""]
            assert "1 picture could not be read" in selection.selection.notes[0]


MANY = 66_000


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """So many rows that `--top` ends the comparison early: every third row is alike to one that is ranked far better."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(2)
    rows = rng.standard_normal((MANY, 16)).astype(np.float16)
    rows[2::3] = rows[rng.integers(0, 300, len(rows[2::3]))]
    names = [f"{at:05d}" for at in rng.permutation(MANY)]
    scores = pa.array(-np.round(np.arange(MANY) / 7), pa.float32())
    pq.write_table(pa.table({"sample": names, "aesthetic_score": scores}), folder / "s.parquet")
    (folder / "set" / "img_emb").mkdir(parents=True)
    (folder / "set" / "metadata").mkdir()
    np.save(folder / "set" / "img_emb" / "img_emb_0.npy", rows)
    pq.write_table(pa.table({"image_path": names}), folder / "set" / "metadata" / "metadata_0.parquet")
    return str(folder / "s.parquet"), str(folder / "set")


@pytest.mark.slow
def test_top_ends_the_comparison_early_with_the_result_of_the_whole_one(many: tuple[str, str], tmp_path: Path) -> None:
    scores, embeddings = many
    with select(scores, dedup=0.99, embeddings=embeddings) as whole:
        best = whole.kept_rows().column("sample").to_pylist()
        num_dropped = whole.funnel[0].dropped
    with select(scores, dedup=0.99, top=500, embeddings=embeddings) as few:
        assert few.selection.num_looked_at is not None
        assert few.selection.num_looked_at < 1000
        assert few.kept_rows().column("sample").to_pylist() == best[:500]
        assert few.selection.done_steps[0].note == (
            f"exact; ended after the best {few.selection.num_looked_at} rows, as 500 of them stay"
        )
        # what became of all rows is told as if all had been compared
        words = [RULES[number] for number in few.dropped_by]
        assert words.count("duplicate") == few.funnel[0].dropped == num_dropped
        assert words.count("") == 500
        assert few.groups.num_rows > num_dropped
    out, decisions = tmp_path / "kept.txt", tmp_path / "d.parquet"
    line = ["select", scores, "--dedup", "0.99", "--top", "500", "--embeddings", embeddings]
    result = CliRunner().invoke(app, [*line, "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert "ended after the best" in json.loads(result.stdout)["funnel"][0]["note"]
    assert out.read_text().split() == best[:500]
    result = CliRunner().invoke(app, [*line, "-o", str(out), "--overwrite", "--decisions-out", str(decisions), "--json"])
    assert json.loads(result.stdout)["funnel"][0]["note"] == "exact"
    assert out.read_text().split() == best[:500]
    assert pq.read_table(decisions).column("dropped_by").to_pylist().count("duplicate") == num_dropped


def test_the_command_takes_the_flags(tmp_path: Path, embeddings: str) -> None:
    np.save(tmp_path / "test.npy", np.array([[0, 0, 2]], np.float32))
    pq.write_table(pictures_table(width=[1, 2, 3, 4, 5, 6], height=[1] * 6, kind=list("aabbbb")), tmp_path / "s.parquet")
    out = tmp_path / "kept.txt"
    line = ["select", str(tmp_path / "s.parquet"), "--dedup", "0.95", "--dedup-keep", "pixels", "--dedup-per", "kind",
            "--dedup-against", str(tmp_path / "test.npy"), "--embeddings", embeddings, "-o", str(out), "--json"]  # fmt: skip
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    assert out.read_text().split() == ["1.jpg", "2.jpg", "4.jpg"]
    summary = json.loads(result.stdout)
    assert [step["text"] for step in summary["funnel"]] == [
        f"not near {tmp_path / 'test.npy'}, similarity < 0.95",
        "near-duplicates, similarity >= 0.95, inside each kind, keeping most pixels",
    ]
    assert summary["rules"]["dedup"] == 0.95
    result = CliRunner().invoke(app, ["select", str(tmp_path / "s.parquet"), "--dedup", "much"])
    assert "--dedup much: give a cosine similarity, for example 0.95, or exact-bytes" in str(result.exception)
