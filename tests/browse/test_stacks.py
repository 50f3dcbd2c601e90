"""Groups of near-duplicates as stacks: what the session says of them, odd files, and the page in headless Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from beholder.browse.options import BrowseOptions
from beholder.browse.session import Session
from beholder.browse.stacks import stacks_warning
from beholder.errors import InputError
from beholder.scoreset.score_set import open_scores
from oracles.browse_clients import client_of
from oracles.browse_page import Open, wait_for_tiles
from oracles.browse_sets import Served, running
from oracles.tiers import mostly_slow

GROUPS = [  # group, number of the picture, similarity, whether it is the one that stays
    (0, 7, 1.0, True), (0, 3, 0.97, False), (0, 40, 0.955, False),
    (5, 1, 0.96, False), (5, 2, 1.0, True),
    (6, 9, 1.0, True), (6, 10, 0.99, False),
]  # fmt: skip


def names_of(photo_set: Path) -> list[str]:
    names: list[str] = pq.read_table(photo_set).column("sample").to_pylist()
    return names


def write_groups(photo_set: Path, path: Path, lines: list[Any] = GROUPS, *, with_rows: bool = True) -> Path:
    """A file as `beholder select --groups` writes it."""
    names = names_of(photo_set)
    group, number, similarity, kept = (list(values) for values in zip(*lines, strict=True))
    table = pa.table({
        "group": pa.array(group, pa.int64()),
        "sample": [names[at] if isinstance(at, int) else at for at in number],
        "similarity": pa.array(similarity, pa.float32()),
        "kept": kept,
    })  # fmt: skip
    if with_rows:
        table = table.append_column("row", pa.array([at if isinstance(at, int) else None for at in number], pa.int64()))
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    return path


def of_session(photo_set: Path, folder: Path, groups: Path) -> Any:
    return BrowseOptions(scores=str(photo_set), groups=str(groups), marks=str(folder / "m.jsonl"))


@pytest.fixture
def session(photo_set: Path, tmp_path: Path) -> Iterator[Session]:
    options = of_session(photo_set, tmp_path, write_groups(photo_set, tmp_path / "g.parquet"))
    with open_scores(str(photo_set)) as scores, Session(scores, tmp_path, options) as found:
        yield found


def listed(session: Session, tab: Any, conditions: tuple[str, ...] = (), **more: Any) -> list[dict[str, Any]]:
    view = session.view("aesthetic_score", conditions)
    listing = session.listing(view, tab, more.pop("sort", "best"), threshold=5.0, **more)
    return session.page(listing, "aesthetic_score", 0, 100)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_pictures_near_to_a_reference_are_stacks_that_name_it(photo_set: Path, tmp_path: Path, suffix: str) -> None:
    """One alone, two of one reference, and a reference called as a picture of the set is."""
    names = names_of(photo_set)
    near = [(7, 20, 0.91, False), (8, 21, 0.97, False), (8, 22, 0.96, False)]
    table = pq.read_table(write_groups(photo_set, tmp_path / "g.parquet", [*GROUPS, *near]))
    references = [None] * len(GROUPS) + ["test/a, b.jpg", names[30], names[30]]
    table = table.append_column("reference", pa.array(references, pa.large_string()))
    path = tmp_path / f"r.{suffix}"
    (pa_csv.write_csv if suffix == "csv" else pq.write_table)(table, path)
    with open_scores(str(photo_set)) as scores, Session(scores, tmp_path, of_session(photo_set, tmp_path, path)) as session:
        tops = {item["row"]: (item["stack"], item.get("reference")) for item in listed(session, "stacks")}
        assert tops == {7: (3, None), 2: (2, None), 9: (2, None), 20: (1, "test/a, b.jpg"), 21: (2, names[30])}
        inside = [(item["row"], item["stays"], item["reference"]) for item in listed(session, "stack", stack=21)]
        assert inside == [(21, False, names[30]), (22, False, names[30])]
        assert [round(item["similarity"], 2) for item in listed(session, "stack", stack=21)] == [0.97, 0.96]


def test_each_group_is_a_stack_with_the_one_that_stays_on_top(session: Session, photo_set: Path) -> None:
    scores = pq.read_table(photo_set).column("aesthetic_score").to_pylist()
    best = sorted([7, 2, 9], key=lambda row: -scores[row])
    found = listed(session, "stacks")
    assert [(item["row"], item["stack"]) for item in found] == [(row, {7: 3, 2: 2, 9: 2}[row]) for row in best]
    assert [item["row"] for item in listed(session, "stacks", sort="worst")] == best[::-1]
    opened_stack = listed(session, "stack", stack=40, sort="worst")
    assert [(item["row"], item["stays"]) for item in opened_stack] == [(7, True), (3, False), (40, False)]
    assert [item["similarity"] for item in opened_stack] == pytest.approx([1.0, 0.97, 0.955], abs=1e-6)
    assert listed(session, "stack", stack=0) == []
    assert "stack" not in listed(session, "all")[0]


def test_filters_leave_the_stacks_of_which_any_picture_satisfies_them(session: Session) -> None:
    """Widths are 64 and the number of the picture."""
    for condition, rows in (("width = 104", {7}), ("width < 70", {7, 2}), ("width = 64", set()), ("width > 0", {7, 2, 9})):
        assert {item["row"] for item in listed(session, "stacks", (condition,))} == rows
        assert session.counts(session.view("aesthetic_score", (condition,)), 5.0)["stacks"] == len(rows)
    assert [item["row"] for item in listed(session, "stack", ("width = 104",), stack=7)] == [7, 3, 40]


@pytest.mark.parametrize("name", ["g.csv", "g.parquet"])
def test_odd_files(photo_set: Path, tmp_path: Path, name: str) -> None:
    lines = [*GROUPS, (7, "nowhere.jpg", 1.0, True), (7, 20, 0.99, False), (8, 7, 1.0, True), (8, 21, 0.9, False),
             (8, 22, 0.95, False)]  # fmt: skip
    path = write_groups(photo_set, tmp_path / name, lines, with_rows=name == "g.parquet")
    options = of_session(photo_set, tmp_path, path)
    with open_scores(str(photo_set)) as scores, Session(scores, tmp_path, options) as session:
        assert {item["row"]: item["stack"] for item in listed(session, "stacks")} == {7: 3, 2: 2, 9: 2, 21: 2}
        assert stacks_warning(session.stacks) == (
            f"3 pictures are left out of --groups {path}: not among these rows, or in a group of no other"
        )


def test_rows_of_another_set_are_found_by_their_names(photo_set: Path, tmp_path: Path) -> None:
    path = write_groups(photo_set, tmp_path / "g.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(4, "row", pa.array(np.arange(table.num_rows) + 50)), path)
    with (
        open_scores(str(photo_set)) as scores,
        Session(scores, tmp_path, of_session(photo_set, tmp_path, path)) as session,
    ):
        assert {item["row"] for item in listed(session, "stacks")} == {7, 2, 9}


def test_files_that_hold_no_groups_are_refused_in_one_line(photo_set: Path, tmp_path: Path) -> None:
    pq.write_table(pa.table({"sample": ["a"]}), tmp_path / "list.parquet")
    for path, text in ((tmp_path / "gone.parquet", "does not exist"), (tmp_path / "list.parquet", "no column 'group'")):
        with open_scores(str(photo_set)) as scores, pytest.raises(InputError, match=text):
            Session(scores, tmp_path, of_session(photo_set, tmp_path, path))
    path = write_groups(photo_set, tmp_path / "none.parquet", [(0, "x", 1.0, True), (0, "y", 0.9, False)])
    with open_scores(str(photo_set)) as scores, Session(scores, tmp_path, of_session(photo_set, tmp_path, path)) as session:
        assert listed(session, "stacks") == []
        assert stacks_warning(session.stacks) is not None


@pytest.fixture
def stack_server(photo_set: Path, tmp_path: Path) -> Iterator[Served]:
    groups, sized = write_groups(photo_set, tmp_path / "g.parquet"), photo_set.parent / "sized.parquet"
    pq.write_table(pq.read_table(photo_set).append_column("height", pa.array([48] * 60, pa.int32())), sized)
    options = BrowseOptions(scores=str(sized), no_open=True, marks=str(tmp_path / "m.jsonl"), groups=str(groups))
    with running(options, photo_set.parent) as found:
        yield found


def test_a_row_that_is_not_there_has_no_stack(photo_set: Path, tmp_path: Path) -> None:
    for ask in client_of(photo_set, tmp_path, groups=write_groups(photo_set, tmp_path / "g.parquet")):
        assert ask("/api/set").json()["stacks"] == {"count": 3, "source": str(tmp_path / "g.parquet")}
        view = ask("/api/view", {"score": "aesthetic_score"}).json()["view"]
        for stack, status in ((7, 200), (60, 404), (None, 404), (-1, 400)):
            assert ask("/api/listing", {"view": view, "tab": "stack", "stack": stack}).status_code == status


def counts_of(page: Any) -> list[str]:
    found: list[str] = page.evaluate(
        "() => [...document.querySelectorAll('.tile:not([hidden])')].sort((a, b) => a.dataset.index - b.dataset.index)"
        ".map((tile) => tile.querySelector('.count').textContent)"
    )
    return found


@pytest.mark.slow
@pytest.mark.parametrize("width", mostly_slow([1280, 390], slow=0))
def test_stacks_open_to_their_pictures_and_close_again(stack_server: Served, open_page: Open, width: int) -> None:
    page = open_page(stack_server.url, width=width, height=800)
    tab = page.locator('.tab[data-tab="stacks"]')
    page.wait_for_function("() => document.querySelector('.tab[data-tab=stacks] small').textContent === '3'")
    assert tab.locator("span").inner_text() == "Duplicates"
    tab.click()
    page.wait_for_function("() => document.getElementById('shown').textContent === '3 groups of pictures that are alike'")
    wait_for_tiles(page)
    assert sorted(counts_of(page)) == ["2 alike", "2 alike", "3 alike"]
    assert page.locator("#stack-back").is_hidden()
    large = next(at for at, text in enumerate(counts_of(page)) if text.startswith("3"))
    page.locator(f"#tile-{large} .count").click()
    page.wait_for_function("() => document.getElementById('shown').textContent === '3 pictures that are alike'")
    wait_for_tiles(page)
    assert counts_of(page) == ["stays · 71\u00d748", "≈ 0.970 · 67\u00d748", "≈ 0.955 · 104\u00d748"]
    assert "stays of those that are alike" in page.get_attribute("#tile-0", "aria-label")
    assert tab.get_attribute("aria-selected") == "true"
    page.reload()
    page.wait_for_selector("body[data-ready]")
    wait_for_tiles(page)
    assert counts_of(page) == ["stays · 71\u00d748", "≈ 0.970 · 67\u00d748", "≈ 0.955 · 104\u00d748"]
    assert page.locator("#to-cut").is_hidden()
    page.locator("#gallery").focus()
    page.keyboard.press("Enter")  # a picture of a stack opens large
    page.wait_for_selector("#viewer[open]")
    page.keyboard.press("Escape")
    page.wait_for_selector("#viewer:not([open])", state="attached")
    assert page.locator("#stack-back").is_visible()
    page.keyboard.press("Escape")
    page.wait_for_function("() => document.getElementById('shown').textContent === '3 groups of pictures that are alike'")
    wait_for_tiles(page)
    page.keyboard.press("Enter")
    page.wait_for_function("() => !document.getElementById('stack-back').hidden")
    page.click("#stack-back")
    page.wait_for_function("() => document.getElementById('shown').textContent === '3 groups of pictures that are alike'")
    page.click('.tab[data-tab="all"]')
    page.wait_for_function("() => document.getElementById('shown').textContent === '60 pictures'")
    wait_for_tiles(page)
    assert set(counts_of(page)) == {""}
