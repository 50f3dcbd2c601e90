"""The XMP packet inside pictures that Pillow wrote."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import pytest
from PIL import Image, PngImagePlugin, TiffImagePlugin

from beholder.io.xmp import parse_rating, with_rating
from beholder.pixels.xmp import embedded_packet

PACKET = with_rating(None, 4)


def written(kind: str, packet: bytes | None, **options: Any) -> bytes:
    file = io.BytesIO()
    image = Image.new("RGB", (8, 8), (200, 10, 10))
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        if packet is not None:
            data = b"XML:com.adobe.xmp\0\0\0\0\0" + packet
            info.add(b"iTXt", data, after_idat=options.pop("after_idat", False))
        image.save(file, kind, pnginfo=info)
    elif kind == "TIFF":
        info = TiffImagePlugin.ImageFileDirectory_v2()
        if packet is not None:
            info[700] = packet
        image.save(file, kind, tiffinfo=info)
    else:
        image.save(file, kind, **({} if packet is None else {"xmp": packet}))
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_finds_the_packet(kind: str) -> None:
    packet = embedded_packet(io.BytesIO(written(kind, PACKET)))
    assert packet is not None
    assert packet.rstrip(b"\0") == PACKET
    assert parse_rating(packet).stars == 4
    assert embedded_packet(io.BytesIO(written(kind, None))) is None


def test_finds_it_in_heic() -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    heif = pillow_heif.from_pillow(Image.new("RGB", (64, 64), (200, 10, 10)))
    heif.save(file, xmp=PACKET)
    assert embedded_packet(io.BytesIO(file.getvalue())) == PACKET


def test_finds_it_behind_the_pixels_of_a_png_and_compressed() -> None:
    assert embedded_packet(io.BytesIO(written("PNG", PACKET, after_idat=True))) == PACKET
    data = b"XML:com.adobe.xmp\0\1\0de\0\0" + zlib.compress(PACKET)
    chunk = struct.pack(">I", len(data)) + b"iTXt" + data + struct.pack(">I", zlib.crc32(b"iTXt" + data))
    plain = written("PNG", None)
    assert embedded_packet(io.BytesIO(plain[:-12] + chunk + plain[-12:])) == PACKET


@pytest.mark.parametrize(
    "data", [b"", b"no picture", b"GIF89a" + bytes(20), b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffiTXt", b"\xff\xd8\xff\xe1\xff"]
)
def test_other_and_damaged_files_have_none(data: bytes) -> None:
    assert embedded_packet(io.BytesIO(data)) is None
