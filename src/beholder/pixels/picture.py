"""What a picture is on its way to the tower: where its bytes are, which pixels are wanted, what was found, why it failed."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from beholder.columns import PictureReason
from beholder.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

Preset = Literal["reference", "upright", "rgb", "squash"]
Decoder = Literal["pillow", "scaled"]

PRESETS: tuple[Preset, ...] = ("reference", "upright", "rgb", "squash")
DECODERS: tuple[Decoder, ...] = ("pillow", "scaled")
DIGEST_BYTES = 16
MAX_PIXELS = 178_956_970
"""Pictures with more pixels are rejected by default: where Pillow itself speaks of a decompression bomb (2 x 1 GiB / 4 / 3)."""


class PictureError(InputError):
    """One picture that cannot be used; `reason` is the fixed word, the text says what was found. Never stops a run."""

    def __init__(self, reason: PictureReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[PictureError], tuple[PictureReason, str]]:
        """How it travels between processes."""
        return PictureError, (self.reason, str(self))


class Trait(enum.IntFlag):
    """What a picture has that makes presets give different pixels. NONE: every crop preset gives (nearly) the same."""

    NONE = 0
    ROTATED = 1
    """EXIF orientation other than 1."""
    PALETTE = 2
    """Mode P, PA or 1 (1-bit): resized as indices by `reference`."""
    ALPHA = 4
    """RGBA, LA, PA or a transparent colour (tRNS)."""
    DEEP = 8
    """16 bits a channel: clipped to nearly white by `reference`."""
    CMYK = 16
    """CMYK or YCCK."""


@dataclass(frozen=True, kw_only=True)
class PixelOptions:
    """Which pixels are wanted.

    Attributes:
        preset: "reference": OpenAI's transform to the bit (resized in the picture's own mode, EXIF ignored, alpha dropped);
            "upright": EXIF applied, palettes expanded, alpha on white, 16 bits scaled, then as the others;
            "rgb": converted to RGB first, then resized and cropped (birder --simple-crop, timm);
            "squash": converted to RGB first, then squashed to a square (birder's default).
        size_px: side of the square that comes out.
        crop: share of the short side that is kept, in (0, 1]: resized to int(size_px / crop), then cropped
            (birder --center-crop).
        decoder: "pillow": exact; "scaled": large JPEGs are decoded at 1/2, 1/4 or 1/8 (faster, pixels drift).
        max_pixels: pictures with more (width x height) are rejected before they are decoded.
    """

    preset: Preset = "reference"
    size_px: int = 224
    crop: float = 1.0
    decoder: Decoder = "pillow"
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.preset not in PRESETS:
            raise InputError(f"--preset {self.preset}: choose one of {', '.join(PRESETS)}")
        if self.decoder not in DECODERS:
            raise InputError(f"--decoder {self.decoder}: choose one of {', '.join(DECODERS)}")
        if self.size_px < 1 or self.max_pixels < 1 or not 0 < self.crop <= 1:
            raise InputError("sizes must be at least 1 pixel, and the crop in (0, 1]")

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; what the stamp says about pixels."""
        return asdict(self)

    @classmethod
    def of_record(cls, said: object) -> PixelOptions | None:
        """What a stamp says about pixels; None where it says nothing that is known here."""
        names = {item.name for item in fields(cls)}
        if not isinstance(said, dict) or not set(said) <= names:
            return None
        try:
            return cls(**said)
        except (InputError, TypeError):
            return None


@dataclass(frozen=True)
class Pixels:
    """A prepared picture.

    Attributes:
        pixels: (size_px, size_px, 3) uint8, height x width x RGB.
        width, height: of the picture as stored, in pixels, before EXIF is applied.
        traits: what makes presets differ for it.
    """

    pixels: npt.NDArray[np.uint8]
    width: int
    height: int
    traits: Trait


@dataclass(frozen=True)
class PictureRef:
    """One picture that has not been decoded: exactly one of `data`, `error`, `path` and `is_done` says where it is.

    Attributes:
        data: its bytes, already read (a Parquet cell, a member of a remote tar, a compressed zip member).
        path: a local path or URL, when `data` and `error` are None.
        offset, length: the bytes [offset, offset + length) of `path`; None: all of it.
        error: (reason, message) when the source already knows that there is none (a null, a broken archive).
        known: the digest of its contents when they were last seen (`contents_digest`): where they are the same still, it is
            read and not decoded.
        is_done: nothing is to be read; it holds a place in the order.
    """

    data: bytes | None = None
    path: str | None = None
    offset: int | None = None
    length: int | None = None
    error: tuple[PictureReason, str] | None = None
    known: bytes | None = None
    is_done: bool = False

    @property
    def is_file(self) -> bool:
        """Whether it is a file of its own, not a piece of one."""
        return self.path is not None and self.offset is None and self.length is None


def contents_digest(data: bytes) -> bytes:
    """16 bytes that tell whether a file's contents are those that were seen before."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


@dataclass(frozen=True)
class PicturePart:
    """A stretch of pictures that is listed or stored together: a folder, a tar, a Parquet file, a list, a zip.

    Attributes:
        path: where it is opened; the folder, file or URL as the user named it.
        name: names its shards; unique among the parts of a run.
        kind: "files", "tar", "parquet", "table" or "zip".
        num_rows: pictures in it; None when only reading it through can tell (most tars).
        num_bytes: bytes of the archive or of all its pictures; 0 when unknown (URLs).
        identity: JSON-ready: what it looked like when it was planned (sizes, a digest of names and times); another one is
            another input.
        cuts: rows at which it may be cut into shards (as in `sources.reader.Part`); None: anywhere.
        num_ignored: files in it that are no pictures by name or content and no sidecars of one.
        detail: what its reader needs again (a table of paths, column names, ...).
    """

    path: str
    name: str
    kind: str
    num_rows: int | None
    num_bytes: int
    identity: dict[str, Any]
    cuts: tuple[int, ...] | None = None
    num_ignored: int = 0
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LateLabels:
    """What a source says of pictures after they were given out.

    Attributes:
        rows: (M,) int64, their numbers among those that were asked for.
        said: M rows of columns; they may have any name.
    """

    rows: npt.NDArray[np.int64]
    said: pa.Table


@dataclass(frozen=True)
class PictureBlock:
    """Consecutive pictures of a part.

    Attributes:
        refs: N pictures.
        labels: N rows: `sample` (string, unique in the part) first, then what the source says of each picture.
        late: what the source says, only now, of pictures of this and of earlier blocks; it counts where the labels say nothing.
        remarks: what cannot be said of any picture: a line -> how many times.
        states: (N, 2) int64, of listed files: bytes, and what changes when the file is written again (its time in nanoseconds,
            or a number made of the server's tag); zeros where nothing tells. None: of other pictures.
    """

    refs: list[PictureRef]
    labels: pa.Table
    late: LateLabels | None = None
    remarks: dict[str, int] = field(default_factory=dict)
    states: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How sources are read.

    Attributes:
        columns: columns of the source to pass through, in this order; ("*",) for all it has (the default).
        sample_column: the column that names pictures in tables and Parquet files; None: found by its usual names.
        picture_column: the column with paths, URLs or bytes; None: found by looking.
        block_rows: at most so many pictures in a block (fewer where bytes are read along).
        block_bytes: about so many bytes of pictures in a block at most.
    """

    columns: tuple[str, ...] = ("*",)
    sample_column: str | None = None
    picture_column: str | None = None
    block_rows: int = 256
    block_bytes: int = 64 << 20


class PictureReader(Protocol):
    """Reads parts of one kind."""

    def inspect(self, path: str, name: str, options: SourceOptions) -> PicturePart:
        """Look at listing or header. Raises InputError, naming the file, for anything that holds no pictures."""
        ...

    def blocks(self, part: PicturePart, start: int, stop: int | None, options: SourceOptions) -> Iterator[PictureBlock]:
        """Pictures [start, stop) of `part`, in order; stop None: to its end. A broken picture is a ref with an `error`."""
        ...


Prepare = Callable[[bytes, PixelOptions], Pixels]
"""`pixels.decode.prepare`: bytes of a file -> pixels. Raises PictureError, and nothing else, whatever the bytes are."""
