"""Finds what the user named: the parts with pictures, or the parts with embeddings, every header read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beholder.errors import InputError
from beholder.pixels.picture import PicturePart, SourceOptions
from beholder.sources.detect import detect
from beholder.sources.embeddings.parts import find_parts
from beholder.sources.embeddings.reader import Part, ReadOptions
from beholder.sources.pictures.parts import find_pictures


@dataclass(frozen=True)
class Found:
    """The parts behind sources: of pictures, or of embeddings; the other one is empty."""

    pictures: Sequence[PicturePart] = ()
    embeddings: Sequence[Part] = ()


def find(sources: Sequence[str], pictures: SourceOptions, embeddings: ReadOptions) -> Found:
    """Find out what `sources` are, and all parts behind them in a stable order; nothing has been written by then.

    Args:
        sources: files, folders, globs, brace ranges, URLs, and lists of these.
        pictures: how pictures are read.
        embeddings: how embeddings are read.

    Raises:
        InputError: there is nothing, or something that cannot be read.
        ChoiceNeededError: a flag has to say which column is meant.
    """
    if detect(sources, pictures, embeddings.embedding_column) != "pictures":
        return Found(embeddings=find_parts(sources, embeddings))
    if embeddings.embedding_column is not None:
        raise InputError("--embedding-column: these are pictures, which have none; leave it out")
    return Found(pictures=find_pictures(sources, pictures))


def find_only_pictures(sources: Sequence[str], options: SourceOptions) -> list[PicturePart]:
    """Find the parts behind `sources` for a command that takes pictures and nothing else.

    A table that has pictures beside vectors is one of pictures here; one that only says where they are, beside vectors, holds
    embeddings, unless the column with the places is named.

    Raises:
        InputError: there is nothing, or something that cannot be read, or these are embeddings.
        ChoiceNeededError: a flag has to say which column is meant.
    """
    if detect(sources, options, wants_pictures=True) == "embeddings":
        _refuse_embeddings(sources)
    return find_pictures(sources, options)


def _refuse_embeddings(sources: Sequence[str]) -> None:
    """Raise InputError if these are embeddings; what is neither is left to the reader of pictures, which says what is wrong."""
    try:
        parts = find_parts(sources, ReadOptions())
    except InputError:
        return
    has_columns = parts[0].kind in ("parquet", "csv", "json")
    hint = "; --picture-column names a column of pictures or of their places" if has_columns else ""
    raise InputError(
        f"{parts[0].path} holds embeddings, and pictures are needed here; embeddings are scored with: "
        f"beholder score {sources[0]}{' ...' if len(sources) > 1 else ''}{hint}"
    )
