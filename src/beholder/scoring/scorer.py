"""Scores and embeddings of pictures in Python: the tower, the head and the pixels of one setting, loaded once.

scorer = beholder.load_scorer()
scorer.score("cat.jpg")                    # 4.38
scorer.score(["cat.jpg", image, data])     # (3,) float32
"""

from __future__ import annotations

import itertools
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from beholder.columns import PictureReason
from beholder.errors import InputError
from beholder.models.catalog import DEFAULT_HEAD, DEFAULT_TOWER
from beholder.models.heads import Head, load_head
from beholder.options import check_threads
from beholder.pixels.decode import pixels_of, prepare
from beholder.pixels.opening import Opened, check_mode, check_size, levels_of
from beholder.pixels.picture import MAX_PIXELS, Decoder, PictureError, PixelOptions, Preset
from beholder.sources.fetch import ReadLimits, read_bytes
from beholder.sources.reader import PictureRef

if TYPE_CHECKING:
    from torch import nn

    from beholder.engine import Precision
    from beholder.engine.engine import Engine
    from beholder.models.backbones import TowerActivation
    from beholder.models.library_towers import LibraryTower
    from beholder.models.towers import Tower

_CALL_PICTURES = 32


def load_scorer(
    backbone: str | os.PathLike[str] = DEFAULT_TOWER,
    head: str | os.PathLike[str] | Head = DEFAULT_HEAD,
    *,
    device: str = "auto",
    precision: Precision | Literal["auto"] = "auto",
    preset: Preset = "reference",
    decoder: Decoder = "pillow",
    activation: TowerActivation | None = None,
    batch_size: int | None = None,
    num_threads: int | None = None,
    offline: bool | None = None,
) -> Scorer:
    """Load a tower and a head that was made for it.

    Args:
        backbone: the image tower: a registry name, hub id, path or URL (`beholder models list`).
        head: a `Head`, or what `load_head` takes.
        device: "auto", "cpu", "cuda", "cuda:1", "mps".
        precision: "fp32" is exact; "auto" is a faster one where that is worth it and scores stay within 0.02 on a self-check
            that is made once for each tower and machine.
        preset: which pixels; see docs/pixels.md.
        decoder: "pillow", or "scaled" for faster and slightly different pixels of large JPEGs.
        activation: for towers whose files do not tell it.
        batch_size: pictures the device takes at once; None: found.
        num_threads: threads on a CPU; None: as torch has it.
        offline: True asks no network; None asks the environment.

    Raises:
        HeadError, InputError, BeholderError: an unknown, unreachable or unfit tower, head or device; one line.
    """
    from beholder.models.towers import Tower, check_head_fits, load_any_tower

    pixels = PixelOptions(preset=preset, decoder=decoder)  # refused before anything is loaded
    check_threads(num_threads)
    chosen = head if isinstance(head, Head) else load_head(head, offline=offline)
    tower = load_any_tower(os.fspath(backbone), offline=offline, activation=activation)
    if doubt := check_head_fits(tower, chosen):
        warnings.warn(doubt, stacklevel=2)
    transform = "" if isinstance(tower, Tower) else tower.transform
    pixels = replace(pixels, size_px=tower.shape.image_px, transform=transform)
    return _made(tower, chosen, pixels, device, precision, batch_size, num_threads)


class Scorer:
    """Scores and embeds pictures. Several threads may use one; their calls take turns on the device.

    Attributes:
        tower, head, engine: what it is made of.
        pixels: which pixels it makes of pictures.
    """

    def __init__(
        self, tower: Tower | LibraryTower, engine: Engine, head: Head, pixels: PixelOptions, *, num_threads: int | None = None
    ) -> None:
        self.tower, self.engine, self.head, self.pixels = tower, engine, head, pixels
        self._num_threads = num_threads
        self._turn = threading.Lock()

    def __repr__(self) -> str:
        """What it is made of, in a line."""
        return (
            f"Scorer({self.tower.name}, {self.head.name}, {self.engine.device}, {self.engine.precision}, {self.pixels.preset})"
        )

    def score(
        self, pictures: Picture | Iterable[Picture], *, on_error: Literal["raise", "nan"] = "raise"
    ) -> float | npt.NDArray[np.float32]:
        """Score one picture or several.

        Args:
            pictures: a path, URL, bytes, Pillow image or (H, W, 3) uint8 RGB array; or an iterable of them, read as needed.
            on_error: what a picture that cannot be used does: "raise" PictureError, or "nan": its score is NaN.

        Returns:
            A float for one picture, (N,) float32 for an iterable; nominally 0-10, never clipped.
        """
        embeddings = self.embed(pictures, on_error=on_error)
        if embeddings.ndim == 1:
            return float(self.head.score(embeddings))
        scores = self.head.score(embeddings)
        assert isinstance(scores, np.ndarray)
        return scores

    def embed(
        self, pictures: Picture | Iterable[Picture], *, on_error: Literal["raise", "nan"] = "raise"
    ) -> npt.NDArray[np.float32]:
        """CLIP's embeddings, not normalised: (D,) float32 for one picture, (N, D) for an iterable; NaN rows as in `score`."""
        if _is_single(pictures):
            embedding: npt.NDArray[np.float32] = self._embed_all(iter([pictures]), on_error)[0]
            return embedding
        if not isinstance(pictures, Iterable):
            what = f"a {type(pictures).__name__} is no picture"
            raise InputError(f"{what}: give a path, URL, bytes, Pillow image, (H, W, 3) uint8 array, or an iterable of them")
        return self._embed_all(iter(pictures), on_error)

    def as_module(self) -> nn.Module:
        """The whole scorer as a torch module for training: (B, 3, S, S) float in [0, 1], RGB -> (B,) scores.

        In float32 on the scorer's device, frozen, differentiable with respect to the pictures; it can be moved with `.to()`,
        which leaves the scorer as it is. Until then the weights are in memory once.
        """
        from copy import deepcopy

        from torch import nn

        from beholder.models.clip import PictureScoreModule

        weights = list(self.tower.module.parameters())
        shared = {id(weight): nn.Parameter(weight.detach(), requires_grad=False) for weight in weights}
        return PictureScoreModule(deepcopy(self.tower.module, shared), self.head.as_module()).to(self.engine.device)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        """Travel to another process (a DataLoader worker that is spawned), where the engine is made anew, alike."""
        device, precision, batch_size = str(self.engine.device), self.engine.precision, self.engine.batch_size
        return _made, (self.tower, self.head, self.pixels, device, precision, batch_size, self._num_threads)

    def _embed_all(self, pictures: Iterator[Any], on_error: str) -> npt.NDArray[np.float32]:
        """Decode a call's worth of pictures in threads while the call before is computed."""
        if on_error not in ("raise", "nan"):
            raise InputError(f"on_error={on_error!r}: choose 'raise' or 'nan'")
        found: list[npt.NDArray[np.float32]] = []
        size = max(_CALL_PICTURES, self.engine.call_size)
        numbered = enumerate(pictures)
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1), thread_name_prefix="beholder-decode") as pool:
            begun = self._begun(pool, itertools.islice(numbered, size), on_error)
            while begun:
                ready = [item.result() for item in begun]
                begun = self._begun(pool, itertools.islice(numbered, size), on_error)
                found.append(self._embedded(ready))
        return np.concatenate(found) if found else np.empty((0, self.engine.dim), np.float32)

    def _begun(
        self, pool: ThreadPoolExecutor, pictures: Iterator[tuple[int, Any]], on_error: str
    ) -> list[Future[npt.NDArray[np.uint8] | None]]:
        """Decoding of these pictures, in the threads of `pool`. No Pillow image is in two threads, which it would not bear."""
        found = []
        images: dict[int, tuple[Any, Future[npt.NDArray[np.uint8] | None]]] = {}
        for number, picture in pictures:
            known = images.get(id(picture))
            has_frames = known is None and _is_image(picture) and _has_frames(picture)
            begun = pool.submit(self._pixels, picture, number, on_error) if known is None else known[1]
            if has_frames:
                wait([begun])  # an iterator over frames turns the same image to the next one
            elif _is_image(picture):
                images[id(picture)] = picture, begun
            found.append(begun)
        return found

    def _pixels(self, picture: Any, number: int, on_error: str) -> npt.NDArray[np.uint8] | None:
        try:
            return _pixels_of(picture, self.pixels)
        except PictureError as error:
            if on_error == "nan":
                return None
            raise PictureError(error.reason, f"picture {number}: {error}") from None

    def _embedded(self, ready: list[npt.NDArray[np.uint8] | None]) -> npt.NDArray[np.float32]:
        good = [number for number, pixels in enumerate(ready) if pixels is not None]
        found = np.full((len(ready), self.engine.dim), np.nan, np.float32)
        if good:
            with self._turn:
                found[good] = self.engine.embed(np.stack([pixels for pixels in ready if pixels is not None]))
        return found


def _made(
    tower: Tower | LibraryTower,
    head: Head,
    pixels: PixelOptions,
    device: str,
    precision: Precision | Literal["auto"],
    batch_size: int | None,
    num_threads: int | None,
) -> Scorer:
    """A scorer with an engine that is made here, also of one that has come from another process."""
    from beholder.engine.engine import Engine

    engine = Engine(tower, device=device, precision=precision, batch_size=batch_size, num_threads=num_threads, heads=[head])
    return Scorer(tower, engine, head, pixels, num_threads=num_threads)


def _is_single(pictures: Any) -> bool:
    """Whether this is one picture and not an iterable of them."""
    if isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike):
        return True
    if isinstance(pictures, np.ndarray):
        return pictures.ndim in (2, 3)
    return _is_image(pictures) or hasattr(pictures, "read")


def _is_image(picture: Any) -> bool:
    """Whether this is a Pillow image, by the look of it."""
    return hasattr(picture, "mode") and hasattr(picture, "size") and hasattr(picture, "convert")


def _has_frames(image: Any) -> bool:
    """Whether a Pillow image may have several frames; of a damaged one that cannot be told."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # whatever its decoder raises; decoding it says what is wrong
        return True


if TYPE_CHECKING:
    from PIL.Image import Image

    Picture: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image | npt.NDArray[np.uint8]


def preprocess(
    picture: Picture,
    *,
    preset: Preset = "reference",
    size_px: int = 224,
    crop: float = 1.0,
    decoder: Decoder = "pillow",
    max_pixels: int = MAX_PIXELS,
) -> npt.NDArray[np.uint8]:
    """The pixels of one picture as the tower sees them.

    Args:
        picture: a local path or URL, the bytes of a file, a file open for reading bytes, a Pillow image (not changed), or a
            (H, W, 3) uint8 RGB array.
        preset: "reference" (OpenAI's transform to the bit), "upright", "rgb" or "squash"; see docs/pixels.md.
        size_px: side S of the square.
        crop: share of the short side that is kept, in (0, 1].
        decoder: "pillow", or "scaled" for faster and slightly different pixels of large JPEG files.
        max_pixels: largest width x height that is accepted.

    Returns:
        (S, S, 3) uint8: height x width x RGB, not normalised.

    Raises:
        PictureError: the picture cannot be used; `reason` says why in one word.
        InputError: an option cannot be met.
    """
    return _pixels_of(picture, PixelOptions(preset=preset, size_px=size_px, crop=crop, decoder=decoder, max_pixels=max_pixels))


def _pixels_of(picture: Any, options: PixelOptions) -> npt.NDArray[np.uint8]:
    if hasattr(picture, "read") and not hasattr(picture, "convert"):  # an open file, not a Pillow image
        picture = picture.read()
    if isinstance(picture, bytes | bytearray | memoryview):
        return prepare(bytes(picture), options).pixels
    if isinstance(picture, str | os.PathLike):
        path = os.fspath(picture)
        try:
            return prepare(read_bytes(PictureRef(path=path), ReadLimits()), options).pixels
        except PictureError as error:
            text = str(error)
            raise PictureError(error.reason, text if path in text else f"{path}: {text}") from None
    return _from_memory(picture, options)


def _from_memory(picture: Any, options: PixelOptions) -> npt.NDArray[np.uint8]:
    """Pixels of a Pillow image or an array."""
    from PIL import Image as PillowImage

    if isinstance(picture, np.ndarray):
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            what = f"an array of shape {picture.shape} and type {picture.dtype}"
            raise PictureError(PictureReason.UNSUPPORTED, f"{what}: pictures are (H, W, 3) uint8, in RGB order")
        check_size((picture.shape[1], picture.shape[0]), options.max_pixels)
        picture = PillowImage.fromarray(np.ascontiguousarray(picture))
    if not isinstance(picture, PillowImage.Image):
        what = f"a {type(picture).__name__} is no picture"
        raise PictureError(PictureReason.UNSUPPORTED, f"{what}: give a path, URL, bytes, Pillow image or (H, W, 3) uint8 array")
    check_size(picture.size, options.max_pixels)
    levels = levels_of(picture)
    check_mode(picture, levels, options)
    size = picture.size
    try:
        picture.load()
    except Exception as error:  # a lazily opened file, with whatever its decoder raises
        text = " ".join(str(error).split())[:200]
        raise PictureError(PictureReason.DAMAGED, f"the Pillow image cannot be loaded: {text}") from None
    return pixels_of(Opened(picture, size, size, levels), options)
