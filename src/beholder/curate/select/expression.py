"""Text such as "0.7*a + 0.3*b" in, a small arithmetic expression over columns out: + - * / brackets, numbers and names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from beholder.errors import InputError

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
    def __init__(self, text: str, known: Mapping[str, str], flag: str) -> None:
        self.text, self.at, self.known, self.flag = text, 0, known, flag
        self.names: list[str] = []
        self.depth = 0

    def failed(self, why: str) -> InputError:
        return InputError(f'{self.flag} "{self.text}": {why}')

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


def parse_expression(text: str, known: Mapping[str, str], flag: str = "--rank-by") -> Expression:
    """Parse an expression.

    Args:
        text: names stand bare, in double quotes or in backticks; a bare name is the longest known one that stands there,
            so `a-b` is a column of that name where there is one, and `a - b` a difference.
        known: name -> column; columns under their own names, and further names for them.
        flag: for messages.

    Raises:
        InputError: no such name, or no expression.
    """
    parser = _Parser(text, known, flag)
    root = parser.sum()
    if rest := parser.skip():
        raise parser.failed(f"{rest!r} is not expected at character {parser.at + 1}")
    if not parser.names:
        raise parser.failed("it names no column")
    return Expression(text, tuple(parser.names), root)


def known_names(columns: Sequence[str], aliases: Mapping[str, str]) -> dict[str, str]:
    """Names for `parse_expression`: the columns, and aliases that are no column's name."""
    return {**{alias: column for alias, column in aliases.items() if alias not in columns}, **{name: name for name in columns}}
