"""Scores that the demo made in; the best of them as a list, and one HTML page about the photographs, out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[str], None]

_INDENT = " " * 12
_SHARE = "1%"


def select_best(scores: Path, out: Path, say: Say) -> dict[str, Any]:
    """Write the best hundredth of `scores` to `out` (Parquet), replacing an earlier one, as `beholder select` does.

    Returns a JSON-ready record: the funnel, the lowest score that is left, seconds, the file.
    """
    from beholder.curate.select.options import OutputOptions
    from beholder.curate.select.selection import SelectRules, select_rows
    from beholder.curate.select.writing import write_lists
    from beholder.scoreset.score_set import open_scores

    started = time.perf_counter()
    with open_scores(str(scores)) as opened, select_rows(opened, SelectRules(top_share=_SHARE)) as chosen:
        write_lists(chosen, OutputOptions(out=str(out), overwrite=True))
        record = chosen.to_json()
        lowest = chosen.thresholds.get("top_share")
    seconds = time.perf_counter() - started
    low = "" if lowest is None else f", down to a score of {lowest:.3f}"
    say(f"7  select   the best {_SHARE}: {chosen.num_kept:,} of {chosen.num_rows:,} rows{low}  [{seconds:.1f} s]")
    return record | {"seconds": seconds, "path": str(out)}


def report_photographs(scores: Path, out: Path, is_trained: bool, say: Say) -> dict[str, Any]:
    """Write the page about the photographs, replacing an earlier one, as `beholder report` does.

    Returns a JSON-ready record: size, thumbnails, seconds, the file.
    """
    from beholder.reporting.options import ReportOptions
    from beholder.reporting.report import write_report

    title = "Photographs of the demo" + ("" if is_trained else ": scores of a tower nobody trained, which mean nothing")
    summary = write_report(ReportOptions(scores=str(scores), out=str(out), overwrite=True, title=title, offline=True))
    say(
        f"8  report   one page with {summary.num_thumbnails} thumbnails, histogram, thresholds, rejects, provenance: "
        f"{summary.num_bytes / 1e6:.1f} MB  [{summary.seconds:.1f} s]"
    )
    say(f"{_INDENT}open {out} in a browser; live, with a slider: beholder browse {scores}")
    return {
        "num_bytes": summary.num_bytes,
        "num_thumbnails": summary.num_thumbnails,
        "seconds": summary.seconds,
        "path": str(out),
    }
