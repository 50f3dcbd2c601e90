"""Pools that tests share which neither close them nor count their workers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from beholder.workers.pool import DecodePool, ThumbnailPool
from oracles.odd_pools import pool_of
from oracles.odd_thumbnails import NAME


@pytest.fixture(scope="session")
def odd_pool() -> Iterator[DecodePool]:
    """Two workers whose decoder does what the bytes say."""
    with pool_of(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def thumbnails() -> Iterator[ThumbnailPool]:
    """Two workers that make thumbnails."""
    with ThumbnailPool(num_workers=2) as pool:
        yield pool


@pytest.fixture(scope="session")
def odd_thumbnails() -> Iterator[ThumbnailPool]:
    """One worker that does what stands behind a picture, within 0.7 s."""
    with ThumbnailPool(num_workers=1, timeout_s=0.7, decoder=NAME) as pool:
        yield pool
