"""Selection said again, slowly and plainly, with pandas and Python: the reference that the real one is compared with.

It shares no code with beholder: rules are applied one by one to a list of row numbers, names are compared as bytes, shares and
quotas are exact fractions, hashes are Python integers.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

MASK = (1 << 64) - 1


@dataclass
class Found:
    """What the oracle found: dropped_by words ("" for kept), ranks (0: none), the kept rows best first, steps, lowest left."""

    words: list[str]
    ranks: list[int]
    order: list[int]
    steps: list[tuple[str, int, int]] = field(default_factory=list)
    lowest: list[float | None] = field(default_factory=list)


def mix(value: int) -> int:
    """The finaliser of splitmix64."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
    return value ^ (value >> 31)


def name_hash(name: str, seed: int) -> int:
    step = 0x9E3779B97F4A7C15
    data = name.encode()
    found = mix(mix((seed + step) & MASK) ^ len(data))
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8].ljust(8, b"\0"), "little")
        found = mix(((found ^ word) + step) & MASK)
    return found


def gumbel_of(name: str, seed: int) -> float:
    uniform = ((name_hash(name, seed) >> 11) + 0.5) * 2.0**-53
    return float(-np.log(-np.log(np.float64(uniform))))


def finite(values: pd.Series) -> pd.Series:
    """Infinity is no score, as NaN is none."""
    return values.where(np.isfinite(values.to_numpy(np.float64, na_value=np.nan)))


def percentiles(values: pd.Series) -> pd.Series:
    """Average rank / n, NaN where there is none."""
    values = finite(values.astype("float64"))
    return values.rank(method="average") / values.notna().sum()


def folder_of(name: str) -> str:
    return name.rpartition("/")[0]


def source_of(name: str) -> str:
    archive = re.match(r"(.*?\.(?:tar|tar\.gz|tgz|tar\.bz2|tar\.xz|zip))/", name, re.IGNORECASE | re.DOTALL)
    if archive:
        return archive[1]
    table = re.fullmatch(r"(.*\.(?:parquet|pq|csv|npy|npz))[:#][0-9]+", name, re.IGNORECASE | re.DOTALL)
    if table:
        return table[1]
    address = re.match(r"([^/]+://[^/]*)/", name)
    if address:
        return address[1]
    top = re.match(r"(.[^/]*)/", name, re.DOTALL)
    return top[1] if top else ""


ASPECTS = ("9:21", "1:2", "9:16", "2:3", "3:4", "4:5", "1:1", "5:4", "4:3", "3:2", "16:9", "2:1", "21:9")


def aspect_of(width: Any, height: Any) -> str | None:
    if pd.isna(width) or pd.isna(height) or width <= 0 or height <= 0:
        return None
    ratio = math.log(width / height)
    return min(ASPECTS, key=lambda text: abs(ratio - math.log(int(text.split(":")[0]) / int(text.split(":")[1]))))


class Oracle:
    """One table and the rules' answers on it.

    frame: columns `sample` (no nulls) and scores (float32), and metadata.
    """

    def __init__(self, frame: pd.DataFrame, score: str | None, ranking: pd.Series) -> None:
        self.frame = frame.reset_index(drop=True)
        self.score = score
        self.value = finite(ranking.astype("float64")).reset_index(drop=True)
        if score is not None:
            self.frame[score] = finite(self.frame[score])
        self.words = [""] * len(frame)
        self.steps: list[tuple[str, int, int]] = []
        self.lowest: list[float | None] = []
        self.keep: set[int] = set()
        self.bytes = [name.encode() for name in self.frame["sample"]]

    def left(self) -> list[int]:
        return [row for row, word in enumerate(self.words) if not word]

    def sort_key(self, row: int) -> tuple[Any, ...]:
        value = self.value[row]
        none = bool(np.isnan(value))
        return (none, 0.0 if none else -value, self.bytes[row], row)

    def drop(self, word: str, rows: list[int]) -> None:
        before = len(self.left())
        for row in rows:
            self.words[row] = word
        self.steps.append((word, before, len(rows)))
        values = [float(self.value[row]) for row in self.left() if not np.isnan(self.value[row])]
        self.lowest.append(min(values, default=None))

    def others(self) -> list[int]:
        return [row for row in self.left() if row not in self.keep]

    def no_score(self) -> None:
        rows = [row for row in self.others() if np.isnan(self.value[row])]
        if rows:
            self.drop("no_score", rows)

    def exclude(self, samples: set[str]) -> None:
        self.drop("excluded", [row for row in self.left() if self.frame["sample"][row] in samples])

    def marked(self, drop: set[str]) -> None:
        self.drop("marked", [row for row in self.others() if self.frame["sample"][row] in drop])

    def where(self, mask: list[bool]) -> None:
        self.drop("where", [row for row in self.others() if not mask[row]])

    def min_score(self, least: float) -> None:
        score = self.frame[self.score]
        self.drop("min_score", [row for row in self.others() if not score[row] >= np.float32(least)])

    def max_score(self, most: float) -> None:
        score = self.frame[self.score]
        self.drop("max_score", [row for row in self.others() if not score[row] <= np.float32(most)])

    def quantile(self, quantile: float) -> float | None:
        score = self.frame[self.score].astype("float64")
        values = score[self.left()].dropna()
        threshold = float(values.quantile(quantile)) if len(values) else None
        rows = [row for row in self.others() if not (threshold is not None and score[row] >= threshold)]
        self.drop("quantile", rows)
        return threshold

    def groups(self, column: str) -> dict[int, Any]:
        """The group of every row; None for NULL and NaN."""
        frame = self.frame
        if column in frame.columns:
            return {row: None if pd.isna(value) else value for row, value in enumerate(frame[column])}
        if column == "folder":
            return {row: folder_of(name) for row, name in enumerate(frame["sample"])}
        if column == "source":
            return {row: source_of(name) for row, name in enumerate(frame["sample"])}
        if column == "aspect":
            return {row: aspect_of(w, h) for row, (w, h) in enumerate(zip(frame["width"], frame["height"], strict=True))}
        assert column == "score_bucket"
        scores = [float(value) for value in frame[self.score]]
        return {row: None if math.isnan(v) else math.floor(v * 2) / 2 for row, v in enumerate(scores)}

    def by_group(self, column: str | None) -> list[list[int]]:
        """Rows left of each group that has any, in the order of the selection: those marked keep first, then best first."""
        of = self.groups(column) if column is not None else dict.fromkeys(range(len(self.words)), 0)
        found: dict[Any, list[int]] = {}
        for row in sorted(self.left(), key=lambda row: (row not in self.keep, *self.sort_key(row))):
            found.setdefault(of[row], []).append(row)
        return list(found.values())

    def cut(self, word: str, wanted: list[tuple[list[int], int]]) -> None:
        """Keep the first so many of each list, and all that are marked keep."""
        rows = [row for group, number in wanted for row in group[number:] if row not in self.keep and not self.words[row]]
        self.drop(word, rows)

    def best(self, number: int | None, text: str | None, per: str | None = None) -> None:
        """The first so many of each group, and a share of it: of the group as it was before either."""
        groups = self.by_group(per)
        if number is not None:
            self.cut("top", [(group, number) for group in groups])
        if text is not None:
            share = Fraction(Decimal(text.removesuffix("%"))) / (100 if text.endswith("%") else 1)
            self.cut("top_share", [(group, math.ceil(share * len(group))) for group in groups])

    def balance(self, column: str, number: int | None) -> None:
        groups = self.by_group(column)
        held = [sum(row in self.keep for row in group) for group in groups]
        if number is None:
            level = min((len(group) for group in groups), default=0)
            have = [max(level, count) for count in held]
        else:
            have = list(held)  # pour rows one round at a time into the groups that have the fewest
            level = 0
            while True:
                level += 1
                raised = [max(count, min(len(group), level)) for count, group in zip(held, groups, strict=True)]
                if sum(raised) > number or (raised == have and level > max(map(len, groups), default=0)):
                    break
                have = raised
            rest = max(0, number - sum(have))
            best = sorted(range(len(groups)), key=lambda i: min(self.sort_key(row) for row in groups[i]))
            for i in best:
                if rest and have[i] < len(groups[i]) and have[i] < level:
                    have[i] += 1
                    rest -= 1
        self.cut("balance", list(zip(groups, have, strict=True)))

    def sample(self, number: int, seed: int, temperature: float, per: str | None = None) -> None:
        def lot(row: int) -> float:
            value = 0.0 if math.isinf(temperature) else self.value[row] / temperature
            return float(value) + gumbel_of(self.frame["sample"][row], seed)

        rows = []
        for group in self.by_group(per):
            others = [row for row in group if row not in self.keep]
            room = max(0, number - (len(group) - len(others)))
            rows += sorted(others, key=lambda row: (-lot(row), *self.sort_key(row)))[room:]
        self.drop("sample", rows)

    def budget(self, budget: int, column: str = "num_bytes") -> None:
        sizes = {row: None if pd.isna(size) or size < 0 else math.ceil(size) for row, size in enumerate(self.frame[column])}
        self.drop("no_size", [row for row in self.others() if sizes[row] is None])
        used = sum(sizes[row] or 0 for row in self.left() if row in self.keep)
        rows, full = [], used > budget
        for row in sorted(self.others(), key=self.sort_key):
            used += sizes[row] or 0
            full = full or used > budget
            if full:
                rows.append(row)
        self.drop("budget", rows)

    def found(self) -> Found:
        valued = sorted((row for row in range(len(self.words)) if not np.isnan(self.value[row])), key=self.sort_key)
        ranks = [0] * len(self.words)
        for place, row in enumerate(valued, 1):
            ranks[row] = place
        order = sorted(self.left(), key=self.sort_key)
        return Found(self.words, ranks, order, self.steps, self.lowest)
