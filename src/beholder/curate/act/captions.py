"""Captions of packed pictures: a text column of what is kept, which goes before what lies beside a picture."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from beholder import columns
from beholder.curate.act.options import SHARDED, ActionOptions
from beholder.errors import InputError

CAPTION, TEXT = "caption", "text"
"""Columns that hold the captions: in the table beside a tar, and in Parquet as Hugging Face's trainers have it."""
MEMBER_ENDS = (".txt", ".caption")
"""What stands behind the key of a member that is a caption, in small letters."""
WRITTEN, REPLACED, KEPT, WITHOUT = "written", "replaced", "kept", "without"
"""Captions of the column; those of them in place of one beside the picture; rows for which the column has none: that keep the
one beside the picture, and that have none at all."""
OF_THE_SELECTION = ("rank", "kept", "dropped_by")
"""Columns that the selection adds to those of the scores."""


def check_caption_column(schema: pa.Schema, options: ActionOptions) -> None:
    """Raise InputError where the column of captions is not there, or is not text. `schema`: of the rows that are kept."""
    name = options.caption_column
    if name is None or options.action is None or options.action[0] not in SHARDED:
        return
    if name not in schema.names or name in OF_THE_SELECTION:
        there = [
            field.name for field in schema if _is_text(field.type) and field.name not in (*OF_THE_SELECTION, columns.SAMPLE)
        ]
        known = f"columns of text: {', '.join(map(repr, there))}" if there else "there is no column of text but the sample"
        raise InputError(f"--caption-column {name!r}: the scores have no such column; {known} (--join brings more)")
    kind = schema.field(name).type
    if not _is_text(kind):
        raise InputError(f"--caption-column {name!r} holds {kind}, not text; name a column of text")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def captions_of(table: pa.Table, name: str) -> list[str | None]:
    """The caption of each row; None where there is none, or only white space."""
    texts = table.column(name).cast(pa.large_string()).to_pylist()
    return [text if text is not None and text.strip() else None for text in texts]


def text_of_member(data: bytes) -> str | None:
    """The text of a member that is a caption, as scoring reads it; None for an empty one."""
    return data.decode("utf-8", "replace").strip("\ufeff\r\n") or None


def pieces_of(kept: pa.Table, name: str) -> Iterator[bytes]:
    """What tells the captions of two acts apart, piece by piece."""
    column = kept.column(name)
    for at in range(0, len(column), 1 << 14):
        texts = column.slice(at, 1 << 14).cast(pa.large_string())
        yield repr(pc.binary_length(texts).to_pylist()).encode()
        yield "".join(text or "" for text in texts.to_pylist()).encode()
