"""Named points where a process dies on request: only there, only at the time asked for, and without any cleaning up."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

CODE = """
import atexit
from beholder.io.crash import reach
atexit.register(print, "cleaned up")
for name in ("a", "b", "a", "a"):
    reach(name)
    print(name, flush=True)
"""


@pytest.mark.parametrize(
    ("at", "status", "said"),
    [
        ("a", 137, ""),
        ("b", 137, "a"),
        ("a:2", 137, "a b"),
        ("a:4", 0, "a b a a cleaned up"),
        ("c", 0, "a b a a cleaned up"),
        ("", 0, "a b a a cleaned up"),
    ],
)
def test_a_process_dies_at_the_point_that_is_named(at: str, status: int, said: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", CODE], env=os.environ | {"BEHOLDER_CRASH_AT": at}, capture_output=True, text=True, check=False
    )
    assert (ran.returncode, " ".join(ran.stdout.split()), ran.stderr) == (status, said, "")
