"""Which cases of a test belong to the quick tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_slow(values: Iterable[Any], quick: int = 1) -> list[Any]:
    """Cases for `parametrize`: the first `quick` run with the quick tests, the others only with the slow ones.

    A tuple is the values of several parameters; one that is a single value is given as `pytest.param(value)`.
    """
    found = []
    for number, value in enumerate(values):
        if number < quick:
            found.append(value)
        elif isinstance(value, type(pytest.param())):
            found.append(pytest.param(*value.values, marks=[*value.marks, pytest.mark.slow], id=value.id))
        elif isinstance(value, tuple):
            found.append(pytest.param(*value, marks=pytest.mark.slow))
        else:
            found.append(pytest.param(value, marks=pytest.mark.slow))
    return found
