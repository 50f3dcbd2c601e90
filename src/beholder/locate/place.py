"""What is known of where a picture is, and the files that belong to it: the words `locate` answers in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from beholder.columns import PictureReason
from beholder.pixels.picture import PictureRef
from beholder.sources.pictures.tar_index import TarMember

PlaceKind = Literal["file", "url", "tar", "zip", "row", "none"]


@dataclass(frozen=True)
class FilePlace:
    """One file: a picture, or what belongs to one.

    Attributes:
        name: its path in its archive; of other files the name alone.
        ref: where its bytes are, or why there are none; None: in a packed tar, `packed` says where.
        size: its bytes as stored, where known without reading it.
        packed: the member of a tar.
        owners: pictures that it belongs to; 1 for a picture itself.
    """

    name: str
    ref: PictureRef | None
    size: int | None = None
    packed: TarMember | None = None
    owners: int = 1


@dataclass(frozen=True)
class Place:
    """Where a picture of a score set is.

    Attributes:
        sample: its name in the score set.
        kind: "file" (a local one), "url", "tar", "zip", "row" (of a Parquet file or table), "none" (there is no picture).
        files: the picture first, then what belongs to it.
        source: number of the source that it is of; None where none is known.
        inside: path of the file, or of the archive that holds it, below that source; the name of a source that is one file.
        archive: the tar, zip or Parquet file that holds it (or its path), as it is opened.
        is_listed: whether a list or table names this very file, or it was listed at an address.
    """

    sample: str
    kind: PlaceKind
    files: tuple[FilePlace, ...]
    source: int | None = None
    inside: str = ""
    archive: str | None = None
    is_listed: bool = False

    @property
    def error(self) -> tuple[PictureReason, str] | None:
        """Why there is no picture, where that is known already."""
        ref = self.files[0].ref
        return ref.error if ref is not None else None


def nowhere(sample: str, text: str, reason: PictureReason = PictureReason.MISSING, inside: str = "") -> Place:
    """The place of a picture that is not there."""
    return Place(sample, "none", (FilePlace(sample, PictureRef(error=(reason, text))),), inside=inside)
