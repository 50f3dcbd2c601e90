"""A table of scores on the scale of a map, with bounds that hold the truth as often as they say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from beholder import columns
from beholder.curate.select.tables import list_record
from beholder.errors import InputError
from beholder.io import storage
from beholder.io.records import json_value
from beholder.io.tables import write_table
from beholder.scoreset.joined import holds_bytes
from beholder.scoreset.scales import ScaleMap
from beholder.scoreset.score_set import ScoreSet
from beholder.train.calibrate.fit import BY_PLACE, TRAINED_ON_SHARE, conformal_margin

CALIBRATED_FORMAT = "beholder-calibrated"
CALIBRATED, LOW, HIGH = "_calibrated", "_low", "_high"
"""Ends of the names of new columns."""
_PIECE_ROWS = 1 << 18
_LOOKED_AT = 1 << 20
"""Bytes at the start of a text that is to be replaced, whose first line has to name our columns."""


def margin_of(found: ScaleMap, level: float) -> float:
    """Half the width of bounds of this level.

    Raises:
        InputError: the map has none, or was measured on too few pictures or groups.
    """
    if found.bounds is None:
        why = "is chances of a keep" if found.more.get("is_chance") else f"is a {found.method} map"
        if found.more.get(TRAINED_ON_SHARE):
            doubt = (
                ", or with --embeddings, since these were known by their names alone, which are places in a file"
                if found.more.get(BY_PLACE)
                else ""
            )
            raise InputError(
                f"--interval: the map of {found.of.short} onto {found.scale} was fitted to pictures that {found.of.short} was "
                f"trained on, so it has no bounds; calibrate with ratings of others{doubt}"
            )
        raise InputError(f"--interval: the map of {found.of.short} onto {found.scale} {why}, which has no bounds")
    bounds, count = found.bounds, found.bounds.num_groups
    margin = conformal_margin(bounds.residuals, level, bounds.groups)
    if not np.isfinite(margin):
        what = "pictures" if bounds.groups is None else "groups of pictures"
        raise InputError(
            f"--interval {level:g} takes more than the {count} {what} that the bounds were measured on; calibrate with more, "
            f"or ask for at most {math.floor(1000 * count / (count + 1)) / 1000:g}"
        )
    return margin


def is_calibrated(path: str) -> bool:
    """Whether a file that is there is a table that `write_calibrated` wrote: by its record, or by its new columns."""
    if path.lower().endswith(".parquet"):
        try:
            with storage.open_parquet(path) as file:
                record = json_value((file.schema_arrow.metadata or {}).get(b"beholder", b"{}"))
        except (InputError, ValueError):
            return False
        return isinstance(record, dict) and record.get("format") == CALIBRATED_FORMAT
    start = storage.read_range(path, 0, min(storage.size(path), _LOOKED_AT)).split(b"\n", 1)[0]
    return CALIBRATED.encode() in start and start.startswith((b'{"sample"', columns.SAMPLE.encode()))


def write_calibrated(path: str, scores: ScoreSet, column: str, found: ScaleMap, level: float | None) -> list[str]:
    """Write all rows of a set with what a map makes of one of their scores; returns the new columns.

    The columns: sample, the scores, SCORE_calibrated (float32, on the scale of the map, NaN where there is no finite score),
    with a level SCORE_low and SCORE_high (float32), then the other columns of the set but those of bytes.

    Raises:
        InputError: no bounds of this level.
        OutputError: it cannot be written.
    """
    margin = None if level is None else margin_of(found, level)
    new = [column + end for end in ((CALIBRATED,) if margin is None else (CALIBRATED, LOW, HIGH))]
    kept = [name for name in scores.metadata_columns if not holds_bytes(scores.schema.field(name).type)]
    passed = columns.source_names(kept, {columns.SAMPLE, *scores.score_columns, *new})
    fields = [pa.field(columns.SAMPLE, pa.large_string()), *(scores.schema.field(name) for name in scores.score_columns)]
    fields += [pa.field(name, pa.float32()) for name in new]
    fields += [pa.field(passed[name], scores.schema.field(name).type) for name in kept]
    schema = pa.schema(fields)
    record = list_record(scores, {}, scores.num_rows, scores.num_rows)
    record = {name: value for name, value in record.items() if name not in ("rules", "num_kept")}
    record |= {"format": CALIBRATED_FORMAT, "scale": found.to_json(is_whole=False), "interval": level, "new_columns": new}
    write_table(path, _tables(scores, column, found, margin, kept, schema), schema, record)
    return new


def _tables(
    scores: ScoreSet, column: str, found: ScaleMap, margin: float | None, kept: list[str], schema: pa.Schema
) -> Iterator[pa.Table]:
    first = 0
    wanted = [scores.sample_column, *scores.score_columns, *(name for name in kept if name != scores.sample_column)]
    wanted += [column] if column not in wanted else []
    for table in scores.batches(wanted, num_rows=_PIECE_ROWS):
        ready: list[Any] = [scores.names_in(table.column(scores.sample_column), first)]
        ready += [table.column(name) for name in scores.score_columns]
        ready += [pa.array(values) for values in mapped(table.column(column), found, margin)]
        ready += [table.column(name) for name in kept]
        yield pa.table(ready, schema=schema)
        first += table.num_rows


def mapped(column: pa.ChunkedArray, found: ScaleMap, margin: float | None) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """A column of scores on the scale of a map, (N,) float32, and its bounds where there is a margin."""
    given = column.cast(pa.float32(), safe=False).to_numpy().astype(np.float64)  # null becomes NaN
    given[~np.isfinite(given)] = np.nan
    made = [found.steps(given)]
    if margin is not None:
        assert found.bounds is not None
        middle = found.bounds.steps(given)
        made += [middle - margin, middle + margin]
    return [values.astype(np.float32) for values in made]
