"""Mutated pictures of each format: pixels of the right shape, or one reason; and what XMP packets say of them."""

from __future__ import annotations

import io
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder.errors import OutputError
from beholder.io.xmp import parse_rating, read_rating, with_rating
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PRESETS, PictureError, PixelOptions
from beholder.pixels.thumbnail import make_thumbnail
from beholder.pixels.xmp import embedded_packet
from oracles import inside_formats as inside
from oracles.fuzzing import Target, check
from oracles.hostile import chunk
from oracles.tiers import mostly_slow

SIDE, MOST_PIXELS = 16, 1 << 21
NOISE = np.random.default_rng(3).integers(0, 256, (23, 31, 4), np.uint8)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="3" xmp:Label="Red">'
    b"<dc:title xmlns:dc='u'>a &amp; b</dc:title></rdf:Description></rdf:RDF></x:xmpmeta>"
)
SIDECARS = [
    XMP,
    XMP.replace(b' xmp:Rating="3"', b"").replace(b"<dc:title", b"<xmp:Rating>4</xmp:Rating><dc:title"),
    b'<?xml version="1.0" encoding="UTF-8"?>\n<?xpacket begin="\xef\xbb\xbf"?>\n' + XMP + b"\n<?xpacket end='w'?>",
    XMP.decode().encode("utf-16"),
]


def picture(path: Path) -> Hashable:
    """By every preset, and as a thumbnail: where one can be decoded by a preset, the stated size is that of all."""
    data = path.read_bytes()
    with path.open("rb") as file:
        packet = embedded_packet(file)
    said = []
    refused: PictureError | None = None
    for preset in PRESETS:
        for decoder in ("pillow", "scaled") if preset == "rgb" else ("pillow",):
            options = PixelOptions(preset=preset, size_px=SIDE, max_pixels=MOST_PIXELS, decoder=decoder)  # type: ignore[arg-type]
            try:
                found = prepare(data, options)
            except PictureError as error:
                refused = refused or error
                continue
            assert found.pixels.shape == (SIDE, SIDE, 3)
            assert found.pixels.dtype == np.uint8
            assert 0 < found.width * found.height <= MOST_PIXELS
            said.append((found.width, found.height))
    assert len(set(said)) <= 1
    try:
        small = make_thumbnail(data, longest_px=40, max_pixels=MOST_PIXELS)
        with Image.open(io.BytesIO(small.data)) as opened:
            assert opened.size == (small.width, small.height)
            assert max(opened.size) <= 40
    except PictureError as error:
        refused = refused or error
    if refused is not None and not said:
        raise refused
    return len(said), packet is not None, refused is None


def sidecar(path: Path) -> Hashable:
    """Its rating; written anew it is the one that was written, and the packet stays one."""
    found = read_rating(str(path))
    packet = path.read_bytes()
    for rating in (-1, 5):
        try:
            changed = with_rating(packet, rating, "Blue", str(path))
        except OutputError:
            continue
        again = parse_rating(changed)
        assert (again.stars, again.label) == (rating, "Blue")
    return found.stars is None, found.label is None, found.unusable is None


def _saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.fromarray(NOISE, "RGBA" if mode != "CMYK" else "CMYK")
    image = image if image.mode == mode else image.convert("RGB").convert(mode)
    if mode == "I;16":
        image = Image.fromarray(NOISE[:, :, 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(NOISE[:, :, 0].astype(np.float32))
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _exif(turn: int = 6) -> bytes:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E], exif[0x8769] = turn, "of a thing", {0x9003: "2020:01:01 00:00:00", 0xA002: 31}
    return exif.tobytes()


def _icc() -> bytes:
    from PIL import ImageCms

    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def _jpegs() -> Sequence[bytes]:
    return [
        _saved("JPEG", exif=_exif(), icc_profile=_icc()[:600], comment=b"note", xmp=XMP),
        _saved("JPEG", progressive=True, quality=40),
        _saved("JPEG", "CMYK"),
        _saved("JPEG", "L", restart_marker_blocks=2),
        _saved("JPEG", subsampling=2, optimize=True),
    ]


def _pngs() -> Sequence[bytes]:
    wide = _saved("PNG", exif=_exif(3), icc_profile=_icc())
    itxt = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    return [
        wide[:33] + itxt + wide[33:],
        _saved("PNG", "RGBA"),
        _saved("PNG", "P", transparency=3),
        _saved("PNG", "I;16"),
        _saved("PNG", "1"),
        _saved("PNG", "LA"),
    ]


def _animation(kind: str, **options: Any) -> bytes:
    frames = [Image.fromarray(NOISE[:, :, :3] // (number + 1)) for number in range(3)]
    data = io.BytesIO()
    frames[0].save(data, kind, save_all=True, append_images=frames[1:], duration=50, **options)
    return data.getvalue()


def _webps() -> Sequence[bytes]:
    return [
        _saved("WEBP", exif=_exif(), xmp=XMP),
        _saved("WEBP", lossless=True),
        _saved("WEBP", "RGBA", quality=50),
        _animation("WEBP"),
    ]


def _tiffs() -> Sequence[bytes]:
    packed = [_saved("TIFF", compression=name) for name in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")]
    return [
        _saved("TIFF", exif=_exif()),
        *packed,
        _saved("TIFF", "1", compression="group4"),
        _saved("TIFF", "I;16"),
        _saved("TIFF", "CMYK"),
    ]


def _heics() -> Sequence[bytes]:
    import pillow_heif

    data = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(NOISE[:, :, :3])).save(data, exif=_exif(), quality=40)
    return [data.getvalue()]


def _ppms() -> Sequence[bytes]:
    return [
        _saved("PPM"),
        _saved("PPM", "L"),
        _saved("PPM", "1"),
        b"P2\n# note\n4 3\n255\n" + b" 17" * 12,
        b"P5 4 3 65535\n" + bytes(24),
        b"P3 2 2 9\n" + b"1 2 3 " * 4,
    ]


JPEG = (
    *b"\xff\xd8 \xff\xd9 \xff\xe1 \xff\xc0 \xff\xc2 \xff\xc4 \xff\xdb \xff\xdd \xff\xda \xff\xee Exif\0\0 Adobe MM\0*".split(),
    b"II*\0",
)
PNG = tuple(b"IHDR IDAT IEND PLTE tRNS iCCP iTXt zTXt tEXt eXIf acTL fcTL fdAT gAMA \0\0\0\0".split())
RIFF = (*b"RIFF WEBP VP8X VP8L ALPH ANIM ANMF ICCP EXIF".split(), b"VP8 ", b"XMP ")
BOXES = tuple(b"ftyp meta mdat iloc iinf infe iprp ipco ispe av1C hvcC pixi ipma irot imir avif avis heic mif1".split())
TIFF = (
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    *b"\0\1\3\0 \1\1\3\0 \2\1\3\0 \3\1\3\0 \6\1\3\0 \x11\1\4\0 \x15\1\3\0 \x17\1\4\0 \x42\1\4\0".split(),
)
XML = tuple(b"<!DOCTYPE <!ENTITY <![CDATA[ ]]> <?xml <?xpacket xmp:Rating xmlns:xmp= &amp; &#0; &x; </ /> <!-- -->".split())
TARGETS = {
    "jpeg": Target(read=picture, seeds=_jpegs, name="x.jpg", tokens=JPEG, insides=(inside.in_jpeg_segment,), names_file=False),
    "png": Target(read=picture, seeds=_pngs, name="x.png", tokens=PNG, insides=(inside.in_png_chunk,), names_file=False),
    "webp": Target(read=picture, seeds=_webps, name="x.webp", tokens=RIFF, insides=(inside.in_riff_chunk,), names_file=False),
    "gif": Target(
        read=picture,
        seeds=lambda: [_saved("GIF", "P"), _animation("GIF", transparency=1), _saved("GIF", "L", interlace=1)],
        name="x.gif",
        tokens=(b"GIF87a", b"GIF89a", b"!\xf9\4", b"!\xff\x0b", b",", b";", b"NETSCAPE2.0"),
        names_file=False,
    ),
    "bmp": Target(
        read=picture,
        seeds=lambda: [_saved("BMP"), _saved("BMP", "P"), _saved("BMP", "1"), _saved("BMP", "RGBA")],
        name="x.bmp",
        tokens=(b"BM", b"\x28\0\0\0", b"\x7c\0\0\0", b"\1\0\x18\0", b"\1\0\4\0", b"\3\0\0\0"),
        names_file=False,
    ),
    "tiff": Target(
        read=picture,
        seeds=_tiffs,
        name="x.tif",
        tokens=TIFF,
        insides=(inside.in_tiff_directory,),
        names_file=False,
        prints=True,
    ),
    "avif": Target(
        read=picture,
        seeds=lambda: [_saved("AVIF", speed=10, exif=_exif(), xmp=XMP), _saved("AVIF", "RGBA", speed=10)],
        name="x.avif",
        tokens=BOXES,
        insides=(inside.in_box,),
        names_file=False,
        count=7,
    ),
    "heic": Target(
        read=picture, seeds=_heics, name="x.heic", tokens=BOXES, insides=(inside.in_box,), names_file=False, count=7
    ),
    "ppm": Target(read=picture, seeds=_ppms, name="x.ppm", tokens=(b"P6", b"P1", b"P7", b"Pf", b"#", b"\n"), names_file=False),
    "xmp": Target(read=sidecar, seeds=lambda: SIDECARS, name="x.xmp", tokens=XML, is_text=True, count=25),
}


def _need_decoder(name: str) -> None:
    if name == "heic":
        pytest.importorskip("pillow_heif")


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    _need_decoder(name)
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_files_for_a_minute(name: str, tmp_path: Path) -> None:
    _need_decoder(name)
    check(__file__, name, tmp_path)
