"""Structs of Thrift's compact protocol, in which Parquet has its footers and the headers of its pages."""

from __future__ import annotations

from collections.abc import Container
from typing import Any

Wanted = tuple[Container[int] | None, ...]
"""Numbers of fields of a struct, or of items of a list; then of what is in these, and so on; None, and at the end: all."""
_MOST_DEPTH = 8


def take_struct(data: bytes, at: int, found: dict[int, Any], depth: int = 0, wanted: Wanted = ()) -> int:
    """Put the fields of the struct at `at` into `found`, by number; returns where it ends.

    What is not wanted is passed over, in a fraction of the time.

    Raises:
        IndexError: the data end before it does.
        ValueError: it is none.
    """
    if depth > _MOST_DEPTH:
        raise ValueError("structs in structs without end")
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return at
        number += head >> 4
        if not head >> 4:
            number, at = _varint(data, at)
            number = _signed(number)
        if _is_wanted(number, wanted):
            at = _take_value(data, at, head & 15, found, number, depth, wanted[1:])
        else:
            at = _behind_value(data, at, head & 15, depth)


def _is_wanted(number: int, wanted: Wanted) -> bool:
    return not wanted or wanted[0] is None or number in wanted[0]


def _take_value(data: bytes, at: int, kind: int, found: dict[int, Any], number: int, depth: int, wanted: Wanted) -> int:
    """Put the value at `at` into `found`; returns where it ends."""
    if kind in (1, 2):  # true and false
        found[number] = kind == 1
    elif kind == 3:
        at += 1
    elif kind in (4, 5, 6):
        value, at = _varint(data, at)
        found[number] = _signed(value)
    elif kind == 7:
        at += 8
    elif kind == 8:
        num_bytes, at = _varint(data, at)
        found[number] = data[at : at + num_bytes]
        at += num_bytes
    elif kind in (9, 10):
        found[number], at = _take_list(data, at, depth, wanted)
    elif kind == 12:
        inner = found[number] = {}
        at = take_struct(data, at, inner, depth + 1, wanted)
    else:
        raise ValueError("no kind of value that a header has")
    return at


def _take_list(data: bytes, at: int, depth: int, wanted: Wanted) -> tuple[list[Any], int]:
    """The wanted values of the list at `at`, and where it ends; truth values are not told apart."""
    if depth > _MOST_DEPTH:
        raise ValueError("lists in lists without end")
    num_items, kind = data[at] >> 4, data[at] & 15
    at += 1
    if num_items == 15:
        num_items, at = _varint(data, at)
    items: dict[int, Any] = {}
    for number in range(num_items):
        if at >= len(data):
            raise IndexError
        if kind in (1, 2):
            at += 1
        elif _is_wanted(number, wanted):
            at = _take_value(data, at, kind, items, number, depth + 1, wanted[1:])
        else:
            at = _behind_value(data, at, kind, depth + 1)
    return list(items.values()), at


def _behind_struct(data: bytes, at: int, depth: int) -> int:
    """Where the struct at `at` ends. Raises as `take_struct` does."""
    if depth > _MOST_DEPTH:
        raise ValueError("structs in structs without end")
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return at
        if head < 16:
            at = _behind_number(data, at)
        at = _behind_value(data, at, head & 15, depth)


def _behind_value(data: bytes, at: int, kind: int, depth: int) -> int:
    """Where the value at `at` ends."""
    if 4 <= kind <= 6:
        return _behind_number(data, at)
    if kind == 8:
        num_bytes, at = _varint(data, at)
        return at + num_bytes
    if kind == 12:
        return _behind_struct(data, at, depth + 1)
    if kind in (9, 10):
        return _behind_list(data, at, depth)
    if kind in (1, 2, 3, 7):
        return at + (0, 0, 0, 1, 0, 0, 0, 8)[kind]
    raise ValueError("no kind of value that a header has")


def _behind_list(data: bytes, at: int, depth: int) -> int:
    if depth > _MOST_DEPTH:
        raise ValueError("lists in lists without end")
    num_items, kind = data[at] >> 4, data[at] & 15
    at += 1
    if num_items == 15:
        num_items, at = _varint(data, at)
    if kind in (1, 2, 3):
        return at + num_items
    for _ in range(num_items):
        if at >= len(data):
            raise IndexError
        at = _behind_value(data, at, kind, depth + 1)
    return at


def _behind_number(data: bytes, at: int) -> int:
    while data[at] > 127:
        at += 1
    return at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number without end")


def _signed(value: int) -> int:
    return (value >> 1) ^ -(value & 1)
