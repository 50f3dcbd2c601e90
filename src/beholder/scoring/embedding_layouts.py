"""The layouts embeddings are written in: their names, options and Parquet settings, which writing and joining share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, get_args

import pyarrow as pa

from beholder import columns
from beholder.columns import EmbeddingDtype, EmbeddingFormat
from beholder.errors import InputError
from beholder.scoring.folder_labels import FolderLabels

EMBEDDING = "embedding"
IMAGE_PATH = "image_path"
STAMP_KEY = b"beholder"
LIST_GROUP_ROWS = 4096
"""Most rows of a row group with a list column: VDC 0.1.x misreads every row of a group beyond them (formats: VDC's reader)."""
WIDE_GROUP_ROWS = 16384
BIRDER_FORMATS: tuple[EmbeddingFormat, ...] = ("birder-csv", "birder-parquet")


@dataclass(frozen=True, kw_only=True)
class WriteOptions:
    """How embeddings are written.

    Attributes:
        format: "npy": clip-retrieval's layout; "parquet": one fixed-size-list column `embedding`; "birder-csv",
            "birder-parquet": `sample`, then one column per dimension, named by its number.
        dtype: of the elements. Birder's layouts are float32.
        normalise: whether rows are divided by their length. Birder's layouts hold them as they are.
        is_bare: no other columns than `sample` (and `label`), as birder writes; birder's layouts always are.
        folders: birder's `--save-labels`: a column `label` follows `sample`; None: no such column.
    """

    format: EmbeddingFormat = "npy"
    dtype: EmbeddingDtype = "float16"
    normalise: bool = True
    is_bare: bool = False
    folders: FolderLabels | None = None

    def __post_init__(self) -> None:
        """Refuse what no reader would understand. Raises InputError."""
        if self.format not in get_args(EmbeddingFormat):
            raise InputError(f"--format {self.format}: choose one of {', '.join(get_args(EmbeddingFormat))}")
        if self.dtype not in get_args(EmbeddingDtype):
            raise InputError(f"--dtype {self.dtype}: choose one of {', '.join(get_args(EmbeddingDtype))}")
        if self.format in BIRDER_FORMATS and (self.dtype != "float32" or self.normalise):
            raise InputError(f"--format {self.format}: birder's files are float32 and not normalised; choose another format")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """Floats gain nothing from dictionaries and statistics, and next to nothing from compression."""
    texts = [field.name for field in schema if not _is_embedding(field)]
    return {
        "compression": {**dict.fromkeys(texts, "zstd"), **{_leaf(f): "none" for f in schema if _is_embedding(f)}},
        "use_dictionary": [name for name in texts if name not in (columns.SAMPLE, IMAGE_PATH)],
        "write_statistics": texts,
        "write_page_checksum": True,
    }


def stamped(schema: pa.Schema, stamp: Mapping[str, Any]) -> pa.Schema:
    """The schema with the stamp in its metadata, and nothing else there."""
    return schema.with_metadata({STAMP_KEY: json.dumps(stamp).encode()})


def group_rows(schema: pa.Schema) -> int:
    """Most rows of a row group in a file of this schema."""
    return LIST_GROUP_ROWS if any(pa.types.is_fixed_size_list(field.type) for field in schema) else WIDE_GROUP_ROWS


def _is_embedding(field: pa.Field) -> bool:
    is_wide = field.name.isdecimal() and pa.types.is_float32(field.type)
    return bool(is_wide or (field.name == EMBEDDING and pa.types.is_fixed_size_list(field.type)))


def _leaf(field: pa.Field) -> str:
    """The path of a column's values in Parquet."""
    return f"{field.name}.list.element" if pa.types.is_fixed_size_list(field.type) else field.name
