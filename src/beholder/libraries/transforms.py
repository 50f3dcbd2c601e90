"""A library's own way from a Pillow image to the pixels that its normalisation is given, made anew from a JSON description.

Every published preprocessing of these libraries ends in the same two steps: bytes become fractions, and those are normalised
by channel. The steps before them run where pictures are decoded, and leave uint8; the two run on the device, with the tower.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError
from beholder.libraries.names import imported

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = npt.NDArray[np.uint8]
CutPixels = Callable[["Image"], Pixels]
"""A Pillow image -> (H, W, 3) uint8 pixels, height x width x RGB."""


@dataclass(frozen=True)
class Normalisation:
    """What turns bytes into the numbers a network was trained on: (u / divisor - mean) / std, by channel.

    Attributes:
        divisor: 255 where bytes become fractions of 1.
        mean, std: of red, green and blue, in these fractions.
    """

    divisor: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def described(library: str, opens_rgb: bool, **config: Any) -> str:
    """The JSON text of a transform, for `cut_of`; `opens_rgb`: the library's users make pictures RGB before it."""
    return json.dumps({"library": library, "opens_rgb": opens_rgb, **config}, sort_keys=True)


def opens_rgb(description: str) -> bool:
    """Whether pictures are made RGB before the transform."""
    return bool(json.loads(description)["opens_rgb"])


@functools.lru_cache(maxsize=8)
def cut_of(description: str) -> CutPixels:
    """What makes pixels, by the description that `described` gave. Raises HeadError where the library is not there."""
    config = json.loads(description)
    return _MAKERS[config["library"]](config)


def whole_of(description: str) -> Callable[[Image], npt.NDArray[np.float32]]:
    """The library's whole pipeline, as it publishes it: a Pillow image -> (3, H, W) float32, normalised."""
    config = json.loads(description)
    if config["library"] == "transformers":
        processor = _processor(config)
        return lambda image: np.asarray(processor(images=image, return_tensors="np")["pixel_values"][0], np.float32)
    compose = _compose(config)
    return lambda image: np.asarray(compose(image), np.float32)


def normalisation_of(description: str) -> Normalisation:
    """The last two steps. Raises HeadError where the pipeline does not end in them."""
    config = json.loads(description)
    if config["library"] == "transformers":
        return _processors_normalisation(_processor(config))
    last = _steps(_compose(config))[1]
    mean, std = (tuple(float(value) for value in getattr(last, name)) for name in ("mean", "std"))
    return Normalisation(255.0, mean, std)  # type: ignore[arg-type]


def _torchvision_cut(config: Mapping[str, Any]) -> CutPixels:
    """Timm's and open_clip's steps up to the tensor."""
    steps, _ = _steps(_compose(config))

    def cut(image: Image) -> Pixels:
        for step in steps:
            image = step(image)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))

    return cut


def _compose(config: Mapping[str, Any]) -> Any:
    """The library's own evaluation transform."""
    library = imported(config["library"])
    if config["library"] == "timm":
        from timm.data import create_transform

        return create_transform(**_with_tuples(config["config"]), is_training=False)
    cfg = library.transform.PreprocessCfg(**_with_tuples(config["config"]))
    return library.transform.image_transform_v2(cfg, is_train=False)


def _steps(compose: Any) -> tuple[list[Any], Any]:
    """The steps on Pillow images, and the normalisation after them. Raises HeadError for another kind of pipeline."""
    steps = list(getattr(compose, "transforms", ()))
    names = [type(step).__name__ for step in steps]
    if len(steps) < 2 or names[-2] not in ("ToTensor", "MaybeToTensor") or names[-1] != "Normalize":
        raise HeadError(f"its preprocessing does not end in ToTensor and Normalize ({', '.join(names) or 'no steps'})")
    return steps[:-2], steps[-1]


def _with_tuples(config: Mapping[str, Any]) -> dict[str, Any]:
    """JSON's lists as the tuples they were."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def _transformers_cut(config: Mapping[str, Any]) -> CutPixels:
    """An image processor's steps up to its rescaling."""
    processor = _processor(config)

    def cut(image: Image) -> Pixels:
        found = processor(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0]
        return np.ascontiguousarray(np.moveaxis(np.asarray(found), 0, -1).astype(np.uint8))

    return cut


def _processor(config: Mapping[str, Any]) -> Any:
    """The image processor of this class and these settings; no file is read."""
    kind = getattr(imported("transformers"), config["class"])
    return kind.from_dict(dict(config["config"]))


def _processors_normalisation(processor: Any) -> Normalisation:
    scale = float(processor.rescale_factor) if getattr(processor, "do_rescale", True) else 1.0
    divisor = 1 / scale
    if abs(divisor - round(divisor)) < 1e-6 * divisor:
        divisor = float(round(divisor))
    is_normalised = getattr(processor, "do_normalize", True)
    mean = tuple(map(float, processor.image_mean)) if is_normalised else (0.0, 0.0, 0.0)
    std = tuple(map(float, processor.image_std)) if is_normalised else (1.0, 1.0, 1.0)
    return Normalisation(divisor, mean, std)  # type: ignore[arg-type]


_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], CutPixels]] = {
    "timm": _torchvision_cut, "open_clip": _torchvision_cut, "transformers": _transformers_cut,
}  # fmt: skip
