"""What the user named, found: the parts with pictures, or the parts with embeddings, every header read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beholder.embeddings.block import Part, ReadOptions
from beholder.embeddings.source import find_parts
from beholder.errors import InputError
from beholder.images.picture import PicturePart, SourceOptions
from beholder.images.sources import find_pictures
from beholder.sources.detect import detect


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
