"""Fixtures that several test folders use."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for `oracles`

REPOSITORY = Path(__file__).resolve().parents[1]


def _beside(variable: str, name: str) -> Path | None:
    chosen = os.environ.get(variable)
    candidates = [Path(chosen)] if chosen else []
    candidates.append(REPOSITORY.parent / "shared" / name)
    return next((path for path in candidates if path.is_dir()), None)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder with the public heads; see tests/README.md."""
    folder = _beside("BEHOLDER_TEST_MODELS", "models")
    if folder is None:
        pytest.skip("needs-shared-models: set BEHOLDER_TEST_MODELS to a folder with the public heads")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder with LAION's mean embeddings; see tests/README.md."""
    folder = _beside("BEHOLDER_TEST_REFERENCE", "reference")
    if folder is None:
        pytest.skip("needs-shared-models: set BEHOLDER_TEST_REFERENCE to a folder with the reference embeddings")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches, asks a hub, or sees the user's model folder."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("BEHOLDER_CACHE", str(cache / "beholder"))
    monkeypatch.setenv("HF_HOME", str(cache / "huggingface"))
    monkeypatch.delenv("BEHOLDER_MODELS", raising=False)
    monkeypatch.delenv("BEHOLDER_OFFLINE", raising=False)
