"""The line that an error of ours is."""

from __future__ import annotations

import pytest

from beholder import BeholderError, InputError
from beholder.errors import DamagedError


@pytest.mark.parametrize("kind", [BeholderError, InputError])
def test_of_a_very_long_line_the_middle_is_left_out(kind: type[BeholderError]) -> None:
    line = str(kind("begin " + "x" * 100_000 + " end"))
    assert len(line) < 4000
    assert line.startswith("begin xxx")
    assert line.endswith("xxx end")
    begin, left_out, end = line.split(" ... ")
    assert left_out == f"({100_010 - len(begin) - len(end):,} characters left out)"


@pytest.mark.parametrize("length", [0, 1, 3999, 4000])
def test_lines_of_up_to_4000_characters_stay_whole(length: int) -> None:
    assert str(BeholderError("é" * length)) == "é" * length


def test_control_characters_count_as_they_are_shown() -> None:
    assert str(BeholderError("\n" * 3000)).count("\\n") < 2000
    assert "\n" not in str(DamagedError("a\nb", "c\x1b" * 5000))
