"""How far a run is, who works on it and how fast, during it, after it and after a crash.

All of it is read from the run's folder, on any disk or in a bucket: its record, the index and the done-markers of its shards,
the times at which these were written, and its lock. Nothing is written, and the run itself is not asked.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from beholder import columns
from beholder.columns import in_order
from beholder.errors import InputError
from beholder.io import places, storage
from beholder.io.records import DamagedRecordError
from beholder.scoring.folder import is_set_aside
from beholder.scoring.lock import Holder, holders
from beholder.scoring.output import PRODUCTS, SCORES, RunOutput, output_of
from beholder.scoring.reopen import FinishedResult
from beholder.scoring.run import planned_of
from beholder.scoring.shards import ShardResult, difference, marker_of

RATE_OF_LAST_S = 300.0
"""The rate is that of so many seconds, or of more where shards take long."""
_FEWEST_SHARDS = 5
"""Of fewer shards a rate says little: the time is extended to as many, but not to before whoever is at work began."""

State = Literal["running", "finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """How far a run is. A shard counts once all of it is done.

    Attributes:
        output: as the user named it.
        noun: "scores" or "embeddings".
        state: "running": somebody works on it; "finished": all is done; "stopped": neither.
        num_shards, num_rows: in all; None where that is not known: of rows that only reading counts, and of an earlier version.
        num_shards_done: of these.
        num_read, num_scored, num_rejected: rows of the shards that are done; of embeddings, `num_scored` have one.
        reasons: of the rejects.
        num_damaged: done-markers that cannot be read; their shards are done again.
        rows_per_second: lately, None where nobody is at work or nothing has been done yet.
        rate_s: the seconds that this is of.
        seconds_left: at that rate; None where it is not known.
        seconds_since: since a shard was finished last; None where none was, or nothing says when.
        at_work: who works on it.
        gone: whoever had the lock and ended without giving it back.
    """

    output: str
    noun: str
    state: State
    num_shards: int | None
    num_shards_done: int
    num_rows: int | None
    num_read: int
    num_scored: int
    num_rejected: int
    reasons: dict[str, int]
    num_damaged: int = 0
    rows_per_second: float | None = None
    rate_s: float | None = None
    seconds_left: float | None = None
    seconds_since: float | None = None
    at_work: Sequence[Holder] = ()
    gone: Sequence[Holder] = ()

    def to_json(self) -> dict[str, Any]:
        """JSON-ready record."""
        return {
            "output": self.output,
            "state": self.state,
            "num_planned_shards": self.num_shards,
            "num_shards_done": self.num_shards_done,
            "num_planned_rows": self.num_rows,
            "num_read": self.num_read,
            "num_scored": self.num_scored,
            "num_rejected": self.num_rejected,
            "reasons": self.reasons,
            "num_damaged_shards": self.num_damaged,
            "rows_per_second": self.rows_per_second,
            "seconds_of_rate": self.rate_s,
            "seconds_left": self.seconds_left,
            "seconds_since_last_shard": self.seconds_since,
            "at_work": [_who(holder) for holder in self.at_work],
            "ended_without_finishing": [_who(holder) for holder in self.gone],
        }


def _who(holder: Holder) -> dict[str, Any]:
    return {"host": holder.host, "user": holder.user, "process": holder.pid, "since": holder.since}


def status_of(output: str) -> RunStatus:
    """How far the run is that writes, or wrote, `output`: a folder, or a .parquet or .csv file; a path or URL.

    The folder of a file's shards may be named as well.

    Raises InputError where there is no run, and OutputError where its record is damaged.
    """
    out = RunOutput(output_of(output))
    folder = out.folder
    record = folder.read_record()
    if record is None or "result" in record or record.get("format") not in tuple(PRODUCTS):
        return _joined(out, record or {})
    who = holders(folder.root)  # before its shards: a run that ends meanwhile is not one that stopped
    times = folder.times()
    if columns.STAMP_FILE not in times:  # it has been joined meanwhile
        return _joined(out, {})
    names = sorted(folder.finished_names())
    now = max([time.time(), *(written for written in times.values() if written is not None)])
    done: list[_Done] = []
    num_scored = num_rejected = num_damaged = 0
    reasons: Counter[str] = Counter()
    for name, found in zip(names, folder.marked_shards(names), strict=True):
        if found is None or found.fingerprint != record.get("fingerprint"):
            num_damaged += found is None
            continue
        result = found.result
        done.append(_Done(times.get(marker_of(name)), result.num_read, is_kept=name.startswith(columns.KEPT_NAME)))
        num_scored += result.num_scored
        num_rejected += result.num_rejected
        reasons.update(result.reasons)
    if num_damaged and folder.read_record() is None:
        return _joined(out, {})
    at_work = [holder for holder, is_there in who if is_there]
    if not at_work and _is_joined_since(out, record, times):
        return _joined(out, {})
    num_shards, num_rows = planned_of(record)
    num_done = sum(not one.is_kept for one in done)
    rate, rate_s = _rate(done, now, at_work)
    is_whole = num_shards is not None and num_done >= num_shards and not out.is_separate
    written = [one.written for one in done if one.written is not None]
    return RunStatus(
        output=out.out,
        noun=PRODUCTS[record["format"]].noun,
        state="running" if at_work else "finished" if is_whole else "stopped",
        num_shards=num_shards,
        num_shards_done=num_done,
        num_rows=num_rows,
        num_read=num_scored + num_rejected,
        num_scored=num_scored,
        num_rejected=num_rejected,
        reasons=in_order(dict(reasons)),
        num_damaged=num_damaged,
        rows_per_second=rate,
        rate_s=rate_s,
        seconds_left=_seconds_left(done, num_shards, num_rows, rate),
        seconds_since=now - max(written) if written else None,
        at_work=at_work,
        gone=[holder for holder, is_there in who if not is_there],
    )


@dataclass(frozen=True)
class _Done:
    """A shard that is done: when, how many rows it has, whether these were kept though their inputs have vanished."""

    written: float | None
    num_read: int
    is_kept: bool


def _is_joined_since(out: RunOutput, record: Mapping[str, Any], times: Mapping[str, float | None]) -> bool:
    """Whether the shards of a folder were joined to one file since: a run was killed while it removed them.

    It is so where the finished result has these options and as many rows as are planned. Where these are not known, times tell:
    all of it is older than the result's record. A copy has other times, so they count for nothing where rows are known.

    Args:
        out: the output.
        record: of its folder; one that a run which opens a finished result wrote plans nothing yet.
        times: when each file of the folder was written.
    """
    if not out.is_separate or any(map(is_set_aside, times)):  # (what is set aside goes before the result is made)
        return False
    finished = FinishedResult(out)
    if finished.record is None or difference(finished.record["options"], record.get("options") or {}) is not None:
        return False
    _, num_rows = planned_of(record)
    if num_rows is not None:
        result = finished.record["result"]
        num_read = result.get("num_read") if isinstance(result, Mapping) else None
        return isinstance(num_read, int) and num_read - finished.num_kept == num_rows
    joined = places.modified(out.sidecar)
    written = [when for name, when in times.items() if not name.startswith(".")]  # (not its lock)
    if joined is None or not all(when is not None and when <= joined for when in written):
        return False
    return columns.PLANNED in record or joined not in written


def _joined(out: RunOutput, record: Mapping[str, Any]) -> RunStatus:
    """The status of a result that was joined, whose shards are no more. Raises InputError where there is none.

    `record`: that of its folder. Earlier versions left one of a finished result in a bucket.
    """
    if "result" not in record or record.get("format") not in tuple(PRODUCTS):
        found = out.read_sidecar()
        if found is None and not storage.exists(out.out):
            raise InputError(f"{out.out} does not exist; name what -o of beholder {SCORES.noun[:-1]} or embed names")
        if found is None:
            where = columns.STAMP_FILE if not out.is_separate else out.sidecar
            raise InputError(
                f"{out.out} is no run of beholder, or one that has not begun to write: there is no {where}"
                + ("" if out.is_separate else f" in it; name what -o of beholder {SCORES.noun[:-1]} or embed names")
            )
        record = found
    try:
        result = ShardResult.from_json(record["result"])
    except DamagedRecordError as error:
        raise out.damaged(error) from None
    return RunStatus(
        output=out.out,
        noun=PRODUCTS[record["format"]].noun,
        state="finished",
        num_shards=None,
        num_shards_done=0,
        num_rows=result.num_read,
        num_read=result.num_read,
        num_scored=result.num_scored,
        num_rejected=result.num_rejected,
        reasons=in_order(dict(result.reasons)),
    )


def _rate(done: Sequence[_Done], now: float, at_work: Sequence[Holder]) -> tuple[float | None, float | None]:
    """Rows a second lately, and the seconds that this is of: from the end of a shard until now."""
    if not at_work:
        return None, None
    began = min(datetime.fromisoformat(holder.since).timestamp() for holder in at_work)
    ends = sorted((one for one in done if one.written is not None and one.written >= began), key=lambda one: one.written or 0)
    recent = [one for one in ends if (one.written or 0) >= now - RATE_OF_LAST_S]
    if len(recent) <= _FEWEST_SHARDS:
        recent = ends[-_FEWEST_SHARDS - 1 :]
    if not recent:
        return None, None
    first, rows = began, sum(one.num_read for one in recent)
    if len(recent) > 1:  # what was done before its end is not of this time
        first, rows = recent[0].written or began, rows - recent[0].num_read
    seconds = max(now - first, 1e-3)
    return rows / seconds, seconds


def _seconds_left(done: Sequence[_Done], num_shards: int | None, num_rows: int | None, rate: float | None) -> float | None:
    """Seconds that the rest takes; of rows that only reading counts, as many a shard are expected as those done have."""
    own = [one.num_read for one in done if not one.is_kept]
    if not rate or num_shards is None or not own:
        return None
    left = num_rows - sum(own) if num_rows is not None else (num_shards - len(own)) * sum(own) / len(own)
    return max(0.0, left / rate)
