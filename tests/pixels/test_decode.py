"""`decode.prepare`: every format as Pillow reads it, every hostile file with its reason, and nothing but PictureError."""

from __future__ import annotations

import io
import random
import resource
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from beholder.columns import PictureReason
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PictureError, PixelOptions, Trait
from beholder.pixels.sniff import sniff, stored_size
from oracles import hostile

SMALL = PixelOptions(size_px=16)


def photo(width: int = 61, height: int = 47, seed: int = 1) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def reason_of(data: bytes, options: PixelOptions = SMALL) -> PictureReason | None:
    """The reason a file is rejected with; None when it is a picture. The text is one line."""
    try:
        prepare(data, options)
    except PictureError as error:
        text = str(error)
        assert text
        assert "\n" not in text
        assert len(text) < 500
        return error.reason
    return None


# Formats


FORMATS: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "JPEG", {}), ("JPEG", "JPEG", {"progressive": True}), ("PNG", "PNG", {}), ("GIF", "GIF", {}), ("BMP", "BMP", {}),
    ("TIFF", "TIFF", {}), ("TIFF", "TIFF", {"compression": "tiff_lzw"}), ("WEBP", "WEBP", {}), ("AVIF", "AVIF", {"speed": 10}),
    ("WEBP", "WEBP", {"lossless": True}), ("PPM", "PPM", {}), ("TIFF", "TIFF", {"big_tiff": True}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "options"), FORMATS)
def test_every_format_is_read_as_pillow_reads_it(kind: str, name: str, options: dict[str, Any]) -> None:
    data = encoded(photo(), name, **options)
    assert sniff(data) == kind
    found = prepare(data, PixelOptions(size_px=20))
    image = Image.open(io.BytesIO(data))
    want = image.resize((int(20 * 61 / 47), 20), Image.Resampling.BICUBIC).crop((2, 0, 22, 20)).convert("RGB")
    np.testing.assert_array_equal(found.pixels, np.asarray(want))
    assert (found.width, found.height) == (61, 47)
    assert stored_size(data, kind) in ((61, 47), None)


def test_headers_tell_the_size() -> None:
    for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        assert stored_size(encoded(photo(), kind), kind) == (61, 47), kind
    assert stored_size(encoded(photo(), "WEBP", lossless=True), "WEBP") == (61, 47)
    assert stored_size(encoded(photo().convert("RGBA"), "WEBP", exif=Image.Exif()), "WEBP") == (61, 47)


def test_heic_is_read_with_its_plug_in() -> None:
    pillow_heif = pytest.importorskip("pillow_heif", reason="the HEIC decoder is not installed: pip install 'beholder[heic]'")
    file = io.BytesIO()
    x, y = np.meshgrid(np.arange(64), np.arange(48))
    image = Image.fromarray(np.stack([x * 3, y * 4, 128 + x - y], axis=-1).astype(np.uint8))
    pillow_heif.from_pillow(image).save(file, quality=95)
    found = prepare(file.getvalue(), PixelOptions(size_px=48))
    assert (found.width, found.height) == (64, 48)
    drift = np.abs(found.pixels.astype(int) - np.asarray(image)[:, 8:56].astype(int))
    assert drift.mean() < 3  # it is a lossy format
    half = file.getvalue()[: len(file.getvalue()) // 2]
    assert reason_of(half) is PictureReason.TRUNCATED


def test_heic_without_its_plug_in_names_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # what `import` does when it is missing
    with pytest.raises(PictureError, match=r"pip install 'beholder\[heic\]'") as caught:
        prepare(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), SMALL)
    assert caught.value.reason is PictureReason.UNSUPPORTED


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    for kind in ("GIF", "PNG", "WEBP"):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
        pixel = prepare(data, SMALL).pixels[8, 8].astype(int)
        assert np.abs(pixel - [255, 0, 0]).max() <= 3, kind


# Traits


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_traits() -> None:
    cases = [
        (encoded(photo(), "PNG"), Trait.NONE),
        (encoded(photo().convert("L"), "JPEG"), Trait.NONE),
        (encoded(photo(), "JPEG", exif=exif(1)), Trait.NONE),
        (encoded(photo(), "JPEG", exif=exif(6)), Trait.ROTATED),
        (encoded(photo(), "WEBP", exif=exif(3)), Trait.ROTATED),
        (encoded(photo(), "PNG", exif=exif(8)), Trait.ROTATED),
        (encoded(photo(), "AVIF", exif=exif(6), speed=10), Trait.ROTATED),
        (encoded(photo(), "TIFF", exif=exif(6)), Trait.NONE),  # Pillow itself turns TIFF files
        (encoded(photo(), "JPEG", exif=exif(99)), Trait.NONE),
        (encoded(photo().quantize(16), "PNG"), Trait.PALETTE),
        (encoded(photo().convert("1"), "PNG"), Trait.PALETTE),
        (encoded(photo().quantize(16), "PNG", transparency=3), Trait.PALETTE | Trait.ALPHA),
        (encoded(photo().convert("RGBA"), "PNG"), Trait.NONE),  # opaque everywhere
        (encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 254)), "PNG"), Trait.ALPHA),
        (encoded(Image.new("LA", (9, 9), (1, 0)), "PNG"), Trait.ALPHA),
        (encoded(photo(), "PNG", transparency=(1, 2, 3)), Trait.ALPHA),
        (encoded(Image.new("I;16", (9, 9), 700), "PNG"), Trait.DEEP),
        (encoded(Image.new("I;16", (9, 9), 700), "TIFF"), Trait.DEEP),
        (encoded(Image.new("I;16", (9, 9), 700), "PPM"), Trait.DEEP),
        (encoded(photo().convert("CMYK"), "JPEG"), Trait.CMYK),
    ]
    for number, (data, traits) in enumerate(cases):
        assert prepare(data, SMALL).traits == traits, number


def test_16_bit_colour_has_no_trait_and_loses_less_than_a_level() -> None:
    values = np.random.default_rng(2).integers(0, 65536, (20, 20, 3))
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    data = hostile.png(20, 20, depth=16, colour=2, packed=rows)
    found = prepare(data, PixelOptions(size_px=20))
    assert found.traits is Trait.NONE
    assert np.abs(found.pixels - values / 257).max() < 1


def test_grey_pnm_of_more_than_8_bits() -> None:
    assert reason_of(b"P5 9 9 4095\n" + bytes(162)) is None
    assert reason_of(b"P5 9 9 4095\n" + bytes(161)) is PictureReason.TRUNCATED
    assert reason_of(b"P5 9 9 65535\n" + bytes(161)) is PictureReason.TRUNCATED
    assert reason_of(b"P2 2 1 4095\n7") is PictureReason.TRUNCATED
    assert reason_of(b"P5 9 9 65536\n" + bytes(400)) is PictureReason.DAMAGED
    assert reason_of(encoded(Image.new("I", (9, 9), 700), "TIFF")) is PictureReason.UNSUPPORTED


def test_no_note_on_metadata_reaches_the_terminal() -> None:
    plain = encoded(photo(), "JPEG")
    block = b"Exif\0\0II*\0\x08\0\0\0\x05\0" + bytes(range(40))
    data = plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]
    with warnings.catch_warnings(record=True) as by_pillow:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif().get(0x0112)
    assert by_pillow
    with warnings.catch_warnings(record=True) as by_us:
        warnings.simplefilter("always")
        num_filters = len(warnings.filters)
        for _ in range(3):
            prepare(data, SMALL)
        assert len(warnings.filters) == num_filters + 1
    assert not by_us


def test_broken_metadata_are_no_reason_to_lose_a_picture() -> None:
    plain = encoded(photo(), "JPEG")
    want = prepare(plain, SMALL).pixels
    rng = random.Random(3)
    for number in range(200):
        block = b"Exif\0\0" + (b"MM\0*\0\0\0\x08" if number % 2 else b"II*\0\x08\0\0\0") + rng.randbytes(rng.randint(0, 200))
        data = plain[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + plain[2:]
        found = prepare(data, SMALL)
        if found.traits is Trait.NONE:
            np.testing.assert_array_equal(found.pixels, want)
            np.testing.assert_array_equal(prepare(data, PixelOptions(size_px=16, preset="upright")).pixels, want)
    np.testing.assert_array_equal(prepare(encoded(photo(), "JPEG", icc_profile=b"no profile" * 9), SMALL).pixels, want)
    np.testing.assert_array_equal(prepare(plain + b"\0trailing words" * 99, SMALL).pixels, want)


# Hostile files


def test_every_hostile_file_has_its_reason() -> None:
    files = hostile.hostile_files(random.Random(2), 420)
    assert len({name for name, _, _ in files}) == 420
    start = time.monotonic()
    wrong = [(name, reason, found) for name, data, reason in files if (found := reason_of(data)) is not reason]
    assert not wrong
    assert time.monotonic() - start < 20
    counts = Counter(reason for _, _, reason in files)
    assert set(counts) == set(PictureReason) - {
        PictureReason.UNREADABLE, PictureReason.MISSING, PictureReason.TIMED_OUT, PictureReason.CRASHED
    }  # fmt: skip
    for preset in ("upright", "squash"):
        for name, data, reason in files[:84]:
            assert reason_of(data, PixelOptions(preset=preset, decoder="scaled", size_px=16)) is reason, name


def test_bombs_take_no_memory() -> None:
    script = """
import random, resource, sys
sys.path.insert(0, sys.argv[1])
from oracles import hostile
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PictureError, PixelOptions
bombs = [data for _, data, reason in hostile.hostile_files(random.Random(1), 140) if reason == "too_large"]
prepare(hostile.picture(random.Random(1), "PNG"), PixelOptions())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for bomb in bombs:
    try:
        prepare(bomb, PixelOptions())
    except PictureError:
        pass
print(len(bombs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    folder = str(Path(__file__).resolve().parents[1])
    result = subprocess.run([sys.executable, "-c", script, folder], check=True, capture_output=True, text=True)
    num_bombs, kib = (int(word) for word in result.stdout.split())
    assert num_bombs == 20
    assert kib < 64 << 10


def test_texts_say_what_was_found() -> None:
    cases = [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "git lfs pull"),
        (b"  \n<!doctype HTML><html>", "web page"),
        (b"Not Found", "begins with 'Not Found'"),
        (bytes(5000), "zero bytes"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"PK\3\4....", "zip"),
        (hostile.png(60_000, 60_000), "3,600,000,000 pixels"),
        (encoded(photo(), "JPEG")[:900], "breaks off after 900 bytes"),
    ]
    for data, words in cases:
        with pytest.raises(PictureError, match=words):
            prepare(data, SMALL)


def test_the_limit_of_pixels_is_an_option() -> None:
    data = encoded(photo(61, 47), "PNG")
    assert reason_of(data, PixelOptions(size_px=16, max_pixels=61 * 47)) is None
    assert reason_of(data, PixelOptions(size_px=16, max_pixels=61 * 47 - 1)) is PictureReason.TOO_LARGE


def test_limits_of_pillow_are_neither_used_nor_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # a user's own choice, below these pictures
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in ("JPEG", "PNG", "GIF", "BMP", "PPM"):
            assert reason_of(encoded(photo(), kind)) is None, kind
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_nothing_but_our_formats_is_tried() -> None:
    for data in (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"\0\0\1\0" + bytes(60)):
        assert reason_of(data) is PictureReason.UNSUPPORTED
    script = """
import io
from PIL import Image
from beholder.pixels.decode import prepare
from beholder.pixels.picture import PixelOptions
from oracles import hostile
import random
prepare(hostile.picture(random.Random(1), "BMP"), PixelOptions())
import PIL.Image
assert "EPS" not in PIL.Image.OPEN and PIL.Image._initialized < 2, PIL.Image.OPEN
"""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).resolve().parents[1])!r})\n" + script
    subprocess.run([sys.executable, "-c", script], check=True)


# Damage at random


@pytest.mark.parametrize("kind", hostile.FORMATS)
def test_every_cut_is_noticed_or_harmless(kind: str) -> None:
    rng = random.Random(kind)
    good = hostile.picture(rng, kind)
    want = prepare(good, SMALL).pixels
    for stop in sorted(rng.sample(range(24, len(good)), min(150, len(good) - 24))):
        reason = reason_of(good[:stop])
        if reason is None:  # only bytes that hold no pixels were cut
            np.testing.assert_array_equal(prepare(good[:stop], SMALL).pixels, want)
        else:
            assert reason is PictureReason.TRUNCATED, stop


def test_random_bytes() -> None:
    rng = random.Random(8)
    heads = [hostile.picture(rng, kind)[:16] for kind in hostile.FORMATS] + [b""]
    for _ in range(600):
        assert reason_of(rng.choice(heads)[: rng.randint(0, 16)] + rng.randbytes(rng.randint(0, 400))) is not None


def test_threads_give_the_same_pixels() -> None:
    files = [encoded(photo(seed=number), kind) for number in range(6) for kind in ("JPEG", "PNG", "GIF", "WEBP")]
    want = [prepare(data, SMALL).pixels for data in files]
    wrong: list[int] = []

    def work() -> None:
        for number, data in enumerate(files):
            if not np.array_equal(prepare(data, SMALL).pixels, want[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def one_colour_webp(width: int, height: int) -> bytes:
    """28 bytes: a lossless WebP whose five codes have one symbol each, so that a pixel takes no bit."""
    fields = [(width - 1, 14), (height - 1, 14), (0, 7), *[(1, 1), (0, 3)] * 5]
    value = at = 0
    for number, num_bits in fields:
        value, at = value | number << at, at + num_bits
    return b"RIFF\x14\0\0\0WEBPVP8L\x08\0\0\0/" + value.to_bytes(7, "little")


def test_a_webp_of_a_few_bytes_is_one_only_while_it_is_small() -> None:
    assert not prepare(one_colour_webp(300, 200), PixelOptions(size_px=16)).pixels.any()
    for width, height, text in ((16384, 16384, "16384 x 16384 = 268,435,456"), (6000, 6000, "36,000,000 pixels in 28 bytes")):
        data = one_colour_webp(width, height)
        assert stored_size(data, "WEBP") == (width, height)
        with pytest.raises(PictureError, match=text) as caught:
            prepare(data, PixelOptions(size_px=16))
        assert caught.value.reason == PictureReason.TOO_LARGE


def test_a_gif_is_as_large_as_its_first_frame_reaches() -> None:
    """Pillow makes room for the frame as it opens the file, with a warning of its own where it is large."""

    def gif(left: int, width: int, *, comment: bytes = b"") -> bytes:
        head = b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
        notes = b"!\xfe" + b"".join(bytes([len(piece)]) + piece for piece in (comment, b",,,,") if piece) + b"\0"
        control = b"!\xf9\4\0\0\0\0\0"
        return head + notes + control + b"," + struct.pack("<HHHHB", left, 2, width, 5, 0) + b"\2\2\x4c\1\0;"

    for left, width, size in ((0, 8, (8, 7)), (3, 8, (11, 7)), (0, 300, (300, 7)), (1, 2, (8, 7))):
        for comment in (b"", b"x" * 255):
            data = gif(left, width, comment=comment)
            assert stored_size(data, "GIF") == size == Image.open(io.BytesIO(data)).size
    assert stored_size(b"GIF89a" + struct.pack("<HHBBB", 8, 6, 0, 0, 0) + b";", "GIF") == (8, 6)
    huge = (
        b"GIF89a"
        + struct.pack("<HHBBB", 8, 6, 0, 0, 0)
        + b"!\xf9\4\x08\0\0\0\0,"
        + struct.pack("<HHHHB", 0, 0, 10_000, 10_000, 0)
    )
    with pytest.raises(PictureError, match="goes beyond its canvas, to 10000 x 10000 = 100,000,000 pixels") as caught:
        prepare(huge + b"\2\2\x4c\1\0;", PixelOptions(size_px=16, max_pixels=1 << 40))
    assert "max-pixels" not in str(caught.value)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        assert reason_of(huge + b"\2\2\x4c\1\0;") is PictureReason.TOO_LARGE
        assert reason_of(huge + b"\2\2\x4c\1\0;", PixelOptions(size_px=16)) is PictureReason.TOO_LARGE
    assert not warned
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
