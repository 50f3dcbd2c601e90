"""Whose temporary files are, by their names."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from beholder.io.processes import is_running
from beholder.io.temporaries import is_of_the_dead, own_name


def test_only_a_file_of_a_process_that_is_gone_is_of_the_dead() -> None:
    own = own_name()
    assert not is_of_the_dead(own)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait(30)
    assert is_of_the_dead(f"scores/{own.replace(f'-{os.getpid()}-', f'-{ended.pid}-')}")
    assert not is_of_the_dead(".beholder-0123456789ab-1-x.tmp"), "of another machine"


@pytest.mark.parametrize("pid", [1 << 31, (1 << 32) + 1, 9_999_999_999, 10**19, 10**200])
def test_a_number_that_no_process_has(pid: int) -> None:
    assert not is_of_the_dead(own_name().replace(f"-{os.getpid()}-", f"-{pid}-"))
    assert not is_running(pid)
