"""Reader of JSON lines with an embedding a row: float32 embeddings and labels."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder.columns import RowStatus
from beholder.errors import ChoiceNeededError, InputError
from beholder.io import storage
from beholder.io.tables import read_objects
from beholder.sources.column_choice import VECTOR_NAMES, choose_embedding_columns
from beholder.sources.labels import choose_label_columns, select_labels
from beholder.sources.reader import Block, Part, ReadOptions

_HEAD_BYTES, _MOST_HEAD_BYTES = 1 << 20, 256 << 20


class JsonReader:
    """Reads JSON lines with an embedding a row: a list of numbers, or a number field a dimension.

    Labels are text: what is none in the file is its JSON text. Which fields there are is taken from the first rows (1 MiB).
    """

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Read the first rows and choose the field. Raises InputError."""
        num_bytes = storage.size(path)
        rows = first_rows(path)
        if not rows:
            raise InputError(f"{path} holds no rows; expected JSON lines: one object a line")
        fields, dim = _choose(rows, options.embedding_column, path)
        names = list(dict.fromkeys(key for row in rows for key in row if key not in fields))
        choose_label_columns(names, options, path)
        labels = pa.schema([(key, pa.large_string()) for key in names])
        about_rows = round(len(rows) * num_bytes / max(1, min(num_bytes, _HEAD_BYTES)))
        detail = {"fields": fields, "is_list": len(fields) == 1, "labels": labels, "about_rows": about_rows}
        return Part(path, name, "json", None, dim, "float32", num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop); rows before `start` are read and dropped."""
        wanted = choose_label_columns(part.detail["labels"].names, options, part.path)
        at = 0
        for rows in read_objects(part.path):
            low, high = max(0, start - at), len(rows) if stop is None else min(len(rows), stop - at)
            if high > low:
                yield _block(rows[low:high], at + low, wanted, part, options)
            at += len(rows)
            if stop is not None and at >= stop:
                return


def first_rows(path: str) -> list[dict[str, Any]]:
    """Rows of the first MiB, of more where no row ends there. Raises InputError."""
    num_bytes = _HEAD_BYTES
    while True:
        rows = next(read_objects(path, num_bytes), [])
        if rows or num_bytes >= min(_MOST_HEAD_BYTES, storage.size(path)):
            return rows
        num_bytes *= 16


def vector_fields(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Fields whose first value is a list of numbers, and how many there are."""
    found: dict[str, int] = {}
    seen: set[str] = set()
    for row in rows:
        for key, value in row.items():
            if value is None or key in seen:
                continue
            seen.add(key)
            if isinstance(value, list) and len(value) > 1 and all(map(_is_number, value)):
                found[key] = len(value)
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _choose(rows: Sequence[Mapping[str, Any]], wanted: str | None, path: str) -> tuple[list[str], int]:
    """The fields with the embedding, and its length. Raises InputError."""
    vectors = vector_fields(rows)
    if wanted in vectors:
        return [wanted], vectors[wanted]
    if wanted is None and vectors:
        preferred = [key for key in VECTOR_NAMES if key in vectors] or list(vectors)
        if len(preferred) > 1 and preferred[0] not in VECTOR_NAMES:
            listed = ", ".join(vectors)
            raise ChoiceNeededError(f"{path}: which field holds the embeddings? Name it with --embedding-column: {listed}")
        return preferred[:1], vectors[preferred[0]]
    names = list(dict.fromkeys(key for row in rows for key in row))
    numeric = [all(_is_number(row[key]) for row in rows if row.get(key) is not None) for key in names]
    fields = choose_embedding_columns(names, numeric, wanted, path)
    return fields, len(fields)


def _block(rows: Sequence[Mapping[str, Any]], first: int, wanted: list[str], part: Part, options: ReadOptions) -> Block:
    embeddings = np.zeros((len(rows), part.dim), np.float32)
    statuses = np.zeros(len(rows), np.uint8)
    for i, row in enumerate(rows):
        if part.detail["is_list"]:
            values = row.get(part.detail["fields"][0])
        else:
            values = [row.get(key) for key in part.detail["fields"]]
        statuses[i] = _fill(embeddings[i], values)
    texts = {key: pa.array([_as_text(row.get(key)) for row in rows], pa.large_string()) for key in wanted}
    return Block(
        embeddings,
        select_labels(pa.table(texts), part, first, first + len(rows), options),
        statuses if statuses.any() else None,
    )


def _fill(target: npt.NDArray[np.float32], values: object) -> int:
    """Write one embedding; returns its RowStatus."""
    if not isinstance(values, list) or not all(map(_is_number, values)):
        return RowStatus.MISSING
    if len(values) != len(target):
        return RowStatus.WRONG_DIMENSION
    try:
        with np.errstate(over="ignore"):
            target[:] = values
    except OverflowError:  # a whole number beyond float64
        return RowStatus.MISSING
    return RowStatus.OK


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text.encode("utf-8", "backslashreplace").decode()
