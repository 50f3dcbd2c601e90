"""What tests of faults share: the table, and how many are injected."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oracles.disturbing import Job
from oracles.fault_jobs import of_pictures, of_rows, write_photos, write_rows, write_tars
from oracles.fault_table import FaultTable


@pytest.fixture
def fault_table(record_property: Callable[[str, Any], None]) -> FaultTable:
    """Where a test says what it injected and what that cost; it fails unless that is nothing."""
    return FaultTable(record_property)


@pytest.fixture
def size() -> str:
    """The size of a test, of which `tiers.sizes` makes cases."""
    return ""


@pytest.fixture
def num_faults(request: pytest.FixtureRequest, size: str) -> int:
    """How many to inject of a kind: `BEHOLDER_FAULTS`, 50 unless told, in `make soak`; else 1."""
    return int(os.environ.get("BEHOLDER_FAULTS", "50")) if request.node.get_closest_marker("soak") else 1


@pytest.fixture(scope="session")
def job_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of jobs that are disturbed, which share what they have compiled."""
    cache = tmp_path_factory.mktemp("job-cache")
    own = {"BEHOLDER_CACHE": cache / "beholder", "BEHOLDER_DATA": cache / "data", "HF_HOME": cache / "huggingface"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("BEHOLDER_", "HF_"))}
    return {**inherited, **{name: str(path) for name, path in own.items()}, "BEHOLDER_PROGRESS_S": "0"}


@pytest.fixture(scope="session")
def rows_job(tmp_path_factory: pytest.TempPathFactory, job_env: dict[str, str], small_head: Path) -> Job:
    """Embeddings to scores."""
    folder = tmp_path_factory.mktemp("rows-job")
    return Job(of_rows(write_rows(folder / "in"), small_head), folder / "whole", job_env).prepare()


@pytest.fixture(scope="session")
def pictures_job(tmp_path_factory: pytest.TempPathFactory, job_env: dict[str, str], small_tower: Path, plain_head: Path) -> Job:
    """Pictures, hostile ones among them, to scores and embeddings that are kept, with two processes that decode."""
    folder = tmp_path_factory.mktemp("pictures-job")
    more = ("--head", str(plain_head), "--device", "cpu", "-j", "2", "--keep-embeddings", "--max-pixels", "1000000")
    line = ("score", *of_pictures(write_photos(folder / "in", num_hostile=14), small_tower, *more))
    return Job(line, folder / "whole", job_env).prepare()


@pytest.fixture(scope="session")
def embed_job(tmp_path_factory: pytest.TempPathFactory, job_env: dict[str, str], small_tower: Path) -> Job:
    """Pictures to embeddings, decoded in the process itself."""
    folder = tmp_path_factory.mktemp("embed-job")
    line = ("embed", *of_pictures(write_photos(folder / "in"), small_tower, "--device", "cpu", "-j", "0"))
    return Job(line, folder / "whole", job_env).prepare()


@pytest.fixture(scope="session")
def devices_job(tmp_path_factory: pytest.TempPathFactory, job_env: dict[str, str], small_tower: Path, plain_head: Path) -> Job:
    """Tars to scores, by two processes."""
    folder = tmp_path_factory.mktemp("devices-job")
    more = ("--head", str(plain_head), "--devices", "cpu:2", "-j", "0")
    line = ("score", *of_pictures(write_tars(folder / "in"), small_tower, *more))
    return Job(line, folder / "whole", job_env, suffixes=("", ".parquet")).prepare()
