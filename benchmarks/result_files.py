"""Where result files are kept and what they are called: `<theme>_<processor>_<yyyymm>.md`."""

from __future__ import annotations

import datetime
import re
import sys
from pathlib import Path

import machine

REPOSITORY = Path(__file__).resolve().parents[1]


def month() -> str:
    """The current month, as headings name it."""
    return f"{datetime.date.today():%Y-%m}"


def save(theme: str, lines: list[str], device: str | None = None) -> Path:
    """Write the lines to benchmarks/results, named by the device (default: the processor); returns the path."""
    name = re.sub(r"\W+", "-", device or machine.processor().split(" (")[0]).strip("-").lower()
    target = REPOSITORY / "benchmarks" / "results" / f"{theme}_{name}_{datetime.date.today():%Y%m}.md"
    target.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {target.relative_to(REPOSITORY)}", file=sys.stderr)
    return target
