"""Bad ratings, end to end: what `train` and `evaluate` say is one clear line, and stands in docs/bad-input.md word for word."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from beholder import Head, save_head
from oracles.program import beholder

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
NUM = 40
TRAIN = ("train", "embeddings.npy", "--ratings", "ratings.csv", "-o", "mine.safetensors")
EVALUATE = ("evaluate", "scores.csv", "--ratings", "ratings.csv", "-o", "page.html")
NAMES = [f"embeddings.npy#{row}" for row in range(NUM)]


@dataclass(frozen=True)
class Case:
    """A situation.

    Attributes:
        make: writes what is wrong into the current folder.
        says: a part of the line, by which it is found in a summary.
        arguments: the command line.
        status: 1: the line is all that is said; 0: it stands in the summary, and the job is done.
    """

    make: Callable[[], object]
    says: str
    arguments: tuple[str, ...] = TRAIN
    status: int = 1


def write(header: Sequence[str], lines: Any, name: str = "ratings.csv") -> None:
    with Path(name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def rated(change: Callable[[int, int], Any] = lambda row, rating: rating, num: int = NUM) -> None:
    """Ratings of 1 to 5, each changed."""
    write(["image", "rating"], [[NAMES[row], change(row, 1 + 3 * row % 5)] for row in range(num)])


def mixed() -> None:
    lines = [["ann", NAMES[row], 1 + row % 5] for row in range(20)]
    write(["worker", "image", "rating"], [*lines, *(["bob", NAMES[row], 1 + 7 * row % 10] for row in range(20, NUM))])


def contradicting() -> None:
    lines = [[NAMES[row], NAMES[(row + 7) % NUM]] for row in range(NUM)]
    write(["better", "worse"], [*lines, [NAMES[7], NAMES[0]], [NAMES[8], NAMES[1]]])


def histograms(num_empty: int) -> None:
    lines = [[NAMES[row], *([0, 0, 0] if row < num_empty else [1 + row % 3, 2, row % 5])] for row in range(NUM)]
    write(["image", "score1", "score2", "score3"], lines)


def two_columns() -> None:
    write(["image", "rating", "mos"], [[name, row % 5, row % 7] for row, name in enumerate(NAMES)])


def one_is_lacking() -> None:
    write(["sample", "score"], [[name, row if row < 3 else ""] for row, name in enumerate(NAMES)], "few.csv")
    rated()


def photos() -> None:
    Path("photos").mkdir()
    (Path("photos") / "1.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    rated()


def votes() -> None:
    lines = [[name, worker, 20 + at, 1 + (row + at) % 5] for row, name in enumerate(NAMES) for at, worker in enumerate("ab")]
    write(["image", "worker", "age", "rating"], lines)


def trained() -> None:
    rated()
    assert beholder(*TRAIN).returncode == 0


CASES: dict[str, Case] = {
    "ratings that match no picture": Case(
        lambda: write(["image", "rating"], [[f"cat-{row}.jpg", row] for row in range(9)]), "none of its"
    ),
    "no ratings": Case(rated, "--ratings is needed", ("train", "embeddings.npy")),
    "a text among the numbers": Case(lambda: rated(lambda row, rating: "great" if row == 3 else rating), "no number", status=0),
    "texts for numbers": Case(lambda: rated(lambda row, _: "great" if row % 2 else "awful"), "holds text"),
    "two columns of ratings": Case(two_columns, "which column"),
    "a scale of 1 to 5 mixed with 1 to 10": Case(mixed, "seem to be mixed", status=0),
    "all ratings the same": Case(lambda: rated(lambda row, rating: 3), "nothing to learn"),
    "three ratings": Case(lambda: rated(num=3), "too few"),
    "pairs that contradict each other": Case(contradicting, "decided both ways", status=0),
    "some histograms that sum to zero": Case(lambda: histograms(2), "sum to zero", status=0),
    "histograms that all sum to zero": Case(lambda: histograms(NUM), "sum to zero"),
    "evaluate: ratings that match no picture": Case(
        lambda: write(["image", "rating"], [[f"cat-{row}.jpg", row] for row in range(9)]), "none of its", EVALUATE
    ),
    "evaluate: all ratings the same": Case(lambda: rated(lambda row, rating: 3), "nothing to learn", EVALUATE),
    "evaluate: three ratings": Case(lambda: rated(num=3), "too few", EVALUATE),
    "evaluate: a table without scores": Case(
        rated, "no column of scores", ("evaluate", "ratings.csv", "--sample-column", "image", *EVALUATE[2:])
    ),
    "evaluate: the ratings given as scores": Case(
        rated, "ratings themselves",
        ("evaluate", "ratings.csv", "--sample-column", "image", "--score-column", "rating", *EVALUATE[2:]),
    ),
    "evaluate: pictures that have no scores yet": Case(photos, "without scores", ("evaluate", "photos", *EVALUATE[2:])),
    "evaluate: a head for scores without embeddings": Case(
        rated, "kept no embeddings", (*EVALUATE, "--head", "mine-too.safetensors")
    ),
    "evaluate: heads that score few of the same pictures": Case(
        one_is_lacking, "all heads score", ("evaluate", "few.csv", *EVALUATE[1:])
    ),
    "evaluate: groups by what is said of raters": Case(votes, "several values", (*EVALUATE, "--by", "age")),
    "evaluate: a head on the pictures that it was trained on": Case(
        trained, "WARNING", ("evaluate", "embeddings.npy", *EVALUATE[2:], "--head", "mine.safetensors"), status=0
    ),
}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with embeddings and scores of the same rows."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    np.save("embeddings.npy", rng.standard_normal((NUM, 8)).astype(np.float32))
    write(
        ["sample", "score"],
        [[name, f"{value:.4f}"] for name, value in zip(NAMES, rng.standard_normal(NUM), strict=True)],
        "scores.csv",
    )
    save_head(Head.affine(np.ones(8), name="mine-too"), tmp_path / "mine-too.safetensors")
    return tmp_path


def documented() -> dict[str, tuple[str, str]]:
    """Situation -> (line, exit status) of every row of the table about ratings."""
    text = PAGE.read_text(encoding="utf-8").split("\n## Ratings\n", 1)[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert all(todo for _, _, todo, _ in rows)
    return {situation: (line.strip("`"), status) for situation, line, _, status in rows[2:]}


@pytest.mark.parametrize("situation", CASES)
def test_it_is_one_line_that_is_documented(situation: str, here: Path) -> None:
    case = CASES[situation]
    case.make()
    before = sorted(path.name for path in here.iterdir())
    done = beholder(*case.arguments)
    assert done.returncode == case.status, done.stderr
    lines = (done.stderr if case.status else done.stdout).splitlines()
    if case.status:
        assert done.stdout == ""
        assert sorted(path.name for path in here.iterdir()) == before
        (told,) = lines
        assert told.startswith("beholder: ")
        assert len(told) < 400
    else:
        (told,) = [line for line in lines if case.says in line]
    assert case.says in told
    line, status = documented()[situation]
    assert re.fullmatch(re.escape(line), told), told
    assert status == str(case.status)


def test_every_row_of_the_documentation_is_tested() -> None:
    assert list(documented()) == list(CASES)
