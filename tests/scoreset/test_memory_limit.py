"""Conditions that would take all memory, of local commands: one line, and the limit is gone afterwards."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from beholder.errors import BeholderError
from beholder.scoreset.database import (
    WITH_FLAG,
    Remedy,
    all_rows,
    clear_errors,
    connect,
    free_bytes,
    interruptible,
    within_free_memory,
)

GIB = 1 << 30


def test_the_database_works_within_the_free_memory_and_nothing_else_does(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with connect(tmp_path) as connection:
        soft, hard = interruptible(connection, lambda: resource.getrlimit(resource.RLIMIT_DATA))
        assert hard == before[1]
        assert 0 < soft < free_bytes() + 16 * GIB, "what is used already counts as well"
        assert resource.getrlimit(resource.RLIMIT_DATA) == before
        with within_free_memory(), within_free_memory():
            assert all_rows(connection, "SELECT 1") == [(1,)]
            assert resource.getrlimit(resource.RLIMIT_DATA) != before
        assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_what_the_machine_has_free_is_no_more_than_it_has() -> None:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    (total,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal:"))
    assert 0 < free_bytes() <= total


@pytest.mark.slow
@pytest.mark.parametrize("command", ["select", "advise"])
def test_a_condition_that_wants_too_much_memory_is_one_line(tmp_path: Path, command: str) -> None:
    """The process may have 4 GiB here, whatever the machine has."""
    table = pa.table({"sample": ["a", "b"], "aesthetic_score": np.full(2, 5, np.float32), "width": [3, 4]})
    pq.write_table(table, tmp_path / "s.parquet")
    start = f"import resource; resource.setrlimit(resource.RLIMIT_DATA, ({4 * GIB}, {4 * GIB})); " + (
        "import runpy; runpy.run_module('beholder', run_name='__main__', alter_sys=True)"
    )
    words = [command, "s.parquet", "--where", "list_sum(range(4000000000)) > 0"]
    words += ["-o", "k.txt"] if command == "select" else []
    result = subprocess.run(
        [sys.executable, "-c", start, *words], cwd=tmp_path, capture_output=True, text=True, timeout=250, check=False
    )
    assert result.returncode == 1, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("beholder: ")
    assert line.endswith("it needs more memory than this machine has free; write a simpler one")
    assert not (tmp_path / "k.txt").exists()


@pytest.mark.parametrize(
    ("remedy", "told"),
    [
        (Remedy(), "make more room for temporary files (TMPDIR)"),
        (Remedy(is_condition=True), "write a simpler one"),
        (WITH_FLAG, "give a larger --memory, or more room for temporary files"),
    ],
)
def test_what_is_told_is_what_can_be_done(tmp_path: Path, remedy: Remedy, told: str) -> None:
    """Nobody wrote a condition here, or there is no --memory: what a database without room says."""
    with connect(tmp_path, memory=8_000_000) as connection:
        connection.execute("SET max_temp_directory_size = '0KB'")
        with pytest.raises(BeholderError) as refusal, clear_errors("s.parquet cannot be read", remedy):
            all_rows(connection, "SELECT i FROM range(5000000) AS t(i) ORDER BY hash(i) LIMIT 1 OFFSET 4000000")
    assert str(refusal.value) == f"s.parquet cannot be read: DuckDB ran out of memory; {told}"


def test_without_a_condition_nobody_is_told_to_write_a_simpler_one() -> None:
    with pytest.raises(BeholderError) as refusal, clear_errors("s.parquet cannot be read"):
        raise MemoryError
    assert str(refusal.value).endswith("it needs more memory than this machine has free; close other programs")
