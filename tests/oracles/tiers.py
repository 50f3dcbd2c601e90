"""Which cases of a test belong to the quick tests, which to the slow ones, and which are for `make soak` alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], quick: int = 1, slow: int | None = None) -> list[Any]:
    """Cases for `parametrize`: the first `quick` run with the quick tests, the next `slow` (None: all) with the slow ones.

    The others run in `make soak`. A tuple is the values of several parameters; one that is a single value is given as
    `pytest.param(value)`.
    """
    found = []
    for number, value in enumerate(values):
        mark = pytest.mark.slow if slow is None or number < quick + slow else pytest.mark.soak
        if number < quick:
            found.append(value)
        elif isinstance(value, type(pytest.param())):
            found.append(pytest.param(*value.values, marks=[*value.marks, mark], id=value.id))
        elif isinstance(value, tuple):
            found.append(pytest.param(*value, marks=mark))
        else:
            found.append(pytest.param(value, marks=mark))
    return found


SIZES: dict[str, list[pytest.MarkDecorator]] = {
    "quick": [],
    "slow": [pytest.mark.slow],
    "soak": [pytest.mark.soak, pytest.mark.timeout(7200)],
}
"""Sizes of a test of faults, which its `num_faults` goes by (`faults/conftest.py`), with their marks."""


def sizes(*names: str) -> pytest.MarkDecorator:
    """A mark for tests of faults that use `num_faults`: one case for each of these `SIZES`."""
    return pytest.mark.parametrize("size", [pytest.param(name, marks=SIZES[name], id=name) for name in names])


def sized(
    cases: Iterable[tuple[Any, ...]], quick: Collection[tuple[Any, ...]], slow: Collection[tuple[Any, ...]] | None = None
) -> list[Any]:
    """Each case with its size as the last of its values: quick or slow if it is one of these, and for the soak.

    `slow` is None: all that are not quick.
    """
    return [
        pytest.param(*case, size, marks=SIZES[size])
        for case in cases
        for size in SIZES
        if size == "soak"
        or (size == "quick" and case in quick)
        or (size == "slow" and case not in quick and (slow is None or case in slow))
    ]
