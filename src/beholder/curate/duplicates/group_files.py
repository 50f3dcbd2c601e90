"""Files of groups of near-duplicates (`beholder select --groups-out`), read back as SQL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from beholder import columns
from beholder.errors import InputError
from beholder.io import storage
from beholder.scoreset import foreign
from beholder.scoreset.score_set import parquet_of


@dataclass(frozen=True)
class GroupFile:
    """A file of groups, as SQL takes it.

    Attributes:
        table: what stands after FROM; its column "group" numbers the groups, NULL is none.
        place: its column with the number of each line.
        sample, similarity, kept, row: expressions: the picture's name (VARCHAR), its similarity to the one that stays (DOUBLE),
            whether it is that one (never NULL), its row in the score set (BIGINT, NULL where the file does not tell).
        reference: expression: the picture of a reference set that it is near to (VARCHAR, NULL for groups of near-duplicates).
    """

    table: str
    place: str
    sample: str
    similarity: str
    kept: str
    row: str
    reference: str


def open_groups(source: str, scratch: Path, *, with_references: bool = False) -> GroupFile:
    """Look at a file of groups; what has to be converted goes into `scratch`. Raises InputError.

    `with_references`: whether pictures that are near to a reference set are wanted, which are in no group of near-duplicates.
    """
    if not storage.exists(source):
        raise InputError(f"{source} does not exist; near-duplicate groups are written by: beholder select ... --dedup 0.95")
    types = {"group": pa.int64(), "similarity": pa.float64(), "kept": pa.bool_(), "row": pa.int64()}
    path = foreign.as_parquet(source, scratch / "groups.parquet", types)
    with storage.open_parquet(str(path)) as file:
        file.check_dictionaries(source, all_encodings=True)
        names = file.schema_arrow.names
    missing = [name for name in ("group", columns.SAMPLE) if name not in names]
    if missing:
        raise InputError(
            f"{source} has no column {missing[0]!r}; --groups takes the groups that `beholder select --groups-out` wrote"
        )
    table = parquet_of([path], "file_row_number")
    reference = "nullif(CAST(reference AS VARCHAR), '')" if "reference" in names else "CAST(NULL AS VARCHAR)"  # empty in a CSV
    if "reference" in names and not with_references:
        table = f"(SELECT * FROM {table} WHERE {reference} IS NULL)"
    return GroupFile(
        table=table,
        place="file_row_number",
        sample=f"CAST({columns.SAMPLE} AS VARCHAR)",
        similarity="CAST(similarity AS DOUBLE)" if "similarity" in names else "CAST(NULL AS DOUBLE)",
        kept="coalesce(CAST(kept AS BOOLEAN), false)" if "kept" in names else "false",
        row="CAST(row AS BIGINT)" if "row" in names else "CAST(NULL AS BIGINT)",
        reference=reference,
    )
