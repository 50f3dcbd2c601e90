"""What rows are ranked by: the score column, or an expression over columns such as "0.7*a + 0.3*b"; and where scores are cut.

An expression has + - * / brackets, numbers and names; it is over the columns' percentiles. Cuts that were given on the scale of
another head (`--scale-of`) are translated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from beholder.curate.options import SelectRules
from beholder.errors import InputError
from beholder.kernels import ordering
from beholder.kernels.bits import floats_of, ordered_bits
from beholder.models import catalog
from beholder.models.published import Threshold
from beholder.scoreset.row_reader import RowReader
from beholder.scoreset.score_set import ScoreSet

if TYPE_CHECKING:
    from beholder.scoreset.kept_scales import Translation

Floats = npt.NDArray[np.float64]

_NUMBER = re.compile(r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")+)"|`([^`]+)`')
_DEEPEST = 100


@dataclass(frozen=True)
class Expression:
    """A parsed expression.

    Attributes:
        text: as it was written.
        names: the columns it takes, each once, in the order in which they appear.
        root: nested tuples: ("number", x), ("name", column), ("-", a), ("+", a, b) and so on.
    """

    text: str
    names: tuple[str, ...]
    root: tuple[Any, ...]

    def values(self, of: Callable[[str], Floats]) -> Floats:
        """The value for each row, in float64; `of` gives a column's values."""
        with np.errstate(all="ignore"):
            return np.asarray(_value(self.root, of), np.float64)


def _value(node: tuple[Any, ...], of: Callable[[str], Floats]) -> Any:
    kind, *rest = node
    if kind == "number":
        return np.float64(rest[0])
    if kind == "name":
        return of(rest[0])
    values = [_value(item, of) for item in rest]
    if len(values) == 1:
        return -values[0]
    a, b = values
    return a + b if kind == "+" else a - b if kind == "-" else a * b if kind == "*" else a / b


class _Parser:
    def __init__(self, text: str, known: Mapping[str, str]) -> None:
        self.text, self.at, self.known = text, 0, known
        self.names: list[str] = []
        self.depth = 0

    def failed(self, why: str) -> InputError:
        return InputError(f'--rank-by "{self.text}": {why}')

    def skip(self) -> str:
        """The next character that is no space, "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at] if self.at < len(self.text) else ""

    def sum(self) -> tuple[Any, ...]:
        found = self.product()
        while (sign := self.skip()) and sign in "+-":
            self.at += 1
            found = (sign, found, self.product())
        return found

    def product(self) -> tuple[Any, ...]:
        found = self.factor()
        while (sign := self.skip()) and sign in "*/":
            self.at += 1
            found = (sign, found, self.factor())
        return found

    def factor(self) -> tuple[Any, ...]:
        sign = self.skip()
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self.failed("too many brackets")
        if sign and sign in "+-":
            self.at += 1
            inner = self.factor()
            found = inner if sign == "+" else ("-", inner)
        elif sign == "(":
            self.at += 1
            found = self.sum()
            if self.skip() != ")":
                raise self.failed("a bracket is not closed")
            self.at += 1
        else:
            found = self.leaf(sign)
        self.depth -= 1
        return found

    def leaf(self, sign: str) -> tuple[Any, ...]:
        if not sign:
            raise self.failed("it breaks off")
        if number := _NUMBER.match(self.text, self.at):
            self.at = number.end()
            return ("number", float(number[0]))
        if quote := _QUOTED_NAME.match(self.text, self.at):
            self.at = quote.end()
            return self.name(quote[1].replace('""', '"') if quote[1] is not None else quote[2])
        longest = max((name for name in self.known if self.begins_with(name)), key=len, default=None)
        if longest is not None:
            self.at += len(longest)
            return self.name(longest)
        plain = _PLAIN_NAME.match(self.text, self.at)
        if plain is None:
            raise self.failed(f"{sign!r} is neither a number nor a name")
        return self.name(plain[0])

    def begins_with(self, name: str) -> bool:
        """Whether the name stands here, and does not go on."""
        end = self.at + len(name)
        return self.text.startswith(name, self.at) and not (end < len(self.text) and re.match(r"[\w.]", self.text[end]))

    def name(self, name: str) -> tuple[Any, ...]:
        column = self.known.get(name)
        if column is None:
            raise self.failed(f"there is no column {name!r}; there are {', '.join(dict.fromkeys(self.known.values()))}")
        if column not in self.names:
            self.names.append(column)
        return ("name", column)


def parse_expression(text: str, known: Mapping[str, str]) -> Expression:
    """Parse the expression of `--rank-by`.

    Args:
        text: names stand bare, in double quotes or in backticks; a bare name is the longest known one that stands there,
            so `a-b` is a column of that name where there is one, and `a - b` a difference.
        known: name -> column; columns under their own names, and further names for them.

    Raises:
        InputError: no such name, or no expression.
    """
    parser = _Parser(text, known)
    root = parser.sum()
    if rest := parser.skip():
        raise parser.failed(f"{rest!r} is not expected at character {parser.at + 1}")
    if not parser.names:
        raise parser.failed("it names no column")
    return Expression(text, tuple(parser.names), root)


def known_names(columns: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Names for `parse_expression`: the columns, and aliases that are no column's name."""
    return {**{alias: column for alias, column in aliases.items() if alias not in columns}, **{name: name for name in columns}}


Keys = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint64]
_BLOCK = 1 << 20
_CACHED = 1 << 15
"""So many numbers at a time: what is made on the way stays in the processor's cache."""


@dataclass(frozen=True)
class Values:
    """What rows are compared by.

    Attributes:
        score: the column that thresholds go by, or None.
        score_keys: (N,) its keys (`ordering.ordered_keys`); None when there is no such column or nothing needs it.
        rank_keys: (N,) keys of the ranking value; the same array when that is the score and every row counts.
        levels: (L,) float64, ascending: the ranking values behind rank_keys 1 ... L, where there is an expression.
    """

    score: str | None
    score_keys: Keys | None
    rank_keys: Keys
    levels: npt.NDArray[np.float64] | None = None

    def rank_values(self, rows: slice | npt.NDArray[np.uint32]) -> npt.NDArray[np.float64]:
        """Ranking values of rows in float64, NaN for none."""
        keys = self.rank_keys[rows]
        if self.levels is None:
            return ordering.scores_of(keys).astype(np.float64)
        return np.where(keys > 0, self.levels[np.maximum(keys, 1).astype(np.int64) - 1] if len(self.levels) else np.nan, np.nan)

    def value_of(self, key: int) -> float:
        """The ranking value that has a key."""
        if self.levels is not None:
            return float(self.levels[key - 1])
        return ordering.score_of(key)


def aliases_of(scores: ScoreSet) -> dict[str, str]:
    """Further names of score columns: the heads' names and aliases, when they mean one column."""
    found: dict[str, str] = {}
    doubtful: set[str] = set()
    for column in scores.score_columns:
        head = scores.head_names.get(column) or column
        entry = catalog.find(head)
        for name in {head, *((entry.name, *entry.aliases) if entry is not None else ())}:
            if name in found:
                doubtful.add(name)
            found[name] = column
    return {name: column for name, column in found.items() if name not in doubtful}


def find_score(reader: RowReader, name: str) -> str:
    """The score column that a name or a head's alias means. Raises InputError."""
    scores = reader.scores
    aliases = aliases_of(scores)
    entry = catalog.find(name)
    if name in scores.score_columns:
        return name
    for alias in (name, entry.name if entry is not None else name):
        if alias in aliases:
            return aliases[alias]
    if name in scores.schema.names and reader.holds_numbers(name):
        return name
    raise InputError(f"--score {name}: there is no such score; there are {', '.join(scores.score_columns)}")


def choose_columns(reader: RowReader, rules: SelectRules) -> tuple[str | None, Expression | None]:
    """The column that thresholds go by, and the expression to rank by. Raises InputError where that is not clear."""
    scores = reader.scores
    score = find_score(reader, rules.score) if rules.score is not None else None
    if score is None and len(scores.score_columns) == 1:
        score = scores.score_columns[0]
    expression = None
    if rules.rank_by is not None:
        numbers = [name for name in reader.schema.names if reader.holds_numbers(name)]
        expression = parse_expression(rules.rank_by, known_names(numbers, aliases_of(scores)))
    several = ", ".join(scores.score_columns)
    if score is None and expression is None:
        raise InputError(
            f"{scores.source} has several scores ({several}); choose one with --score, or combine them with --rank-by"
        )
    if score is None:
        for name in ("min_score", "max_score", "quantile"):
            if getattr(rules, name) is not None:
                flag = f"--{name.replace('_', '-')}"
                raise InputError(
                    f"{flag} goes by one score, and --rank-by combines several ({several}); say which with --score"
                )
    return score, expression


def keys_in(reader: RowReader, table: pa.Table, name: str) -> Keys:
    """The keys of a column of a piece that was read; 0 for what is no score."""
    floats = reader.floats_in(table, name)
    keys = np.empty(len(floats), np.uint32)
    for start in range(0, len(floats), _CACHED):
        keys[start : start + _CACHED] = ordering.ordered_keys(floats[start : start + _CACHED])
    return keys


def read_keys(reader: RowReader, name: str) -> Keys:
    """(N,) the keys of a column."""
    return reader.gathered([name], lambda table: keys_in(reader, table, name), np.uint32)


def read_values(
    reader: RowReader,
    rules: SelectRules,
    score: str | None,
    expression: Expression | None,
    without: npt.NDArray[np.uint32],
) -> Values:
    """Read what rows are compared by; the rows `without` get no ranking value and count in none. Raises InputError."""
    if expression is None:
        assert score is not None
        keys = read_keys(reader, score)
        return Values(score, keys, _without(keys, without))
    rank_keys, levels = _combined(expression, reader, rules.threads, without)
    is_needed = "score_bucket" in (rules.per, rules.balance) or any(
        value is not None for value in (rules.min_score, rules.max_score, rules.quantile)
    )
    return Values(score, read_keys(reader, score) if score is not None and is_needed else None, rank_keys, levels)


def _without(keys: Keys, rows: npt.NDArray[np.uint32]) -> Keys:
    """The keys, those of these rows 0; the same array where there are none."""
    if not len(rows):
        return keys
    found = keys.copy()
    found[rows] = 0
    return found


def _combined(
    expression: Expression, reader: RowReader, num_threads: int, without: npt.NDArray[np.uint32]
) -> tuple[Keys, npt.NDArray[np.float64]]:
    """Keys of an expression over percentiles: 1 ... L, the place of the value among all L values; and those values."""
    if reader.num_rows >= 1 << 31:
        raise InputError(f"--rank-by works for up to {1 << 31:,} rows")
    doubled: dict[str, tuple[Keys, int]] = {}  # twice the average rank of each row, and how many have one
    for name in expression.names:
        keys, wide = _double_keys(reader, name)
        order, new_level = _sorted_wide(_without(keys, without), wide, num_threads)
        doubled[name] = ordering.double_ranks(order, new_level, reader.num_rows), len(order)
    bits = np.empty(reader.num_rows, np.uint64)
    for start in range(0, reader.num_rows, _BLOCK):
        part = slice(start, min(start + _BLOCK, reader.num_rows))

        def percentiles(name: str, part: slice = part) -> Floats:
            ranks, count = doubled[name]
            found = ranks[part].astype(np.float64)
            return np.where(found > 0, found / (2.0 * count) if count else np.nan, np.nan)

        bits[part] = _bits_of(expression.values(percentiles))
    order, new_level = _sorted_wide(_upper_halves(bits), bits, num_threads)
    return ordering.levels_of(order, new_level, reader.num_rows), floats_of(bits[order[new_level][::-1]])


def _double_keys(reader: RowReader, name: str) -> tuple[Keys, Bits | None]:
    """A column's keys; and all 64 bits where they are needed, of columns that are not float32. 0 for no value."""
    if reader.schema.field(name).type in (pa.float32(), pa.float16()) or name in reader.scores.score_columns:
        return read_keys(reader, name), None

    def bits(table: pa.Table) -> Bits:
        column = pc.fill_null(reader.numbers_in(table, name).cast(pa.float64(), safe=False), float("nan")).combine_chunks()
        return _bits_of(column.to_numpy(zero_copy_only=False))

    wide = reader.gathered([name], bits, np.uint64)
    return _upper_halves(wide), wide


def _bits_of(values: Floats) -> Bits:
    return np.where(np.isfinite(values), ordered_bits(values), np.uint64(0))


def _upper_halves(wide: Bits) -> Keys:
    return (wide >> np.uint64(32)).astype(np.uint32)


def _sorted_wide(keys: Keys, wide: Bits | None, num_threads: int) -> tuple[Keys, npt.NDArray[np.bool_]]:
    """Rows that have a value, by descending value; and where a value differs from the one before it.

    keys: the upper halves of `wide`, or all there is. A value is told from none by its upper half, which is never 0.
    """
    num_ranked = int(np.count_nonzero(keys))
    inverted, order = ordering.sort_best_first(keys)
    inverted, order = inverted[:num_ranked], order[:num_ranked]
    new_level = np.ones(num_ranked, np.bool_)
    if wide is None:
        np.not_equal(inverted[1:], inverted[:-1], out=new_level[1:])
        return order, new_level
    flags, count = ordering.mark_ties(inverted, order)
    del inverted
    if count:
        from beholder.kernels import ties

        np.invert(wide, out=wide)
        ties.sort_runs(order, flags, wide, num_threads)
        np.invert(wide, out=wide)
    for start in range(1, num_ranked, _BLOCK):
        stop = min(start + _BLOCK, num_ranked)
        found = wide[order[start - 1 : stop]]
        np.not_equal(found[1:], found[:-1], out=new_level[start:stop])
    return order, new_level


@dataclass(frozen=True)
class Cuts:
    """Where scores are cut, on their own scale.

    Attributes:
        least: scores of at least this stay (above it, where it is strict); None: all.
        most: scores of at most this stay; None: all.
        least_text, most_text: the rules as people write them.
        translations: what became of thresholds that were given on another scale.
        notes: lines about maps that are damaged.
    """

    least: Threshold | None
    most: float | None
    least_text: str
    most_text: str
    translations: tuple[Translation, ...] = ()
    notes: tuple[str, ...] = ()


def cuts_of(scores: ScoreSet, column: str | None, rules: SelectRules) -> Cuts:
    """The cuts that rules ask for.

    Args:
        scores: the set.
        column: the score column that thresholds go by.
        rules: what was asked for.

    Raises:
        InputError: no map between the two scales, a threshold outside of what it was fitted to, a landmark of another head.
    """
    least, most = rules.least_score, rules.max_score
    if rules.scale_of is None or column is None:
        return Cuts(least, most, "" if least is None else str(least), "" if most is None else f"score <= {most:g}")
    from beholder.scoreset.kept_scales import Scale, find_map, head_of_column, translate  # loads heads, which few rules need

    scale, head = Scale.named(rules.scale_of), head_of_column(scores, column, rules.head)
    if least is not None and least.landmark is not None and (scale.head is None or least.landmark.head != scale.head.name):
        whose = least.landmark.head or "a head that its makers do not name"
        raise InputError(
            f"--min-score {least.landmark.key} is on the scale of {whose}, and --scale-of names {scale.said}; give a number"
        )
    damaged: list[str] = []
    found, is_forward = find_map(head, scale, scores.source, damaged)
    made: list[Translation] = []

    def translated(value: float, flag: str, *, is_strict: bool = False) -> Translation:
        made.append(
            translate(found, is_forward=is_forward, value=value, flag=flag, scale=scale, head=head, is_strict=is_strict)
        )
        return made[-1]

    least_text = most_text = ""
    if least is not None:
        lower = translated(least.value, "--min-score", is_strict=least.is_strict)
        stays_strict = least.is_strict and not is_forward  # else the score that it became is the first one above
        least_text = f"score {'>' if stays_strict else '>='} {lower.used:.6g} ({least.short} on {scale.said})"
        least = Threshold(lower.used, least.landmark if stays_strict else None)
    if most is not None:
        upper = translated(most, "--max-score")
        most_text, most = f"score <= {upper.used:.6g} ({most:g} on {scale.said})", upper.used
    return Cuts(least, most, least_text, most_text, tuple(made), tuple(damaged))
