"""A finder and the first samples of a set in; a warning where none of their pictures is there any more, out."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from beholder.columns import WHERE_NOW
from beholder.errors import BeholderError
from beholder.io import storage
from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError

NUM_LOOKED_UP = 8
"""So many first pictures are looked up at the start."""
_TIMEOUT_S = 3.0
_MOST_LETTERS = 400


def gone_warning(finder: PictureFinder, samples: Sequence[str], *, timeout_s: float = _TIMEOUT_S) -> str | None:
    """One line where none of these pictures can be found, with the reason of the first and the flags that help; else None.

    Nothing is asked of servers: pictures there, and sets with a source there, are not looked up.

    Args:
        finder: where pictures are.
        samples: names; none of them gives None.
        timeout_s: seconds that the search may hold up the start; what takes longer gives None.
    """
    found: list[str | None] = []

    def look() -> None:
        with contextlib.suppress(OSError, ValueError):  # the finder may be closed by now: nobody waits any more
            found.append(_why_none_is_there(finder, samples))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(timeout_s)
    return found[0] if found else None


def _why_none_is_there(finder: PictureFinder, samples: Sequence[str]) -> str | None:
    """The warning itself, however long it takes."""
    named = finder.sources(samples)
    if not all(storage.is_local(source) for source in named.opened):
        return None
    claims = {sample: named.match(sample) for sample in samples}
    local = [sample for sample, claim in claims.items() if claim is None or storage.is_local(claim.path)]
    if not local:
        return None
    try:
        texts = [place.error[1] for place in finder.locate(local) if place.error is not None]
        if len(texts) < len(local):
            return None
    except (BeholderError, PictureError) as error:  # a source cannot be read at all
        texts = [str(error)]
    from beholder.curate.act.messages import shown_text

    first = shortened(shown_text(texts[0].removesuffix(f"; {WHERE_NOW}")))
    whose = "the first picture" if len(local) == 1 else f"any of the first {len(local)} pictures"
    return f"cannot find {whose} ({first}); {WHERE_NOW}"


def shortened(text: str) -> str:
    """The text, or its beginning and end: names have any length."""
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS // 2]} … {text[-_MOST_LETTERS // 2 :]}"
