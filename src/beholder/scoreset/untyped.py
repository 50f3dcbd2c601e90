"""Columns of text that may be meant as numbers (those of a CSV), made what a condition needs.

A table without types holds text. A condition takes such a column as text where it stands beside text, and as numbers,
truth values, dates or times where all its values are and the condition needs them. What is written out stays text.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from beholder.scoreset.score_set import quoted, text_literal

if TYPE_CHECKING:
    import duckdb

_LOOKED_AT = 2048
"""Rows that tell most columns of text apart from numbers, before all rows are asked."""
_MOST_TRIES = 64
_DAY = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}(\.[0-9]+)?)?"
_PATTERNS = {
    "BIGINT": r"[+-]?[0-9]+",
    "UBIGINT": r"[+-]?[0-9]+",
    "HUGEINT": r"[+-]?[0-9]+",
    "DOUBLE": r"(?i)[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?inf(inity)?|nan",
    "BOOLEAN": r"(?i)true|false",
    "DATE": _DAY,
    "TIME": _CLOCK,
    "TIMESTAMP": rf"{_DAY}([ T]{_CLOCK})?(Z|[+-][0-9]{{2}}(:?[0-9]{{2}})?)?",
}
"""DuckDB's types, the narrowest first, and what their values look like."""
_ORDERS = frozenset(
    f"COMPARE_{word}" for word in ("GREATERTHAN", "LESSTHAN", "GREATERTHANOREQUALTO", "LESSTHANOREQUALTO", "BETWEEN")
)
_EQUALITIES = frozenset(
    f"COMPARE_{word}" for word in ("EQUAL", "NOTEQUAL", "IN", "NOT_IN", "DISTINCT_FROM", "NOT_DISTINCT_FROM")
)
_TEXT_TYPES = ("VARCHAR", "TEXT", "STRING", "CHAR", "BPCHAR")
_JOINING = ("||", "concat", "concat_ws")
_CODE = "^[+-]?0[0-9]"
NUMBERS = ("BIGINT", "UBIGINT", "HUGEINT", "DOUBLE")
_FAMILIES = (NUMBERS, ("BOOLEAN",), ("DATE", "TIMESTAMP"), ("TIME",))


@dataclass(frozen=True)
class Form:
    """What all values of a column of text are, but those that are empty.

    Attributes:
        kind: DuckDB's type: BIGINT, UBIGINT, HUGEINT, DOUBLE, BOOLEAN, DATE, TIME or TIMESTAMP.
        is_plain: whether they are written as such values are; not with zeros in front, which codes have.
        num_different: about how many different ones there are.
    """

    kind: str
    is_plain: bool
    num_different: int

    def sql(self, column: str) -> str:
        """The column, as SQL, as values of this kind; NULL where it is empty or `nan`."""
        found = f"TRY_CAST({column} AS {self.kind})"
        return f"nullif({found}, 'nan'::DOUBLE)" if self.kind == "DOUBLE" else found


def forms_of(connection: duckdb.DuckDBPyConnection, source: str, names: Collection[str]) -> dict[str, Form]:
    """The forms of those of the columns that have one.

    Args:
        connection: DuckDB's.
        source: what stands after FROM.
        names: columns of text of it.
    """
    few = f"(SELECT {', '.join(map(quoted, names))} FROM {source} LIMIT {_LOOKED_AT})" if names else ""
    first = _looked(connection, few, dict.fromkeys(names, tuple(_PATTERNS)))
    families = {name: next(kinds for kinds in _FAMILIES if form.kind in kinds) for name, form in first.items()}
    return _looked(connection, source, families)


def _looked(connection: duckdb.DuckDBPyConnection, source: str, kinds: Mapping[str, Sequence[str]]) -> dict[str, Form]:
    """The forms of the columns (name -> kinds that it may be of) in these rows."""
    if not kinds:
        return {}
    asked = []
    for name, possible in kinds.items():
        column = f"nullif(trim({quoted(name)}), '')"
        asked += [f"count({column})", f"count(*) FILTER (regexp_matches({column}, '{_CODE}'))"]
        asked += [f"approx_count_distinct({column})"]
        asked += [f"count(*) FILTER (regexp_full_match({column}, {text_literal(_PATTERNS[kind])}))" for kind in possible]
        asked += [f"count(TRY_CAST({column} AS {kind}))" for kind in possible]
    counts = iter(connection.execute(f"SELECT {', '.join(asked)} FROM {source}").fetchall()[0])
    found = {}
    for name, possible in kinds.items():
        num, num_codes, num_different = (int(next(counts)) for _ in range(3))
        like = [int(next(counts)) for _ in possible]
        cast = [int(next(counts)) for _ in possible]
        fits = [kind for kind, a, b in zip(possible, like, cast, strict=True) if num and a == b == num]
        is_whole = "BIGINT" in possible and num == like[possible.index("BIGINT")]
        if fits and not (is_whole and fits[0] == "DOUBLE"):  # a float would be that of many so long whole numbers
            found[name] = Form(fits[0], num_codes == 0 or fits[0] not in NUMBERS, num_different)
    return found


@dataclass(frozen=True)
class _Use:
    """A column of text at a place of a condition: bytes [start, stop) of it."""

    start: int
    stop: int
    name: str
    by_text: bool


class Untyped:
    """Makes conditions over columns of text into such that mean what was meant.

    Args:
        names: columns of the source that come from tables without types. Other columns of text are text first, too, and
            taken as something else only in conditions that mean nothing else.
        known: what `forms` found for these columns; None: it is found out when it is needed, which looks at all their values.
    """

    def __init__(self, names: Collection[str] = (), known: Mapping[str, Form] | None = None) -> None:
        self._names = {name.lower() for name in names}
        self._forms: dict[str, Form | None] = {}
        if known is not None:
            self._forms = dict.fromkeys(self._names, None) | {name.lower(): form for name, form in known.items()}

    def fitted(self, connection: duckdb.DuckDBPyConnection, condition: str, source: str) -> str:
        """The condition, with columns of text replaced by their values where it needs those.

        As it is where there are none, and where it makes no sense either way: who runs it will say why.
        """
        import duckdb

        try:
            uses = list(self._uses(connection, condition, source, self._names))
            if not uses:
                return condition
            if not any(use.name in self._names for use in uses) and _binds(connection, condition, source):
                return condition
            self._learn(connection, source, {use.name for use in uses})
            kinds = {name: form.kind for name, form in self._forms.items() if form is not None}
            codes = {name for name, form in self._forms.items() if form is not None and not form.is_plain}
            numbers = self._names & kinds.keys()
            uses = [use for use in self._uses(connection, condition, source, numbers, codes) if use.name in kinds]
            likely = [use for use in uses if use.name in self._names and (not use.by_text or kinds[use.name] == "BOOLEAN")]
            for chosen in _ways(uses, likely):
                found = self._replaced(condition, chosen)
                if _binds(connection, found, source):
                    return found
        except duckdb.InterruptException:
            raise
        except (duckdb.Error, ValueError, RecursionError):
            pass
        return condition

    def forms(self, connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, Form]:
        """The forms of those columns without a type that have one."""
        texts = _texts_of(connection, source)
        self._learn(connection, source, {name for name in texts if name in self._names})
        return {texts[name]: form for name, form in self._forms.items() if form is not None and name in self._names}

    def _learn(self, connection: duckdb.DuckDBPyConnection, source: str, names: Collection[str]) -> None:
        texts = _texts_of(connection, source)
        new = [texts[name] for name in names if name not in self._forms and name in texts]
        if new:
            found = forms_of(connection, source, new)
            self._forms |= {name.lower(): found.get(name) for name in new}

    def _replaced(self, condition: str, uses: Sequence[_Use]) -> str:
        data = condition.encode()
        for use in sorted(uses, key=lambda use: -use.start):
            form = self._forms[use.name]
            assert form is not None
            column = data[use.start : use.stop].decode()
            data = data[: use.start] + form.sql(column).encode() + data[use.stop :]
        return data.decode()

    def _uses(
        self,
        connection: duckdb.DuckDBPyConnection,
        condition: str,
        source: str,
        untyped: Collection[str],
        codes: Collection[str] = (),
    ) -> Iterator[_Use]:
        """Where the condition takes columns of text.

        Args:
            connection: DuckDB's.
            condition: what it is.
            source: what stands after FROM.
            untyped: columns that may be meant as something else than text.
            codes: those whose numbers have zeros in front: equal to another column they are as texts.
        """
        line = f"SELECT (\n{condition}\n)"
        answer = connection.execute(f"SELECT json_serialize_sql({text_literal(line)})").fetchone()
        tree = json.loads(answer[0]) if answer is not None else {}
        if tree.get("error") or len(tree.get("statements", ())) != 1:
            return
        texts = _texts_of(connection, source)
        before = len(b"SELECT (\n")
        data = condition.encode()
        for node, by_text in _columns_in(tree["statements"][0]["node"]["select_list"], texts, untyped, codes):
            name = node["column_names"][-1].lower()
            start = node["query_location"] - before
            stop = start + node["query_location_length"]
            if name in texts and _is_name(data[start:stop], node["column_names"]):
                yield _Use(start, stop, name, by_text)


def _is_name(found: bytes, names: Sequence[str]) -> bool:
    """Whether the bytes at the place of a column are its name, as far as a look tells."""
    parts = re.findall(r'"((?:[^"]|"")*)"|([^\s."]+)', found.decode("utf-8", "replace"))
    return [(a.replace('""', '"') or b).lower() for a, b in parts] == [name.lower() for name in names]


def _texts_of(connection: duckdb.DuckDBPyConnection, source: str) -> dict[str, str]:
    """Columns of text of a source: in small letters -> as they are written."""
    described = connection.execute(f"DESCRIBE SELECT * FROM {source}").fetchall()
    return {str(name).lower(): str(name) for name, kind, *_ in described if str(kind) == "VARCHAR"}


def _columns_in(
    node: Any, texts: Collection[str], untyped: Collection[str], codes: Collection[str], by_text: bool = False
) -> Iterator[tuple[dict[str, Any], bool]]:
    """Columns in a part of a parsed query, and whether each stands beside text."""
    if isinstance(node, list):
        for item in node:
            yield from _columns_in(item, texts, untyped, codes, by_text)
        return
    if not isinstance(node, dict):
        return
    if node.get("class") == "COLUMN_REF":
        if "query_location" in node and "query_location_length" in node and node.get("column_names"):
            yield node, by_text
        return
    kind = node.get("class")
    if kind == "CAST":
        by_text = _is_text(node, texts, untyped)
    elif kind in ("CONJUNCTION", "CASE"):
        by_text = False
    elif kind in ("COMPARISON", "BETWEEN", "FUNCTION", "OPERATOR"):
        beside = [item for value in node.values() for item in (value if isinstance(value, list) else [value])]
        if node.get("type") in _ORDERS:  # a quoted number is compared as a number where the column is one
            beside = [item for item in beside if not isinstance(item, dict) or item.get("class") != "CONSTANT"]
        by_text = node.get("function_name") in _JOINING or any(_is_text(item, texts, untyped) for item in beside)
        if node.get("type") in _EQUALITIES and not by_text:
            columns = {name for item in beside if (name := _column_of(item)) is not None and name in texts}
            by_text = len(columns) > 1 and not columns.isdisjoint(codes)
    for value in node.values():
        yield from _columns_in(value, texts, untyped, codes, by_text)


def _is_text(node: Any, texts: Collection[str], untyped: Collection[str]) -> bool:
    """Whether a part of a condition is surely text."""
    if not isinstance(node, dict):
        return False
    if node.get("class") == "CONSTANT":
        return bool((node.get("literal") or {}).get("kind") == "STRING")
    if (name := _column_of(node)) is not None:
        return name in texts and name not in untyped
    if node.get("class") == "CAST":
        return str((node.get("type_expr") or {}).get("type_name", "")).upper() in _TEXT_TYPES
    return False


def _column_of(node: Any) -> str | None:
    """The name of the column that a part of a condition is, in small letters; None: it is something else."""
    if not isinstance(node, dict) or node.get("class") != "COLUMN_REF":
        return None
    return str((node.get("column_names") or [""])[-1]).lower()


def _ways(uses: Sequence[_Use], likely: Sequence[_Use]) -> Iterator[tuple[_Use, ...]]:
    """Which of the columns are taken as values, the likeliest choice first."""
    flipped = (
        tuple(use for use in uses if (use in likely) != (use in other))
        for count in range(len(uses) + 1)
        for other in itertools.combinations(uses, count)
    )
    ways = itertools.chain([tuple(likely), tuple(use for use in uses if not use.by_text), (), tuple(uses)], flipped)
    yield from dict.fromkeys(itertools.islice(ways, _MOST_TRIES))


def _binds(connection: duckdb.DuckDBPyConnection, condition: str, source: str) -> bool:
    """Whether DuckDB takes the condition, as one of truth."""
    import duckdb

    try:
        connection.execute(f"SELECT 1 FROM {source} WHERE (\n{condition}\n) LIMIT 0")
    except duckdb.InterruptException:
        raise
    except duckdb.Error:
        return False
    return True
