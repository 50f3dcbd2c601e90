"""Places for embeddings that are no local folders."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest


@pytest.fixture
def memory_folder() -> Iterator[str]:
    """A folder of fsspec's file system in memory."""
    yield "memory://beholder-test"
    fsspec.filesystem("memory").rm("/beholder-test", recursive=True)
