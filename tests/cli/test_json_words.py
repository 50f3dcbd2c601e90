"""What `--json` prints: a key that several commands have means the same, and has the same type, in all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from beholder.cli.app import app

KINDS: dict[str, type | tuple[type, ...]] = {
    "num_read": int, "num_scored": int, "num_rejected": int, "num_rows": int, "num_kept": int, "num_bytes": int,
    "num_pictures": int, "seconds": float, "warnings": list, "notes": list, "where": list, "reasons": dict, "output": str,
    "source": str,
}  # fmt: skip


@pytest.fixture(scope="module")
def printed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Command -> what it printed, one after the other on the same set."""
    folder = tmp_path_factory.mktemp("json")
    rng = np.random.default_rng(6)
    rows = rng.normal(size=(200, 4)).astype(np.float32)
    rows[0] = np.nan
    np.save(folder / "rows.npy", rows)
    np.savez(folder / "head.npz", coef_=rng.normal(size=4), intercept_=np.array(5.0))
    return {name: _run(folder, line.split()) for name, line in (
        ("score", "score rows.npy --head head.npz --backbone unknown -o scores.parquet --space-check off --json"),
        ("advise", "advise scores.parquet --json"),
        ("select", "select scores.parquet --top 20 -o kept.parquet --json"),
        ("report", "report scores.parquet --where true --no-thumbnails -o page.html --json"),
    )}  # fmt: skip


def _run(folder: Path, arguments: list[str]) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (0, 3), (result.output, result.exception)
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_one_key_has_one_type(printed: dict[str, dict[str, Any]]) -> None:
    for command, record in printed.items():
        for key, kind in KINDS.items():
            assert key not in record or isinstance(record[key], kind), (command, key)
    shared = {key for key in KINDS if sum(key in record for record in printed.values()) > 1}
    assert {"num_scored", "num_rejected", "num_rows", "num_kept", "seconds", "warnings", "notes", "where", "source"} <= shared


def test_one_key_means_one_thing(printed: dict[str, dict[str, Any]]) -> None:
    assert {record["num_scored"] for record in printed.values() if "num_scored" in record} == {199}
    assert {record["num_rejected"] for record in printed.values() if "num_rejected" in record} == {1}
    assert {record["num_rows"] for record in printed.values() if "num_rows" in record} == {199}
    assert "num_kept" not in printed["score"]  # of select and advise: rows that stay
    assert printed["score"]["num_vanished_kept"] == 0
    assert list(printed["report"]["num_scored_by_column"].values()) == [199]
