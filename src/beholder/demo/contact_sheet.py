"""Paths of pictures and their scores in, one picture with all of them small, each above its score, out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from beholder.io import storage

if TYPE_CHECKING:
    from PIL.Image import Image

_CELL_PX, _TEXT_PX, _GAP_PX, _COLUMNS = 180, 36, 12, 6
_PAPER, _INK, _WARNING = "#ffffff", "#222222", "#b3402a"


def draw_contact_sheet(path: Path, rows: Sequence[tuple[str, float]], *, title: str, warning: str = "") -> None:
    """Draw the pictures in the order given to a PNG, written whole or not at all; none gives a sheet with the title alone.

    Args:
        path: of the PNG.
        rows: (local path of a picture, its score).
        title: stands on top.
        warning: a second line in another colour.
    """
    from PIL import Image, ImageDraw, ImageFont
    from PIL.PngImagePlugin import PngInfo

    num_lines = -(-len(rows) // _COLUMNS)
    top = _GAP_PX + (60 if warning else 34)
    size = (_COLUMNS * (_CELL_PX + _GAP_PX) + _GAP_PX, top + num_lines * (_CELL_PX + _TEXT_PX + _GAP_PX) + _GAP_PX)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP_PX, _GAP_PX), title, _INK, ImageFont.load_default(18))
    draw.text((_GAP_PX, _GAP_PX + 28), warning, _WARNING, ImageFont.load_default(18))
    small = ImageFont.load_default(13)
    for number, (picture, score) in enumerate(rows):
        left = _GAP_PX + number % _COLUMNS * (_CELL_PX + _GAP_PX)
        above = top + number // _COLUMNS * (_CELL_PX + _TEXT_PX + _GAP_PX)
        found = _thumbnail(picture)
        sheet.paste(found, (left + (_CELL_PX - found.width) // 2, above + (_CELL_PX - found.height) // 2))
        draw.text((left, above + _CELL_PX + 2), f"{score:.3f}", _WARNING if warning else _INK, small)
        draw.text((left, above + _CELL_PX + 18), _shortened(Path(picture).name), _INK, small)
    text = PngInfo()
    text.add_text("Title", title)
    text.add_text("Description", warning)
    with storage.write_whole(str(path)) as temporary:
        sheet.save(temporary, format="PNG", pnginfo=text)


def _thumbnail(path: str) -> Image:
    """The picture in RGB, at most a cell large."""
    from PIL import Image

    with Image.open(path) as picture:
        found = picture.convert("RGB")
    found.thumbnail((_CELL_PX, _CELL_PX))
    return found


def _shortened(name: str, most: int = 24) -> str:
    return name if len(name) <= most else name[: most - 3] + "..."
