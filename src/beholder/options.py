"""Fields of options classes, of which the command line makes flags."""

from __future__ import annotations

import os
from dataclasses import Field, dataclass, field, fields
from pathlib import PurePosixPath
from typing import Any

from beholder.errors import InputError

LONGEST_WAIT_S = 86_400.0
"""Longest time limit that may be asked for: a day; systems cannot wait for any number of seconds."""
PICTURE_TIMEOUT_S = 60.0
"""Seconds that one picture may take to be read and decoded for its score, where nothing else is asked for."""
THUMBNAIL_TIMEOUT_S = 20.0
"""The same where somebody waits to see it."""
MOST_THREADS, MOST_WORKERS = 1024, 256
"""Most threads, and processes that decode, that may be asked for: more than machines have use for, or let start."""


def option(default: Any, text: str, **more: Any) -> Any:
    """A field that is a flag too.

    Args:
        default: its default.
        text: what it means; the flag's help.
        more: `flag`: the flag's names where they are not the field's; `shown`: how help states the default;
            `read`: how text becomes the value ("bytes"); `choices`: the values that are allowed; `least`, `most`: the
            smallest and the largest number; `old`: former names of the flag, which are taken as before and not shown;
            `old_names`: former names of the field, which Python functions still take (`take_old_names`).
    """
    return field(default=default, metadata={"help": text, **more})


def take_old_names(given: dict[str, Any], options: type, function: str) -> dict[str, Any]:
    """Keywords with former names of fields under their present ones. Raises TypeError where both names are given."""
    present = {old: item.name for item in fields(options) for old in item.metadata.get("old_names", ())}
    found: dict[str, Any] = {}
    for name, value in given.items():
        now = present.get(name, name)
        if now in found:
            raise TypeError(
                f"{function}() got {now!r} twice: {name if name != now else now!r} is the same option by another name"
            )
        found[now] = value
    return found


KEEP_FIRST, REFUSE, ALL = "keep-first", "refuse", "all"
REPEATED = (KEEP_FIRST, REFUSE, ALL)
"""What may become of rows of scores that name a sample again (`scoreset.row_names`)."""


def repeated_option() -> Any:
    """The field for what becomes of them."""
    text = "Rows whose sample came before (two files of the same pictures): keep-first, refuse, or all, which counts both."
    return option(KEEP_FIRST, text, choices=REPEATED)


def where_option() -> Any:
    """The field for conditions that rows have to meet."""
    return option(
        (), "Only rows for which this SQL condition over any column holds, e.g. 'width >= 512' (repeatable; all must hold)."
    )


def join_option() -> Any:
    """The field for tables with more columns."""
    return option((), "Metadata to join by sample: .parquet or .csv (repeatable).")


def picture_column_option() -> Any:
    """The field for the column that says where the pictures are (`scoreset.picture_column`)."""
    text = "Column with paths or URLs of the pictures, where the rows' names are neither."
    return option(None, text, shown="found by itself")


def flag_names(item: Field[Any]) -> tuple[str, ...]:
    """The names of the flag that a field is."""
    names: tuple[str, ...] = item.metadata.get("flag", ("--" + item.name.replace("_", "-"),))
    return names


def check_choices(options: Any) -> None:
    """Raise InputError where a field of an options class has a value that is none of its `choices`."""
    for item in fields(options):
        allowed, value = item.metadata.get("choices", ()), getattr(options, item.name)
        if allowed and value not in allowed and value != item.default:
            which = " or ".join(allowed) if len(allowed) == 2 else f"one of {', '.join(allowed)}"
            raise InputError(f"{flag_names(item)[0]} {value}: choose {which}")


def threads_option(text: str = "Threads.", shown: str = "all cores") -> Any:
    """The field for how many threads work; `check_threads` checks it."""
    return option(None, text, flag=("--threads",), shown=shown, least=1, most=MOST_THREADS)


def all_cores() -> int:
    """Cores that this process may use: the default of `--threads`."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_threads(number: int | None) -> None:
    """Raise InputError for a `--threads` that is no number of threads; None: the default."""
    if number is not None and not 1 <= number <= MOST_THREADS:
        raise InputError(f"--threads {number:,}: give at least 1 and at most {MOST_THREADS:,}")


def check_workers(number: int | None) -> None:
    """Raise InputError for a `--workers` that is no number of processes; None: the default."""
    if number is not None and not 0 <= number <= MOST_WORKERS:
        raise InputError(f"--workers {number:,}: give at least 0 and at most {MOST_WORKERS:,}")


def check_timeout(seconds: float, flag: str = "--timeout") -> None:
    """Raise InputError for a time limit that is no time to wait, or longer than `LONGEST_WAIT_S`."""
    if not 0 < seconds <= LONGEST_WAIT_S:
        raise InputError(f"{flag} {seconds:g}: give seconds, more than 0 and at most {LONGEST_WAIT_S:,.0f}")


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30, "TI": 1 << 40}


def parse_bytes(text: str) -> int:
    """Text such as 512MB, 1GiB or 2e9 -> bytes. Raises InputError."""
    import re

    match = re.fullmatch(r"\s*([\d.]+(?:[eE]\d+)?)\s*([KMGT]?I?)B?\s*", text, flags=re.IGNORECASE)
    try:
        if match:
            number = int(float(match[1]) * _UNITS[match[2].upper()])
            if number < 1 << 63:
                return number
    except (ValueError, KeyError, OverflowError):  # the last: 1e400
        pass
    raise InputError(f"{text!r} is no number of bytes; write for example 512MB or 2GB")


_LIST_KINDS = (".txt", ".csv", ".parquet", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class RejectsOptions:
    """Options of `beholder rejects`; `scores` is what `beholder score`, `embed` or `predict` wrote, local or remote."""

    scores: str
    out: str | None = option(
        None,
        "Write a list: .csv, .parquet or .jsonl with all that is known, .txt with names that beholder score takes.",
        flag=("--out", "-o"),
        shown="a table on the terminal",
    )
    reason: tuple[str, ...] = option((), "Only this reason; may be repeated.", shown="all")
    pictures: tuple[str, ...] = option((), "For a .txt: where the pictures are now, in place of the sources; may be repeated.")
    root: str | None = option(None, "For a .txt: the folder that relative names count from.", shown="the current one")
    overwrite: bool = option(False, "Replace the list where it exists.")

    def __post_init__(self) -> None:
        """Refuse a list of a kind that is not written. Raises InputError."""
        if self.out is not None and PurePosixPath(self.out).suffix.lower() not in _LIST_KINDS:
            raise InputError(f"--out {self.out}: a list is written as {', '.join(_LIST_KINDS)}; the name's end says which")
