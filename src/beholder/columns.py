"""Every column name, schema, file name and fixed word that two steps agree on, and the format version."""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterable, Mapping
from typing import Literal, get_args

FORMAT_VERSION = 1
"""Version of the score set, reject and stamp formats. Raised when a reader of the old one would go wrong."""

SAMPLE = "sample"
AESTHETIC_SCORE = "aesthetic_score"
STATUS = "status"
STAGE = "stage"
REASON = "reason"
MESSAGE = "message"

WIDTH, HEIGHT, TRAITS, NUM_BYTES = "width", "height", "traits", "num_bytes"
"""Columns about a picture as stored: pixels, what makes presets differ for it (words joined by commas), bytes."""

PICTURES = "pictures"
"""In the record of pictures: the sources as they were named, the folder they were named in, and the options to read them."""

STATUS_OK = "ok"
SCORE_SET_FORMAT = "beholder-score-set"
"""The `format` in the record of a score set."""

HOW_TO_READ = {
    "read": "scores/ holds the rows: pandas.read_parquet('THIS_FOLDER/scores'), and the same in polars and pyarrow; "
    "rejects/ holds what was rejected: beholder rejects THIS_FOLDER"
}
"""In the record of a folder of scores, for whoever opens it."""

RANK, KEPT, DROPPED_BY = OF_A_SELECTION = ("rank", "kept", "dropped_by")
"""Columns that a selection adds to those of the scores."""

PLANNED = "planned"
"""In a run's record: how many shards and rows it has in all, the rows None where only reading tells."""
KEPT_NAME = "zz-vanished"
"""How names of shards begin that hold rows whose inputs have vanished; they come behind those of most others."""

EMBEDDINGS_FORMAT = "beholder-embeddings"
"""The `format` in the stamp of an embedding set."""

INPUTS_FORMAT = "beholder-inputs"
"""The `format` in the tables of what rows were made of."""

EmbeddingFormat = Literal["npy", "parquet", "birder-csv", "birder-parquet"]
EmbeddingDtype = Literal["float16", "float32"]
EMBEDDING_DTYPES: tuple[EmbeddingDtype, ...] = get_args(EmbeddingDtype)
EMBEDDING_FORMATS: tuple[EmbeddingFormat, ...] = get_args(EmbeddingFormat)
"""How embeddings are written: clip-retrieval's folders, one list column, birder's two."""

KEPT_BESIDE = "kept_beside"
"""In the stamp of embeddings that were kept while scoring: the name of the scores."""

SCORES_FOLDER = "scores"
EMBEDDINGS_FOLDER = "embeddings"
IMAGES_FOLDER, METADATA_FOLDER = "img_emb", "metadata"
"""Folders of clip-retrieval's layout."""
REJECTS_FOLDER = "rejects"
DONE_FOLDER = "done"
INPUTS_FOLDER = "_inputs"
"""What each row of a shard was made of. Who reads a folder of Parquet files as one table leaves out names with this start."""
EARLIER_FOLDER = "_earlier"
"""Below the folder of a run that is under way: what earlier runs found, set aside until it is taken over."""
STAMP_FILE = "beholder.json"
RUN_FILE = "run.json"
"""In the folder of a run: how long its stages took. A part has a file of its own, with its number in the name."""
PARTIAL_SUFFIX = ".partial"
SIDECAR_SUFFIX = ".beholder.json"
REJECTS_SUFFIX = ".rejects.parquet"
INPUTS_SUFFIX = ".inputs"
"""A zip inside; of no suffix that sources of pictures have."""

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


class PictureReason(enum.StrEnum):
    """Why a picture was rejected: the fixed words of the rejects table's `reason` column."""

    EMPTY = "empty"
    NOT_AN_IMAGE = "not_an_image"
    TRUNCATED = "truncated"
    DAMAGED = "damaged"
    TOO_LARGE = "too_large"
    ZERO_SIZE = "zero_size"
    UNSUPPORTED = "unsupported"
    UNREADABLE = "unreadable"
    MISSING = "missing"
    TIMED_OUT = "timed_out"
    CRASHED = "crashed"


PASSING_REASONS = frozenset({PictureReason.UNREADABLE, PictureReason.MISSING, PictureReason.TIMED_OUT, PictureReason.CRASHED})
"""Reasons that may be gone at the next try; the others lie in the picture."""

PICTURE_REASON_TEXT = {
    PictureReason.EMPTY: "the file has no bytes",
    PictureReason.NOT_AN_IMAGE: "the bytes are of no picture format that is known here",
    PictureReason.TRUNCATED: "the picture breaks off before its end",
    PictureReason.DAMAGED: "the picture's data are damaged",
    PictureReason.TOO_LARGE: "more pixels (score has --max-pixels) or bytes than allowed, or more memory needed",
    PictureReason.ZERO_SIZE: "the picture has no width or no height",
    PictureReason.UNSUPPORTED: "a kind without defined pixels here (float or 32-bit), or one whose decoder is missing",
    PictureReason.UNREADABLE: "the file could not be read (permission, network, a broken archive)",
    PictureReason.MISSING: "there is no picture: a null, a vanished file, a failed download",
    PictureReason.TIMED_OUT: "decoding or reading took longer than --timeout allows",
    PictureReason.CRASHED: "the decoder crashed on this picture",
}


REASONS = tuple(dict.fromkeys([*(status.word for status in REASON_TEXT), *map(str, PictureReason)]))
"""All words of the rejects table's `reason` column, in the order in which counts of them are told."""


WHERE_NOW = "--pictures or --root say where the pictures are now"
"""What to do about pictures that are not where they were scored."""


def reason_text(word: str) -> str:
    """What a word of the rejects table's `reason` column means."""
    texts = {str(reason): text for reason, text in PICTURE_REASON_TEXT.items()}
    return texts.get(word) or next((text for status, text in REASON_TEXT.items() if status.word == word), "")


def in_order(counts: Mapping[str, int]) -> dict[str, int]:
    """Counts by reason, in the order of `REASONS`; words that are none come last."""
    return {word: counts[word] for word in (*REASONS, *counts) if word in counts}


def score_column_names(head_names: list[str]) -> list[str]:
    """Column names of the scores: `aesthetic_score` for one head, the heads' names for several."""
    return [AESTHETIC_SCORE] if len(head_names) == 1 else list(head_names)


def source_names(names: Iterable[str], taken: Collection[str]) -> dict[str, str]:
    """Columns of a source -> what they are called beside columns of ours, which are `taken`.

    One whose name is taken becomes source_NAME, or source_source_NAME where the source has a column of that name, too.
    """
    found: dict[str, str] = {}
    names = list(names)
    used = {*names, *taken}
    for name in names:
        free = name
        if name in taken:
            while free in used:
                free = f"source_{free}"
            used.add(free)
        found[name] = free
    return found
