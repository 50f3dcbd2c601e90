"""Structs of Thrift's compact protocol, in which Parquet has its footers and the headers of its pages."""

from __future__ import annotations

from typing import Any


def take_struct(data: bytes, at: int, found: dict[int, Any], depth: int = 0) -> int:
    """Put the fields of the struct at `at` into `found`, by number; returns where it ends.

    Raises:
        IndexError: the data end before it does.
        ValueError: it is none.
    """
    if depth > 8:
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
        at = _take_value(data, at, head & 15, found, number, depth)


def _take_value(data: bytes, at: int, kind: int, found: dict[int, Any], number: int, depth: int) -> int:
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
        found[number], at = _take_list(data, at, depth)
    elif kind == 12:
        inner = found[number] = {}
        at = take_struct(data, at, inner, depth + 1)
    else:
        raise ValueError("no kind of value that a header has")
    return at


def _take_list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    """The values of the list at `at`, and where it ends; truth values are not told apart."""
    if depth > 8:
        raise ValueError("lists in lists without end")
    num_items, kind = data[at] >> 4, data[at] & 15
    at += 1
    if num_items == 15:
        num_items, at = _varint(data, at)
    items: dict[int, Any] = {}
    for number in range(num_items):
        if at >= len(data):
            raise IndexError
        at = at + 1 if kind in (1, 2) else _take_value(data, at, kind, items, number, depth + 1)
    return list(items.values()), at


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
