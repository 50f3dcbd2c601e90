"""Sources of pictures in; their parts, samples and places, or the line of a refusal, out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beholder import InputError
from beholder.sources.find import find_pictures
from beholder.sources.labels import join_labels
from beholder.sources.reader import PicturePart, PictureRef, SourceOptions, picture_reader
from oracles.tar_making import png


def find(*sources: Any, **options: Any) -> list[PicturePart]:
    """The parts of these sources, in order."""
    return find_pictures([str(source) for source in sources], SourceOptions(**options))


def refused(*sources: Any, **options: Any) -> str:
    """The line that refuses these sources."""
    with pytest.raises(InputError) as caught:
        find(*sources, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def read(part: PicturePart, start: int = 0, stop: int | None = None, **options: Any) -> tuple[list[str], list[PictureRef]]:
    """Samples, checked to be unique text, and places of rows `start` to `stop` of a part."""
    blocks = list(picture_reader(part.kind).blocks(part, start, stop, SourceOptions(**options)))
    refs = [ref for block in blocks for ref in block.refs]
    names = join_labels([block.labels for block in blocks]).column("sample").to_pylist() if blocks else []
    assert len(set(names)) == len(names) == len(refs)
    assert all(name.encode() for name in names)
    return names, refs


def samples(*sources: Any) -> list[str]:
    """All samples of these sources, in order."""
    return [name for part in find(*sources) for name in read(part)[0]]


def put(path: Path, data: bytes | None = None) -> Path:
    """Write a file, else a picture, with the folders it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(len(path.name)) if data is None else data)
    return path
