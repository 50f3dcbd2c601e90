"""Which column of a score set says where the pictures are, and which holds their captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.io import locations
from beholder.io.schemas import is_text
from beholder.locate.named_sources import named_in
from beholder.sources.file_kinds import (
    MOST_LOOKED_AT,
    OTHER_SUFFIXES,
    PICTURE_SUFFIXES,
    is_written_out,
    names_pictures,
    suffix_of,
)
from beholder.sources.reader import PictureRef

if TYPE_CHECKING:
    from beholder.scoreset.score_set import ScoreSet

PICTURE_COLUMN_NAMES = (
    "image_url", "url", "image_path", "img_path", "path", "file_path", "filepath", "file_name", "filename", "file",
    "image_file", "img_url", "picture_url", "photo_url", "photo_image_url", "thumbnail_url", "image", "img", "picture", "photo",
    "image_link", "link", "src", "uri", "href",
)  # fmt: skip
"""Usual names of columns with paths or URLs of pictures, best first, in lower case."""
CAPTION_COLUMN_NAMES = ("caption", "captions", "text", "alt_text", "alt", "title", "description", "prompt")
"""Usual names of columns with captions, best first, in lower case."""
NUM_LOOKED_AT = MOST_LOOKED_AT
"""So many first rows tell what a column holds."""


@dataclass(frozen=True)
class PictureColumn:
    """The column whose values are looked for in place of the rows' names.

    Attributes:
        name: of the column.
        is_found: whether it was found by looking; else somebody named it.
        sample_column: the column that names the rows.
    """

    name: str
    is_found: bool
    sample_column: str

    @property
    def note(self) -> str:
        """What is to be said of it where pictures are shown: which column was taken, and how to choose."""
        return f"pictures are shown from column {self._choice}"

    @property
    def note_of_files(self) -> str:
        """The same where something is done with the pictures' files."""
        return f"pictures are taken from column {self._choice}"

    @property
    def _choice(self) -> str:
        if not self.is_found:
            return repr(self.name)
        return f"{self.name!r}, since {self.sample_column!r} holds no paths or URLs of pictures; --picture-column names another"

    def missing(self) -> PictureRef:
        """What is there for a row whose value is null or empty."""
        return PictureRef(error=(PictureReason.MISSING, f"column {self.name!r} is empty for this row"))


def find_picture_column(scores: ScoreSet, wanted: str | None, pictures: Sequence[str]) -> PictureColumn | None:
    """`picture_column_of` by the first rows of a set. `pictures`: sources of the pictures as the user named them."""
    texts = [item.name for item in scores.schema if is_text(item.type) or item.name == scores.sample_column]
    read = [scores.schema.empty_table().select(texts)]
    for batch in scores.batches(texts, num_rows=NUM_LOOKED_AT):  # none goes beyond its file
        read.append(batch)
        if sum(map(len, read)) >= NUM_LOOKED_AT:
            break
    first = pa.concat_tables(read, promote_options="default").slice(0, NUM_LOOKED_AT)
    for item in scores.schema:
        if item.name not in first.column_names:
            first = first.append_column(item, pa.nulls(len(first), item.type))
    return picture_column_of(first.select(scores.schema.names), scores, wanted, pictures)


def picture_column_of(first: pa.Table, scores: ScoreSet, wanted: str | None, pictures: Sequence[str]) -> PictureColumn | None:
    """The column that says where the pictures are; None: the one that names the rows does.

    Where nobody names one, it is looked for only when it is not known where the pictures are and the names of the first rows
    are neither paths nor URLs of pictures: first by its usual names, then any column whose values all end like pictures.

    Args:
        first: the first rows (`NUM_LOOKED_AT` are enough), with all columns of the set that may be meant.
        scores: the set.
        wanted: what `--picture-column` says.
        pictures: what `--pictures` says; where it says nothing, the set's record may know the sources.

    Raises:
        InputError: there is no column `wanted`, or it holds no text.
    """
    source, sample_column = scores.source, scores.sample_column
    if wanted is not None:
        if wanted not in first.column_names:
            known = ", ".join(first.column_names[:20])
            raise InputError(f"--picture-column {wanted}: {source} has no such column; it has {known}")
        kind = first.schema.field(wanted).type
        if not is_text(kind):
            raise InputError(
                f"--picture-column {wanted}: {source} has {kind} there, not paths or URLs of pictures; name another column"
            )
        return PictureColumn(wanted, False, sample_column) if wanted != sample_column else None
    has_sources = bool(pictures) or "sources" in named_in(scores.record)
    if has_sources or any(names_pictures(name) or _is_address(name) for name in _texts(first, sample_column)):
        return None
    others = [name for name in first.column_names if name != sample_column and is_text(first.schema.field(name).type)]
    for name in _by_usual_names(others, PICTURE_COLUMN_NAMES):
        values = _texts(first, name)
        if values and 2 * sum(map(_is_address, values)) > len(values):
            return PictureColumn(name, True, sample_column)
    for name in others:
        values = _texts(first, name)
        if values and all(suffix_of(value) in PICTURE_SUFFIXES and not is_written_out(value) for value in values):
            return PictureColumn(name, True, sample_column)
    return None


def caption_column_of(schema: pa.Schema, taken: Sequence[str] = ()) -> str | None:
    """The column of text that holds captions, by its name; None: there is none. `taken`: columns that are something else."""
    texts = [item.name for item in schema if item.name not in taken and is_text(item.type)]
    return next(iter(_by_usual_names(texts, CAPTION_COLUMN_NAMES)), None)


def _by_usual_names(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Those of the names that are usual, best first, whatever their case."""
    by_name = {name.lower(): name for name in reversed(names)}
    return [by_name[name] for name in usual if name in by_name]


def _texts(table: pa.Table, name: str) -> list[str]:
    """Texts of the first rows that hold something."""
    column = table.column(name).slice(0, NUM_LOOKED_AT)
    return [str(value) for value in column.to_pylist() if value is not None and str(value).strip()]


def _is_address(text: str) -> bool:
    """Whether a text is the path or URL of a picture, by the look of it."""
    if is_written_out(text):
        return False
    suffix = suffix_of(text)
    return suffix in PICTURE_SUFFIXES or (locations.is_on_a_server(text) and suffix not in OTHER_SUFFIXES)
