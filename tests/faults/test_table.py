"""The table of faults: what counts as lost, doubled and wrong, and how entries of several processes come together."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from oracles.fault_table import Difference, FaultTable, ManyKinds, compare, entries_of, markdown, rows_of
from oracles.score_jobs import run

TESTS = Path(__file__).resolve().parents[1]


def test_rows_are_compared_one_by_one() -> None:
    expected = {"a": [(1,)], "b": [(2,), (2,)], "c": [(3,)], "d": [(4,)]}
    assert compare(expected, expected) == Difference()
    found = {"a": [(1,), (1,)], "b": [(2,)], "c": [(9,)], "e": [(5,)]}
    assert compare(expected, found) == Difference(lost=2, doubled=2, wrong=1)  # b, d; a, e; c
    assert compare(expected, {}) == Difference(lost=5)
    assert compare({}, {}) == Difference()
    assert Difference(1, 2, 3) + Difference(1, 1, 1) == Difference(2, 3, 4)


@pytest.mark.parametrize("suffix", ["", ".parquet", ".csv"])
def test_rows_of_every_kind_of_result(tmp_path: Path, small_head: Path, suffix: str) -> None:
    rows = np.random.default_rng(0).standard_normal((50, 24)).astype(np.float32)
    rows[[3, 7]] = 0
    np.save(tmp_path / "x.npy", rows)
    run(tmp_path / "x.npy", tmp_path / f"out{suffix}", small_head, shard_rows=20)
    found = rows_of(tmp_path / f"out{suffix}")
    names = {name.partition(": ")[2] for name in found}
    assert len(names) == 50
    assert sum(map(len, found.values())) == (52 if suffix == ".csv" else 50)  # rejects stand in a CSV's rows as well
    rows[11] *= -1
    rows[12] = 0
    np.save(tmp_path / "x.npy", rows[:-1])
    run(tmp_path / "x.npy", tmp_path / f"other{suffix}", small_head, shard_rows=20)
    differs = compare(found, rows_of(tmp_path / f"other{suffix}"))
    assert differs == (Difference(1, 1, 2) if suffix == ".csv" else Difference(2, 1, 1))  # 49 and 12; 12 among rejects; 11


def test_a_record_is_kept_before_it_fails() -> None:
    kept: list[object] = []
    table = FaultTable(lambda name, value: kept.append((name, value)))
    table.record("x", injected=2, lost=0, doubled=0, wrong=0)
    with pytest.raises(AssertionError, match="y: 1 rows lost, 0 doubled, 2 wrong"):
        table.record("y", injected=1, lost=1, doubled=0, wrong=2)
    with pytest.raises(AssertionError, match="nothing was injected"):
        table.record("z", injected=0, lost=0, doubled=0, wrong=0)
    reports = [SimpleNamespace(when=when, user_properties=kept * 2) for when in ("call", "teardown")]
    counts = entries_of(reports)
    assert counts == {"x": [4, 0, 0, 0], "y": [2, 2, 0, 4]}
    assert markdown(counts)[2:] == ["| x | 4 | 0 | 0 | 0 |", "| y | 2 | 2 | 0 | 4 |", "| all | 6 | 2 | 0 | 4 |"]


@pytest.mark.slow
def test_the_table_is_written_whatever_processes_the_tests_ran_in(tmp_path: Path) -> None:
    """Two processes of xdist, with this folder's fixtures and the repository's hooks."""
    place = tmp_path / "tests" / "faults"
    place.mkdir(parents=True)
    for name in ("conftest.py", "faults/conftest.py"):
        (tmp_path / "tests" / name).write_text((TESTS / name).read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "tests" / "oracles").symlink_to(TESTS / "oracles")
    (place / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('lost', [0, 0, 1])\n"
        "def test_it(lost, fault_table):\n"
        "    fault_table.record('a kind', injected=5, lost=lost, doubled=0, wrong=0)\n"
    )
    table = tmp_path / "found" / "table.md"
    line = [sys.executable, "-m", "pytest", "-q", "-n2", "-p", "no:cacheprovider", "--import-mode=importlib", "tests"]
    env = {**os.environ, "BEHOLDER_FAULT_TABLE": str(table)}
    done = subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 1, done.stdout
    assert "| a kind | 15 | 1 | 0 | 0 |" in done.stdout
    text = table.read_text(encoding="utf-8")
    assert text.startswith("# Faults, ")
    assert "\n- commit " in text
    assert text.endswith("| a kind | 15 | 1 | 0 | 0 |\n| all | 15 | 1 | 0 | 0 |\n")


def test_what_runs_with_many_kinds_cost_is_the_cost_of_each() -> None:
    kept: list[object] = []
    several = ManyKinds()
    several.add(Counter({"stall": 2}), Difference())
    assert not several.is_enough(("stall", "reset"), 1)
    several.add(Counter({"stall": 1, "reset": 1}), Difference())
    assert several.is_enough(("stall", "reset"), 1)
    assert not several.is_enough(("stall", "reset"), 2)
    several.record(FaultTable(lambda name, value: kept.append(value)), "network")
    assert kept == [["network: reset", 1, 0, 0, 0], ["network: stall", 3, 0, 0, 0]]
    several.add(Counter(), Difference(lost=1))
    assert several.is_enough(("stall", "reset"), 50), "no need to go on"
    with pytest.raises(AssertionError, match="network: reset: 1 rows lost"):
        several.record(FaultTable(lambda name, value: kept.append(value)), "network")
