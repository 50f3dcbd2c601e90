"""What tests of faults share: the table, and how many are injected."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from oracles.fault_table import FaultTable


@pytest.fixture
def fault_table(record_property: Callable[[str, Any], None]) -> FaultTable:
    """Where a test says what it injected and what that cost; it fails unless that is nothing."""
    return FaultTable(record_property)


@pytest.fixture
def num_faults(request: pytest.FixtureRequest) -> int:
    """How many to inject of a kind: `BEHOLDER_FAULTS`, 50 unless told, in `make soak`; 3 in slow tests, 1 in quick ones."""
    if request.node.get_closest_marker("soak"):
        return int(os.environ.get("BEHOLDER_FAULTS", "50"))
    return 3 if request.node.get_closest_marker("slow") else 1
