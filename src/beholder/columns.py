"""Every column name, schema, file name and fixed word that two steps agree on, and the format version."""

from __future__ import annotations

import enum

FORMAT_VERSION = 1
"""Version of the score set, reject and stamp formats. Raised when a reader of the old one would go wrong."""

SAMPLE = "sample"
AESTHETIC_SCORE = "aesthetic_score"
STATUS = "status"
STAGE = "stage"
REASON = "reason"
MESSAGE = "message"

STATUS_OK = "ok"
SCORE_SET_FORMAT = "beholder-score-set"
"""The `format` in the record of a score set."""

SCORES_FOLDER = "scores"
REJECTS_FOLDER = "rejects"
DONE_FOLDER = "done"
STAMP_FILE = "beholder.json"
PARTIAL_SUFFIX = ".partial"
SIDECAR_SUFFIX = ".beholder.json"
REJECTS_SUFFIX = ".rejects.parquet"

SAMPLE_COLUMN_NAMES = (SAMPLE, "image_path", "key", "SAMPLE_ID", "path", "file_name", "id", "url", "URL")
"""Where a metadata table names its rows, best first: birder and beholder, clip-retrieval, img2dataset, LAION, others."""


class RowStatus(enum.IntEnum):
    """What became of one embedding row. The kernel writes these numbers; `REASON_TEXT` explains all but OK."""

    OK = 0
    NAN = 1
    INF = 2
    ZERO_NORM = 3
    MISSING = 4
    WRONG_DIMENSION = 5

    @property
    def word(self) -> str:
        """The fixed word of the rejects table's `reason` column."""
        return STATUS_OK if self is RowStatus.OK else self.name.lower()


REASON_TEXT = {
    RowStatus.NAN: "the embedding holds NaN",
    RowStatus.INF: "the embedding holds an infinite value",
    RowStatus.ZERO_NORM: "the embedding is all zeros, so it has no direction to score",
    RowStatus.MISSING: "the embedding is null",
    RowStatus.WRONG_DIMENSION: "the embedding of this row has another length than the head needs",
}


def score_column_names(head_names: list[str]) -> list[str]:
    """Column names of the scores: `aesthetic_score` for one head, the heads' names for several."""
    return [AESTHETIC_SCORE] if len(head_names) == 1 else list(head_names)
