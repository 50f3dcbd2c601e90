"""The look at some pictures before a run: what headers tell, in sources of every kind; nobody on the web is asked."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from beholder.pixels.decode import prepare
from beholder.pixels.picture import PixelOptions, Trait
from beholder.sources.sampling import count_traits
from oracles.made_pictures import encoded, noise, smooth
from oracles.picture_sources import find, put
from oracles.tar_making import tar
from oracles.web import serving


def turned(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(smooth(60, 40), kind, exif=exif)


def with_alpha(kind: str) -> bytes:
    return encoded(noise("RGBA", 30, 40, 3), kind)


KINDS: dict[str, tuple[bytes, Trait]] = {
    "plain.jpg": (encoded(smooth(60, 40), "JPEG"), Trait.NONE),
    "turned.jpg": (turned("JPEG", 6), Trait.ROTATED),
    "straight.jpg": (turned("JPEG", 1), Trait.NONE),
    "turned.png": (turned("PNG", 3), Trait.ROTATED),
    "turned.webp": (turned("WEBP", 8), Trait.ROTATED),
    "plain.png": (encoded(smooth(60, 40), "PNG"), Trait.NONE),
    "palette.png": (encoded(noise("P", 40, 40, 1), "PNG"), Trait.PALETTE),
    "palette.gif": (encoded(noise("P", 40, 40, 2), "GIF"), Trait.PALETTE),
    "one.png": (encoded(noise("1", 40, 40, 4), "PNG"), Trait.PALETTE),
    "alpha.png": (with_alpha("PNG"), Trait.ALPHA),
    "alpha.webp": (encoded(noise("RGBA", 30, 40, 3), "WEBP", lossless=True), Trait.ALPHA),
    "lossy.webp": (encoded(smooth(30, 40), "WEBP"), Trait.NONE),
    "lossless.webp": (encoded(smooth(30, 40), "WEBP", lossless=True), Trait.NONE),
    "clear.png": (encoded(noise("P", 40, 40, 1), "PNG", transparency=3), Trait.PALETTE | Trait.ALPHA),
    "deep.png": (encoded(noise("I;16", 40, 40, 1), "PNG"), Trait.DEEP),
    "deep.tif": (encoded(noise("I;16", 40, 40, 1), "TIFF"), Trait.DEEP),
    "turned.tif": (turned("TIFF", 6), Trait.NONE),
    "cmyk.jpg": (encoded(noise("CMYK", 40, 40, 1), "JPEG"), Trait.CMYK),
}


@pytest.mark.parametrize("name", KINDS)
def test_headers_tell_what_decoding_tells(tmp_path: Path, name: str) -> None:
    data, wanted = KINDS[name]
    assert prepare(data, PixelOptions(size_px=20)).traits == wanted
    put(tmp_path / name, data)
    num_seen, counts = count_traits(find(tmp_path))
    assert num_seen == 1
    assert counts == {trait: 1 for trait in Trait if trait and trait in wanted}


def test_sources_of_every_kind(here: Path) -> None:
    data = [turned("JPEG", 6) if i % 3 == 0 else encoded(smooth(60, 40), "JPEG") for i in range(30)]
    for i, item in enumerate(data):
        put(Path("folder") / f"{i:02d}.jpg", item)
    Path("t.tar").write_bytes(tar([(f"{i:02d}.jpg", item) for i, item in enumerate(data)]))
    with zipfile.ZipFile("z.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for i, item in enumerate(data):
            archive.writestr(f"{i:02d}.jpg", item)
    pq.write_table(pa.table({"jpg": data}), "p.parquet", row_group_size=7)
    Path("l.txt").write_text("\n".join(f"folder/{i:02d}.jpg" for i in range(30)))
    for source in ("folder", "t.tar", "z.zip", "p.parquet", "l.txt"):
        assert count_traits(find(source)) == (30, {Trait.ROTATED: 10}), source
    assert count_traits(find("folder", "t.tar", "p.parquet"), most=6)[0] == 6
    assert count_traits(find("folder"), most=10) == (10, {Trait.ROTATED: 10})  # every third one, from the first
    assert count_traits(find("folder"), seconds=0) == (0, {})


def test_what_cannot_be_looked_at_does_not_count(here: Path) -> None:
    put(Path("f/a.jpg"), b"no picture")
    put(Path("f/b.jpg"), turned("JPEG", 6)[:300])
    put(Path("f/c.png"), encoded(smooth(60, 40), "PNG")[:60])
    put(Path("f/d.jpg"), turned("JPEG", 6))
    num_seen, counts = count_traits(find("f"))
    assert counts == {Trait.ROTATED: 1}
    assert num_seen <= 2
    with serving({"x.jpg": turned("JPEG", 6)}) as server:
        Path("u.txt").write_text(f"{server.url}/x.jpg\n")
        assert count_traits(find("u.txt")) == (0, {})
