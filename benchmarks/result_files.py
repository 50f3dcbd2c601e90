"""Where result files are kept and what they are called: `<theme>_<processor>[-amx]_<yyyymm>.md`."""

from __future__ import annotations

import datetime
import re
import subprocess
import sys
from pathlib import Path

import machine

REPOSITORY = Path(__file__).resolve().parents[1]


def month() -> str:
    """The current month, as headings name it."""
    return f"{datetime.date.today():%Y-%m}"


def commit() -> str:
    """A line that says which commit was measured, and whether files of the program differed from it."""

    def told(*words: str) -> str:
        return subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True).stdout.strip()

    found = told("log", "-1", "--format=%h of %cs")
    changed = told("status", "--short", "--", "src", "benchmarks/*.py")
    return f"- commit {found or 'unknown'}" + (", with changes that were not committed" if changed else "")


def save(theme: str, lines: list[str], device: str | None = None) -> Path:
    """Write the lines to benchmarks/results, named by the device (default: the processor); returns the path."""
    model, _, features = machine.processor().partition(" (")
    # Virtual machines hide the model; with and without matrix units in bfloat16 are two processors.
    named = device or model + (" amx" if "amx" in features else "")
    name = re.sub(r"\W+", "-", named).strip("-").lower()
    target = REPOSITORY / "benchmarks" / "results" / f"{theme}_{name}_{datetime.date.today():%Y%m}.md"
    last = max((at for at, line in enumerate(lines[:8]) if line.startswith(("- ", "  "))), default=1)
    lines = [*lines[: last + 1], commit(), *lines[last + 1 :]]
    target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {target.relative_to(REPOSITORY)}", file=sys.stderr)
    return target
