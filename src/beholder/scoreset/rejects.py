"""Rejects of a score set or embedding set: where their tables are, their rows, and counts and examples by reason."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage
from beholder.scoreset.foreign import read_record, run_of

NAMES = (columns.SAMPLE, columns.STAGE, columns.REASON, columns.MESSAGE)
UNKNOWN = "unknown"
"""The reason of rows that have none."""
_BATCH_ROWS = 1 << 16
_MOST_CHARACTERS = 300
_FORMATS = (columns.SCORE_SET_FORMAT, columns.EMBEDDINGS_FORMAT)


@dataclass(frozen=True)
class RejectTables:
    """The rejects of a set.

    Attributes:
        source: the set, as the user named it.
        paths: Parquet files of rejected rows, in natural order; () when there are none.
        record: what the set says about itself; {} where its run is not finished and said nothing yet.
    """

    source: str
    paths: tuple[str, ...]
    record: Mapping[str, Any] = field(default_factory=dict)


def find_rejects(source: str) -> RejectTables:
    """Find the rejects of what `beholder score`, `embed` or `predict` wrote: a folder, .parquet or .csv, local or remote.

    Raises InputError for anything else.
    """
    if not source:
        raise InputError("the name of the scores is empty (an unset variable?)")
    base = source.rstrip("/") or source
    if base.endswith(columns.REJECTS_SUFFIX) and storage.exists(base):
        return RejectTables(source, (base,))
    what = "name what beholder score, embed or predict wrote: a folder, .parquet or .csv"
    if storage.is_folder(base):
        base = run_of(base)
        record, rejects = read_record(f"{base}/{columns.STAMP_FILE}"), f"{base}/{columns.REJECTS_FOLDER}"
        if record.get("format") == columns.EMBEDDINGS_FORMAT and columns.KEPT_BESIDE in record:
            raise InputError(
                f"{source} holds embeddings that were kept beside scores ({record[columns.KEPT_BESIDE]}); name those"
            )
        paths = storage.list_files(rejects) if storage.is_folder(rejects) else []
        paths = [path for path in paths if PurePosixPath(path).suffix == ".parquet"]
        if record.get("format") not in _FORMATS and not paths:
            raise InputError(f"{source} is no set of scores or embeddings; {what}")
        return RejectTables(source, tuple(sorted(paths, key=storage.natural_key)), record)
    if not storage.exists(base):
        raise InputError(f"{source} does not exist; {what}")
    record, rejects = read_record(base + columns.SIDECAR_SUFFIX), base + columns.REJECTS_SUFFIX
    has_rejects = storage.exists(rejects)
    if record.get("format") not in _FORMATS and not has_rejects:
        raise InputError(f"{source} is no set of scores or embeddings with a record beside it; {what}")
    return RejectTables(source, (rejects,) if has_rejects else (), record)


def reject_batches(paths: Sequence[str]) -> Iterator[pa.Table]:
    """Rows of rejects tables, at most 65,536 at a time: `NAMES`, large_string, null where a table lacks a column.

    Raises InputError for a damaged file.
    """
    for path in paths:
        with storage.open_parquet(path) as file, storage.remote_errors(path):
            present = [name for name in NAMES if name in file.schema_arrow.names]
            if columns.SAMPLE not in present:
                continue
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=present):
                yield pa.table({name: _texts(batch, name) for name in NAMES})


def _texts(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name not in batch.schema.names:
        return pa.nulls(batch.num_rows, pa.large_string())
    return batch.column(name).cast(pa.large_string())


@dataclass
class RejectReason:
    """One reason.

    Attributes:
        word: of the rejects table.
        text: what it means.
        count: rows.
        examples: (sample, stage, message) of the first few.
    """

    word: str
    text: str
    count: int = 0
    examples: list[tuple[str, str, str]] = field(default_factory=list)


def words_of(lines: pa.Table) -> pa.ChunkedArray:
    """The reason of each row, as it is counted: `UNKNOWN` where there is none."""
    return pc.fill_null(lines.column(columns.REASON), UNKNOWN)


def count_reasons(paths: Sequence[str], num_examples: int = 0) -> list[RejectReason]:
    """Reasons of all rows, commonest first, each with its first examples; [] for no rows. Raises InputError."""
    found: dict[str, RejectReason] = {}
    for lines in reject_batches(paths):
        words = words_of(lines)
        for item in pc.value_counts(words).to_pylist():
            word = item["values"]
            reason = found.setdefault(word, RejectReason(word, columns.reason_text(word)))
            reason.count += item["counts"]
            _add_examples(reason, lines, words, num_examples)
    return sorted(found.values(), key=lambda reason: (-reason.count, reason.word))


def examples_of(paths: Sequence[str], counts: Mapping[str, int], most: int) -> dict[str, list[dict[str, str]]]:
    """Reason -> `sample` and `message` of its first rows; reads no further than it needs.

    Args:
        paths: of rejects tables.
        counts: rows of each reason.
        most: examples of each.
    """
    found = {word: RejectReason(word, "") for word in sorted(counts, key=lambda word: (-counts[word], word))}
    for lines in reject_batches(paths):
        words = words_of(lines)
        for reason in found.values():
            _add_examples(reason, lines, words, most)
        if all(len(reason.examples) >= min(most, counts[word]) for word, reason in found.items()):
            break
    return {
        word: [{columns.SAMPLE: sample, columns.MESSAGE: message} for sample, _, message in reason.examples]
        for word, reason in found.items()
    }


def _add_examples(reason: RejectReason, lines: pa.Table, words: pa.ChunkedArray, most: int) -> None:
    wanted = most - len(reason.examples)
    if wanted <= 0:
        return
    for line in lines.filter(pc.equal(words, reason.word)).slice(0, wanted).to_pylist():
        sample, stage, message = (
            str(line[name] or "")[:_MOST_CHARACTERS] for name in (columns.SAMPLE, columns.STAGE, columns.MESSAGE)
        )
        reason.examples.append((sample, stage, message))
