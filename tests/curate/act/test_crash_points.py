"""Acts and undos that die at every point where that could hurt: nothing is lost or overwritten, all ends the same."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import pytest

from oracles.program import python


@pytest.mark.slow
def test_a_run_may_die_anywhere(tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    with contextlib.ExitStack() as stack:
        far = ""
        if shared.is_dir() and shared.stat().st_dev != tmp_path.stat().st_dev:
            far = stack.enter_context(tempfile.TemporaryDirectory(dir=shared))
        script = Path(__file__).with_name("crash_acts.py")
        ran = python(str(script), str(tmp_path), far)
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 100
