"""Planned pictures in; the bytes of files that have no place of their own, few pictures at a time, out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from beholder.curate.act.files import Refused
from beholder.curate.act.plan import Planned
from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError, PictureRef
from beholder.sources.fetch import ReadLimits, read_bytes

_AT_ONCE = 32
"""Pictures whose bytes are held in memory together."""


def pieces(planned: Sequence[Planned]) -> Iterator[Sequence[Planned]]:
    """Few pictures at a time where their bytes have to be read along."""
    step = _AT_ONCE if any(i.part is not None for p in planned for i in p.intents) else len(planned) or 1
    for at in range(0, len(planned), step):
        yield planned[at : at + step]


def fetch(finder: PictureFinder, pictures: Sequence[Planned]) -> dict[int, bytes | Refused]:
    """Bytes of the files that have no place of their own, by number of the intent."""
    wanted = [picture for picture in pictures if any(intent.part is not None for intent in picture.intents)]
    found: dict[int, bytes | Refused] = {}
    for picture, refs in zip(wanted, finder.contents([picture.place for picture in wanted]), strict=True):
        for intent in picture.intents:
            if intent.part is not None and intent.part < len(refs):
                try:
                    found[intent.number] = bytes_of(refs[intent.part][1])
                except Refused as refused:
                    found[intent.number] = refused
            elif intent.part is not None:
                found[intent.number] = Refused("missing", f"{intent.sample} is not there any more")
    return found


def bytes_of(ref: PictureRef) -> bytes:
    """The bytes of a file. Raises Refused."""
    try:
        return read_bytes(ref, ReadLimits())
    except PictureError as error:
        raise Refused("missing" if str(error.reason) == "missing" else "unreadable", str(error)) from None
