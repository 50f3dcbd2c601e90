"""The fuzzer finds faults of every kind that are planted in readers, and keeps a small file that shows each."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
import warnings
from collections.abc import Hashable
from pathlib import Path

import pytest

from beholder import BeholderError
from oracles.fuzzing import Target, check, table
from oracles.tiers import mostly_slow

SEED = b"HEAD" + bytes(range(64)) + b"TAIL"


def _checked(path: Path) -> bytes:
    data = path.read_bytes()
    if data[:4] != b"HEAD":
        raise BeholderError(f"{path} does not begin with HEAD; write it again")
    return data


def _sound(path: Path) -> Hashable:
    return len(_checked(path)) // 16


def _raises(path: Path) -> Hashable:
    return 1 // (b"TAIL" in _checked(path))


def _counts_wrong(path: Path) -> Hashable:
    assert b"TAIL" in _checked(path)
    return 0


def _crashes(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        ctypes.string_at(0)
    return 0


def _hangs(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        time.sleep(60)
    return 0


def _is_slow(path: Path) -> Hashable:
    until = time.process_time() + 0.15
    while b"TAIL" not in _checked(path) and time.process_time() < until:
        pass
    return 0


def _fills_memory(path: Path) -> Hashable:
    return 0 if b"TAIL" in _checked(path) else len(b"1" * (100 << 20))


def _warns(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        warnings.warn("no tail", RuntimeWarning, stacklevel=1)
    return 0


def _prints(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        os.write(2, b"no tail\n")
    return 0


def _leaves_a_file(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        Path("left").write_text("no tail")
    return 0


def _says_nothing(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        raise BeholderError("  ")
    return 0


def _names_no_file(path: Path) -> Hashable:
    if b"TAIL" not in _checked(path):
        raise BeholderError("no tail")
    return 0


def _exits(path: Path) -> Hashable:
    return 0 if b"TAIL" in _checked(path) else sys.exit()


PLANTED = {
    "raises": (_raises, "ZeroDivisionError"),
    "counts wrong": (_counts_wrong, "AssertionError"),
    "crashes": (_crashes, "crash, status -11"),
    "hangs": (_hangs, "hang"),
    "is slow": (_is_slow, "slow"),
    "fills memory": (_fills_memory, "memory"),
    "warns": (_warns, "warning RuntimeWarning"),
    "prints": (_prints, "printed no tail"),
    "leaves a file": (_leaves_a_file, "files left behind"),
    "says nothing": (_says_nothing, "no short line"),
    "names no file": (_names_no_file, "a line without the file"),
    "exits": (_exits, "SystemExit"),
}
TARGETS = {
    name: Target(read=read, seeds=lambda: [SEED], name="x.bin", limit_s=0.1, most_bytes=60 << 20)
    for name, (read, _) in {"sound": (_sound, ""), **PLANTED}.items()
}


@pytest.mark.parametrize("name", mostly_slow(PLANTED, quick=3))
def test_a_planted_fault_is_found_and_its_file_kept(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_FUZZ_FINDINGS", str(tmp_path / "kept"))
    with pytest.raises(AssertionError, match=f"(?s)findings in {name}.*{PLANTED[name][1]}.*file .*number"):
        check(__file__, name, tmp_path, count=25)
    kept = sorted((tmp_path / "kept").glob("*.bin"))
    assert kept
    assert PLANTED[name][1] in Path(f"{kept[0]}.why").read_text()


def test_a_kept_file_has_no_more_than_the_fault_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_FUZZ_FINDINGS", str(tmp_path / "kept"))
    with pytest.raises(AssertionError):
        check(__file__, "warns", tmp_path, count=25)
    assert {path.read_bytes() for path in (tmp_path / "kept").glob("*.bin")} == {b"HEAD"}


def test_a_sound_reader_is_told_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_FUZZ_TABLE", str(tmp_path / "table"))
    first = check(__file__, "sound", tmp_path, count=30)
    again = check(__file__, "sound", tmp_path, count=30)
    assert (first.inputs, first.refused, first.outcomes) == (again.inputs, again.refused, again.outcomes)
    assert first.inputs == 30
    assert 0 < first.refused < 30
    assert [json.loads(line)["inputs"] for line in (tmp_path / "table").read_text().splitlines()] == [30, 30]
    assert "| frame: sound |" in table(tmp_path / "table")
    assert "| 60 |" in table(tmp_path / "table")
