"""The representation table, against pandas."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beholder.curate.advise import rows as advice_rows
from beholder.curate.advise.advice import Advice, advise
from beholder.curate.advise.representation import ColumnTable

OUTER = 5.0


def frame_of(rows: int, seed: int = 0, **more: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    scores = rng.normal(4.8, 0.6, rows).astype(np.float32)
    return pd.DataFrame({"sample": [f"{i:07d}.jpg" for i in range(rows)], "aesthetic_score": scores, **more})


def table_of(advice: Advice, column: str) -> ColumnTable:
    return next(table for table in advice.tables if table.column == column)


def assert_like_pandas(table: ColumnTable, groups: pd.Series, scores: pd.Series, at: float = OUTER) -> None:
    """Counts and shares of every group are pandas' (NULL a group, rows without a score in none)."""
    known = scores[np.isfinite(scores.astype(float))]
    kept = known.astype(float) >= at
    labels = groups.loc[known.index].map(lambda value: "<null>" if value is None or value is pd.NA or value != value else value)
    sizes, stay = kept.groupby(labels).size(), kept.groupby(labels).sum()
    found = {group.value if group.value is not None else "<null>": group for group in table.groups}
    assert set(found) == set(sizes.index)
    assert (table.num_rows, table.num_kept) == (len(known), kept.sum())
    for value, group in found.items():
        assert (group.num_rows, group.num_kept) == (sizes[value], stay[value]), value
        assert group.share_kept == pytest.approx(stay[value] / sizes[value])
        assert group.share_of_all == pytest.approx(sizes[value] / len(known))
        if kept.any():
            assert group.share_of_kept == pytest.approx(stay[value] / kept.sum())
            assert group.ratio == pytest.approx((stay[value] / kept.sum()) / (sizes[value] / len(known)))
            assert group.ratio_low is not None
            assert group.ratio_high is not None
            assert group.ratio_low - 1e-12 <= group.ratio <= group.ratio_high + 1e-12
        else:
            assert (group.share_of_kept, group.ratio, group.verdict) == (None, None, "unclear")


@pytest.mark.slow
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "", "é", "x'y", None]),
            st.one_of(st.none(), st.just(float("nan")), st.just(OUTER), st.floats(0, 10, width=32)),
            st.one_of(st.none(), st.booleans()),
        ),
        max_size=60,
    )
)
@settings(max_examples=40)
def test_values_are_counted_as_pandas_counts_them(rows: list[tuple[str | None, float | None, bool | None]]) -> None:
    names, scores, flags = ([row[at] for row in rows] for at in range(3))
    table = pa.table(
        {
            "sample": pa.array([f"s{i}" for i in range(len(rows))], pa.string()),
            "aesthetic_score": pa.array(scores, pa.float32()),
            "name": pa.array(names, pa.string()),
            "flag": pa.array(flags, pa.bool_()),
        }
    )
    advice = advise(table, at=OUTER)
    numbers = pd.Series([np.nan if score is None else score for score in scores], dtype="float64")
    assert advice.num_scored == numbers.notna().sum()
    texts = {True: "true", False: "false", None: None}
    for column, groups in (
        ("name", pd.Series(names, dtype=object)),
        ("flag", pd.Series([texts[flag] for flag in flags], dtype=object)),
    ):
        if groups[numbers.notna()].nunique(dropna=False) < 2:
            assert column not in [found.column for found in advice.tables]
            continue
        assert_like_pandas(table_of(advice, column), groups, numbers)


def test_few_numbers_are_values_and_many_are_bins_of_about_equal_counts() -> None:
    frame = frame_of(5000)
    rng = np.random.default_rng(1)
    frame["stars"] = rng.integers(1, 6, len(frame)).astype(float)
    frame.loc[::7, "stars"] = np.nan
    frame["width"] = rng.integers(64, 4096, len(frame))
    frame["depth"] = np.where(rng.random(len(frame)) < 0.2, 0.0, rng.normal(0, 100, len(frame)))
    advice = advise(frame, at=OUTER)
    stars = table_of(advice, "stars")
    assert stars.kind == "value"
    assert_like_pandas(stars, frame.stars.map(lambda v: None if v != v else f"{v:.0f}").astype(object), frame.aesthetic_score)
    for column, most in (("width", 0.12), ("depth", 0.25)):
        table = table_of(advice, column)
        assert table.kind == "bin"
        ascending = sorted(table.groups, key=lambda group: group.order)
        edges = [[float(edge.replace(",", "")) for edge in str(group.value).split(" to ")] for group in ascending]
        assert sum(group.num_rows for group in ascending) == len(frame)
        assert max(group.share_of_all for group in ascending) < most
        for (low, high), group in zip([(pair[0], pair[-1]) for pair in edges], ascending, strict=True):
            slack = 1e-5 * max(abs(low), abs(high))  # edges are told with six digits
            inside = frame[(frame[column] >= low - slack) & (frame[column] <= high + slack)]
            assert group.num_rows == len(inside)
            assert group.num_kept == (inside.aesthetic_score >= OUTER).sum()
        flat = [edge for pair in edges for edge in pair]
        assert flat == sorted(flat)


def test_odd_numbers_have_groups_of_their_own() -> None:
    odd = [float("nan"), float("inf"), float("-inf"), None, 0.0, -0.0, 1e300, -1e-300, 2.0**63]
    table = pa.table(
        {
            "sample": [f"s{i}" for i in range(900)],
            "aesthetic_score": pa.array(np.linspace(4, 6, 900), pa.float32()),
            "odd": pa.array(odd * 100, pa.float64()),
        }
    )
    found = table_of(advise(table, at=OUTER), "odd")
    values = {group.value: group.num_rows for group in found.groups}
    assert values[None] == values["NaN"] == values["inf"] == values["-inf"] == 100
    assert values["0"] == 200
    assert sum(values.values()) == 900


def words_of(text: str | None) -> set[str]:
    """Words as the table has them, by another way: characters that are letters, marks or digits, joined."""
    if text is None:
        return {"<null>"}
    kept = [
        c if unicodedata.category(c)[0] in "LMN" or c in "'\u2019" else " " for c in unicodedata.normalize("NFC", text.lower())
    ]
    found = set()
    for word in "".join(kept).split():
        match = re.fullmatch(r"['\u2019]*(\w+(?:['\u2019][^\W\d_]+)?)['\u2019]*", word)
        assert match, word
        found.add(match[1])
    return found or {""}


def test_words_of_captions_are_counted_once_a_row_in_lower_case() -> None:
    rng = np.random.default_rng(3)
    pool = [
        "Woman",
        "woman",
        "MAN",
        "man's",
        "Straße",
        "naïve",
        "nai\u0308ve",
        "кот",
        "写真",
        "2024",
        "--",
        "a",
        "the",
        "photo,",
        "(dog)",
    ]
    texts: list[str | None] = [" ".join(rng.choice(pool, rng.integers(1, 6))) for _ in range(1200)]
    texts += [None] * 30 + [""] * 10
    frame = frame_of(len(texts), caption=texts, numbered=[f"{text} {i}" for i, text in enumerate(texts)])
    frame["caption"] = frame.caption.where(frame.caption.notna(), None)
    advice = advise(frame, at=OUTER, columns=["numbered"])
    table = table_of(advice, "numbered")
    assert table.kind == "word"
    kept = frame.aesthetic_score >= OUTER
    rows, stay = {}, {}
    for text, is_kept in zip(frame.numbered, kept, strict=True):
        for word in words_of(text):
            rows[word] = rows.get(word, 0) + 1
            stay[word] = stay.get(word, 0) + int(is_kept)
    common = {word for word, count in rows.items() if count >= advice_rows.LEAST_WORD_ROWS}
    assert {group.value for group in table.groups} == common
    assert "naïve" in common
    assert "nai\u0308ve" not in common
    for group in table.groups:
        assert (group.num_rows, group.num_kept) == (rows[str(group.value)], stay[str(group.value)]), group.value


def test_captions_may_be_missing_or_without_words() -> None:
    texts = [f"picture number {i}" for i in range(1500)] + [None] * 40 + ["!!! ???"] * 20
    frame = frame_of(len(texts), caption=texts)
    table = table_of(advise(frame, at=OUTER, columns=["caption"]), "caption")
    sizes = {group.value: group.num_rows for group in table.groups}
    assert sizes == {"picture": 1500, "number": 1500, None: 40, "": 20}
    assert f"at least {advice_rows.LEAST_WORD_ROWS} rows" in table.note


def test_captions_that_come_again_and_again_are_grouped_by_word_too() -> None:
    few = frame_of(900, caption=[f"a {['cat', 'dog'][i % 2]} of mine" for i in range(900)])
    many = frame_of(900, caption=[f"a cat in picture {i % 100}" for i in range(900)])
    assert table_of(advise(few, at=OUTER), "caption").kind == "value"
    assert table_of(advise(many, at=OUTER), "caption").kind == "word"


def test_which_words_shrink() -> None:
    frame = frame_of(4000, seed=5)
    rng = np.random.default_rng(6)
    is_man = rng.random(len(frame)) < 0.3
    frame["aesthetic_score"] -= np.where(is_man, 0.4, 0.0).astype(np.float32)
    frame["caption"] = [
        f"{'a man' if man else 'a woman'} with a {rng.choice(['hat', 'dog', 'cup'])} number {i}" for i, man in enumerate(is_man)
    ]
    table = table_of(advise(frame, at=OUTER), "caption")
    assert [group.value for group in table.shrinking] == ["man"]
    assert [group.value for group in table.growing] == ["woman"]
    assert table.groups[0].value == "man"
    assert table.groups[-1].value == "woman"


def test_urls_by_domain_and_samples_by_folder() -> None:
    frame = frame_of(900)
    hosts = ["https://A.example.com/x/{}.jpg?q=http://z", "http://user@b.example.org:8080/{}", "s3://bucket/{}", "not a url {}"]
    frame["link"] = [hosts[0 if i % 20 else 3].format(i) if i % 3 else hosts[1 + i % 2].format(i) for i in range(900)]
    frame["sample"] = [f"set/{'tars/a.tar' if i % 2 else 'b'}/{i}.jpg" if i % 9 else f"{i}.jpg" for i in range(900)]
    advice = advise(frame, at=OUTER)
    expected = frame.link.map(
        lambda link: {"https://A": "a.example.com", "http://us": "b.example.org", "s3://buck": "bucket"}.get(link[:9], "")
    )
    links = table_of(advice, "link")
    assert links.kind == "domain"
    assert_like_pandas(links, expected.astype(object), frame.aesthetic_score)
    folders = table_of(advice, "sample")
    assert folders.kind == "folder"
    assert_like_pandas(folders, frame["sample"].map(lambda name: name.rpartition("/")[0]).astype(object), frame.aesthetic_score)


def test_paths_lists_dates_and_enumerations() -> None:
    frame = frame_of(2500)
    frame["path"] = [f"/data/{'ab'[i % 2]}/{i}.png" for i in range(2500)]
    frame["tags"] = [["x", "y", "x"] if i % 2 else ["y"] if i % 3 else None for i in range(2500)]
    frame["day"] = [datetime(2019, 6, 1) + timedelta(days=i) for i in range(2500)]
    frame["kind"] = pd.Categorical([["cat", "dog", "owl"][i % 3] for i in range(2500)])
    advice = advise(frame, at=OUTER)
    assert {table.column: table.kind for table in advice.tables} == {
        "path": "folder",
        "tags": "element",
        "day": "year",
        "kind": "value",
    }
    assert_like_pandas(table_of(advice, "path"), frame.path.str.rpartition("/")[0], frame.aesthetic_score)
    assert_like_pandas(table_of(advice, "day"), frame.day.dt.strftime("%Y"), frame.aesthetic_score)
    assert_like_pandas(table_of(advice, "kind"), frame.kind.astype(object), frame.aesthetic_score)
    sizes = {group.value: group.num_rows for group in table_of(advice, "tags").groups}
    assert sizes == {"y": 1250 + sum(1 for i in range(0, 2500, 2) if i % 3), "x": 1250, None: sum(1 for i in range(0, 2500, 6))}
    assert [item.column for item in advice.left_out] == ["sample"]


def test_columns_without_a_table_are_told() -> None:
    frame = frame_of(1500, hash=[f"{i * 2654435761 % 2**32:08x}" for i in range(1500)], same="x", blob=[b"abc"] * 1500)
    advice = advise(frame, at=OUTER)
    reasons = {item.column: item.reason for item in advice.left_out}
    assert set(reasons) == {"sample", "hash", "same", "blob"}
    assert reasons["same"] == "the same in all rows"
    assert "different values" in reasons["hash"]
    assert "BLOB" in reasons["blob"]
    assert advice.tables == ()


def test_columns_of_odd_types_and_names_stop_nothing() -> None:
    rows = 1000
    columns = {
        "sample": [f"s{i}" for i in range(rows)],
        "aesthetic_score": pa.array(np.linspace(4, 6, rows), pa.float32()),
        'odd "name"; --': pa.array(["x", "y"] * 500).dictionary_encode(),
        "ünï çödé": ["ä", "b"] * 500,
        "money": pa.array([None if i % 9 == 0 else i % 5 for i in range(rows)], pa.int64()).cast(pa.decimal128(22, 2)),
        "zoned": pa.array([i * 10**6 * 86400 for i in range(rows)], pa.timestamp("us", tz="UTC")),
        "clock": pa.array(list(range(rows)), pa.time32("s")),
        "struct": [{"a": 1}] * rows,
        "none": pa.nulls(rows),
        "vector": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32())),
        "fixed": pa.array([[1.0, 2.0]] * rows, pa.list_(pa.float32(), 2)),
        "nested": pa.array([[["a"]]] * rows),
    }
    advice = advise(pa.table(columns), at=OUTER)
    assert {table.column: table.kind for table in advice.tables} == {
        'odd "name"; --': "value",
        "ünï çödé": "value",
        "money": "value",
        "zoned": "year",
    }
    sizes = {group.value: group.num_rows for group in table_of(advice, "money").groups}
    assert sizes == {None: 112, **{str(i): sum(1 for row in range(rows) if row % 9 and row % 5 == i) for i in range(5)}}
    assert {item.column for item in advice.left_out} == {"sample", "clock", "struct", "none", "vector", "fixed", "nested"}


def test_a_named_column_of_many_values_is_counted_and_its_small_groups_put_together() -> None:
    frame = frame_of(3000, code=[f"c{i % 1500 if i < 2900 else 0}" for i in range(3000)])
    table = table_of(advise(frame, at=OUTER, columns=["code"]), "code")
    assert table.num_groups == advice_rows.MOST_VALUES + 1
    largest = next(group for group in table.groups if group.value == "c0")
    assert largest.num_rows == 102
    assert "put together" in table.note
    assert len(table.groups) == 40


def test_small_groups_do_not_top_the_list() -> None:
    rows = [("large", 5.5)] * 300 + [("large", 4.5)] * 100 + [("rest", 5.5)] * 200 + [("rest", 4.5)] * 1800
    rows += [("three", 5.5)] * 3 + [("none of three", 4.5)] * 3
    frame = pd.DataFrame(rows, columns=["group", "aesthetic_score"])
    frame["sample"] = [str(i) for i in range(len(frame))]
    table = table_of(advise(frame, at=OUTER), "group")
    by_value = {group.value: group for group in table.groups}
    assert by_value["three"].ratio > by_value["large"].ratio
    assert table.groups[-1].value == "large"
    assert table.groups[0].value == "rest"
    assert by_value["none of three"].verdict == "unclear"


@pytest.mark.slow
def test_few_false_alarms_where_nothing_differs() -> None:
    """80 columns of noise, 10 groups each: Benjamini-Hochberg over all of them leaves (almost) none."""
    rng = np.random.default_rng(11)
    noise = {f"c{i}": rng.integers(0, 10, 2000).astype(str) for i in range(80)}
    frame = pd.concat([frame_of(2000), pd.DataFrame(noise)], axis=1)
    advice = advise(frame, at=OUTER)
    tested = [group for table in advice.tables for group in table.groups]
    assert len(tested) == 800
    assert sum(group.p_value <= 0.05 for group in tested) > 20
    assert sum(group.verdict != "unclear" for group in tested) <= 1


def test_long_sets_have_words_counted_in_a_part_of_their_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advice_rows, "MOST_TEXT_ROWS", 1000)
    frame = frame_of(4000, caption=[f"one word of many {i}" for i in range(4000)])
    table = table_of(advise(frame, at=OUTER), "caption")
    assert table.one_row_in == 4
    assert 800 < table.num_rows < 1200
    assert {group.num_rows for group in table.groups} == {table.num_rows}
    assert "one row of 4" in table.note


def test_groups_do_not_depend_on_files_threads_or_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = frame_of(6000, kind=rng.choice(list("abcdef"), 6000), width=rng.integers(1, 9000, 6000))
    (tmp_path / "parts").mkdir()
    for part in range(3):
        frame.iloc[part * 2000 : (part + 1) * 2000].to_parquet(tmp_path / f"parts/p{part}.parquet", index=False)
    one = advise(frame, at=OUTER, num_threads=1)
    many = advise(tmp_path / "parts", at=OUTER, num_threads=4)
    turned = advise(frame.iloc[::-1].reset_index(drop=True), at=OUTER)
    assert one.tables == many.tables == turned.tables
