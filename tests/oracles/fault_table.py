"""Rows of a result beside those of an undisturbed run, and the table of what was injected and what it cost.

A test says so by the fixture `fault_table` (`faults/conftest.py`); the entries travel with its report, also from processes of
xdist, and `../conftest.py` prints the table and writes it to the file that `BEHOLDER_FAULT_TABLE` names.
"""

from __future__ import annotations

import datetime
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

VARIABLE = "BEHOLDER_FAULT_TABLE"
PROPERTY = "faults"
"""The name that a test's report keeps its entries by."""
REPOSITORY = Path(__file__).resolve().parents[2]

Row = tuple[Any, ...]
Rows = Mapping[str, list[Row]]
"""Sample -> every row of that name; more than one where the input has it more than once, or a run has doubled it."""


@dataclass(frozen=True)
class Difference:
    """Numbers of rows of a result that are not as in an undisturbed one.

    Attributes:
        lost: are not there.
        doubled: are there once more than they should, or should not be there at all.
        wrong: are there, with another score, status, reason, embedding or column.
    """

    lost: int = 0
    doubled: int = 0
    wrong: int = 0

    def __add__(self, other: Difference) -> Difference:
        return Difference(self.lost + other.lost, self.doubled + other.doubled, self.wrong + other.wrong)

    def counts(self) -> dict[str, int]:
        """As `FaultTable.record` takes them."""
        return {"lost": self.lost, "doubled": self.doubled, "wrong": self.wrong}


def compare(expected: Rows, found: Rows) -> Difference:
    """Compare all rows, name by name; the order does not count."""
    lost = doubled = wrong = 0
    for sample in expected.keys() | found.keys():
        due, there = expected.get(sample, []), found.get(sample, [])
        lost += max(0, len(due) - len(there))
        doubled += max(0, len(there) - len(due))
        wrong += min(len(due), len(there)) - (Counter(due) & Counter(there)).total()
    return Difference(lost, doubled, wrong)


def differing(expected: Rows, found: Rows) -> list[str]:
    """The first few names whose rows are not as expected."""
    names = sorted(expected.keys() | found.keys())
    return [name for name in names if Counter(expected.get(name, [])) != Counter(found.get(name, []))][:5]


def rows_of(out: Path) -> Rows:
    """All rows of a finished result (a folder, .parquet or .csv): scored, rejected, and embeddings.

    A row says which kind of table it stood in, and has all its values by column: floats and vectors as their bits, so that NaN
    is itself. Rows of one sample in several tables are rows of `TABLE: SAMPLE` each.
    """
    tables = {"scores": [out], "rejects": [out.with_name(out.name + ".rejects.parquet")]}
    kept = out.with_name(out.name + ".embeddings")
    if out.suffix not in (".parquet", ".csv"):
        tables = {name: sorted((out / name).glob("*")) for name in ("scores", "rejects", "embeddings")}
        kept = out if (out / "img_emb").exists() else out / "embeddings"
    rows: dict[str, list[Row]] = defaultdict(list)
    for name, paths in tables.items():
        for path in paths:
            if path.is_file() and path.suffix in (".parquet", ".csv"):
                _add(rows, name, _table(path))
    for array in sorted((kept / "img_emb").glob("*.npy")):
        metadata = kept / "metadata" / (array.stem.replace("img_emb", "metadata") + ".parquet")
        vectors = np.load(array)
        table = pq.read_table(metadata).to_pydict()
        _add(rows, "vectors", {**table, "embedding": [vector.tobytes() for vector in vectors]})
    return rows


def _table(path: Path) -> dict[str, list[Any]]:
    if path.suffix == ".csv":
        return pl.read_csv(path, infer_schema=False).to_dict(as_series=False)
    return pq.read_table(path, partitioning=None).to_pydict()


def _add(rows: dict[str, list[Row]], name: str, table: Mapping[str, list[Any]]) -> None:
    columns = [column for column in table if column != "sample"]
    assert len({len(values) for values in table.values()}) == 1, f"columns of unequal length in {name}"
    for sample, *values in zip(table["sample"], *(table[column] for column in columns), strict=True):
        rows[f"{name}: {sample}"].append(tuple((column, repr(value)) for column, value in zip(columns, values, strict=True)))


class FaultTable:
    """What one test has injected; counted over all tests at the end."""

    def __init__(self, keep: Callable[[str, Any], None]) -> None:
        self._keep = keep

    def record(self, kind: str, *, injected: int, lost: int, doubled: int, wrong: int) -> None:
        """Add to the kind's line, then fail unless nothing was lost, doubled or wrong."""
        assert injected > 0, f"{kind}: nothing was injected"
        self._keep(PROPERTY, [kind, injected, lost, doubled, wrong])
        assert (lost, doubled, wrong) == (0, 0, 0), f"{kind}: {lost} rows lost, {doubled} doubled, {wrong} wrong"

    def compared(self, kind: str, expected: Rows, out: Path, *, injected: int = 1) -> None:
        """Record what differs between an undisturbed run's rows and the result `out`."""
        self.record(kind, injected=injected, **compare(expected, rows_of(out)).counts())


class ManyKinds:
    """Faults of many kinds over several runs; what these cost together is the cost of each kind, as nobody can tell them apart.

    Attributes:
        injected: how many of each kind.
        cost: what differs in all runs.
    """

    def __init__(self) -> None:
        self.injected: Counter[str] = Counter()
        self.cost = Difference()

    def add(self, injected: Counter[str], cost: Difference) -> None:
        """A run."""
        self.injected += injected
        self.cost += cost

    def is_enough(self, kinds: Iterable[str], least: int) -> bool:
        """Whether there were so many faults of each of these kinds, or something has been lost, doubled or wrong."""
        return self.cost != Difference() or all(self.injected[kind] >= least for kind in kinds)

    def record(self, table: FaultTable, what: str) -> None:
        """One line in the table for each kind."""
        for kind, number in sorted(self.injected.items()):
            table.record(f"{what}: {kind}", injected=number, **self.cost.counts())


def entries_of(reports: Iterable[Any]) -> dict[str, list[int]]:
    """Kind -> injected, lost, doubled, wrong, summed over pytest's reports, in the order of the kinds' names."""
    counts: dict[str, list[int]] = {}
    for report in reports:
        for name, value in getattr(report, "user_properties", ()):
            if name == PROPERTY and report.when == "call":
                kind, *numbers = value
                counts[kind] = [a + b for a, b in zip(counts.get(kind, [0] * 4), numbers, strict=True)]
    return dict(sorted(counts.items()))


def markdown(counts: Mapping[str, list[int]]) -> list[str]:
    """The table, with its sums."""
    total = [sum(numbers[at] for numbers in counts.values()) for at in range(4)]
    lines = ["| kind | injected | rows lost | rows doubled | rows wrong |", "|---|---|---|---|---|"]
    return lines + [f"| {kind} | " + " | ".join(map(str, numbers)) + " |" for kind, numbers in {**counts, "all": total}.items()]


def write(path: Path, counts: Mapping[str, list[int]]) -> None:
    """Write the table with what it was made by."""
    from beholder.planning.machine import lines

    about = [f"# Faults, {datetime.date.today():%Y-%m-%d}", "", *lines("numpy", "pyarrow", "torch", "ray"), _commit(), ""]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*about, *markdown(counts)]) + "\n", encoding="utf-8")


def _commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    told = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return f"- commit {told or 'unknown'}"
