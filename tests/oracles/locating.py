"""Sources of pictures in; samples with the bytes that scoring reads for them, and whether samples lead back to these, out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from beholder.locate.locate import PictureFinder
from beholder.pixels.picture import PictureError
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.find import find_pictures
from beholder.sources.reader import PictureRef, SourceOptions, picture_reader
from oracles.tar_making import png


def record(*sources: str, folder: Path | None = None, **options: Any) -> dict[str, Any]:
    """What a score set says of its pictures: these sources, named in a folder (else the current one)."""
    return {"pictures": {"sources": list(sources), "folder": str(folder or Path.cwd()), **options}}


def outcome(ref: PictureRef) -> Any:
    """The bytes at a place, or the reason why there are none."""
    try:
        return read_bytes(ref, ReadLimits())
    except PictureError as error:
        return error.reason


def members(finder: PictureFinder, sample: str) -> list[tuple[str, PictureRef]]:
    """(name, place) of a picture, first, and of all that belongs to it: members of its key in a tar, sidecars of a file."""
    return finder.contents(finder.locate([sample], with_belongings=True))[0]


def truth(*sources: str, **options: Any) -> list[tuple[str, Any]]:
    """(sample, bytes or reason) of every picture, as scoring reads them."""
    found = []
    settings = SourceOptions(**options)
    for part in find_pictures(sources, settings):
        for block in picture_reader(part.kind).blocks(part, 0, None, settings):
            found += [(name, outcome(ref)) for name, ref in zip(block.labels["sample"].to_pylist(), block.refs, strict=True)]
    return found


def check(*sources: str, **options: Any) -> list[str]:
    """All samples, all at once and a handful at a time in any order, lead to the same bytes or reasons. Returns the samples."""
    expected = dict(truth(*sources, **options))
    samples = list(expected)
    random.Random(1).shuffle(samples)
    assert samples
    said = {"sample_column": options.get("sample_column"), "picture_column": options.get("picture_column")}
    for pieces in (1, len(samples)):
        with PictureFinder(record(*sources, **said)) as finder:
            for at in range(0, len(samples), -(-len(samples) // pieces)):
                few = samples[at : at + -(-len(samples) // pieces)]
                for sample, ref in zip(few, finder.find(few), strict=True):
                    assert outcome(ref) == expected[sample], sample
    return samples


def fill(folder: Path) -> Path:
    """Eight pictures below a folder, under names of all sorts; the folder."""
    for i, name in enumerate(
        ["a.jpg", "b/c.png", "b/ö.webp", "b/-x.jpg", "b/no suffix", "b/d/e.f.jpg", "n#2.jpg", "b/new\nline.png"]
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(i))
    return folder


MEMBERS = [("x/0.jpg", png(0)), ("x/0.json", b'{"n": 0}'), ("x/0.txt", b"nought"), ("1.png", png(1)), ("1.seg.png", png(2)),
           ("2.cls", b"7"), ("2.webp", png(3)), ("é.jpg", png(4)), ("1.png", png(5)), ("noname", png(6)), ("e.jpg", b""),
           ("__meta__/x.jpg", png(8)), (".hidden.jpg", png(9)), ("words.html", b"-")]  # fmt: skip
