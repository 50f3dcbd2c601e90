"""What the files beside a checkpoint, its metadata and its name say about it in; activation, heads, pixel statistics out.

The tensors of a tower do not tell its activation, and the wrong one gives other embeddings without any error. So it is taken
from what the publisher wrote down; where nothing is written, `TowerHints.activation` is None and the caller has to say it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from beholder.errors import HeadError
from beholder.models.backbones import LAYER_NORM_EPS, PIXEL_MEAN, PIXEL_STD, TowerActivation

CONFIG_FILES = ("config.json", "open_clip_config.json", "preprocessor_config.json")
"""Files beside a checkpoint that are read, where they are there."""
OPENAI_REASON = "the weights are OpenAI's, which were trained with QuickGELU"


@dataclass(frozen=True)
class TowerHints:
    """What is known about a tower beside its tensors.

    Attributes:
        activation: None where nothing tells.
        reason: what told.
        num_heads: attention heads of a block; None where it goes without saying.
        is_openai: whether the weights are said to be OpenAI's, untouched.
    """

    activation: TowerActivation | None = None
    reason: str = ""
    num_heads: int | None = None
    is_openai: bool = False


def read_hints(layout_word: str, configs: Mapping[str, Any], metadata: Mapping[str, Any], name: str, where: str) -> TowerHints:
    """Join what is known.

    Args:
        layout_word: of the tensors ("openai", "hugging face", "timm", "birder"); only that library's configuration counts.
        configs: parsed JSON of `CONFIG_FILES`, by file name.
        metadata: what the checkpoint itself carries (birder's `config`, `rgb_stats`; TorchScript's `code`).
        name: file name or repository, which for birder is the network's name.
        where: for messages.

    Raises:
        HeadError: pixel statistics, a layer-norm epsilon or an activation that are not CLIP's.
    """
    config = configs.get("config.json", {})
    config = config if isinstance(config, dict) else {}
    _check_preprocessor(configs.get("preprocessor_config.json"), where)
    if layout_word.startswith("hugging face"):
        return _of_hugging_face(config, where)
    if layout_word == "birder":
        return _of_birder(metadata, name, where)
    timm = _of_timm(config, where)
    if layout_word == "timm":
        return timm
    if "code" in metadata:
        return _of_script(str(metadata["code"]))
    open_clip = configs.get("open_clip_config.json")
    if isinstance(open_clip, dict) and isinstance(open_clip.get("model_cfg"), dict):
        return _of_open_clip(open_clip, is_openai=timm.is_openai, where=where)
    return TowerHints("quick_gelu", OPENAI_REASON, is_openai=True) if timm.is_openai else TowerHints()


def _activation(word: object, where: str) -> TowerActivation:
    if word in ("quick_gelu", "quickgelu", "QuickGELU"):
        return "quick_gelu"
    if word in ("gelu", "GELU"):
        return "gelu"
    raise HeadError(f"{where} says its activation is {word}; CLIP's towers have quick_gelu or gelu")


def _of_hugging_face(config: Mapping[str, Any], where: str) -> TowerHints:
    """Read config.json; transformers may leave out what has its default: quick_gelu, 12 heads, 1e-5 (CLIPVisionConfig)."""
    kind = config.get("model_type")
    vision = config.get("vision_config", config)
    if kind not in ("clip", "clip_vision_model") or not isinstance(vision, dict):
        return TowerHints()
    _check_eps(vision.get("layer_norm_eps", LAYER_NORM_EPS), where)
    heads = vision.get("num_attention_heads", 12)
    activation = _activation(vision.get("hidden_act", "quick_gelu"), where)
    return TowerHints(activation, "config.json says so", heads if isinstance(heads, int) and heads > 0 else None)


def _of_birder(metadata: Mapping[str, Any], name: str, where: str) -> TowerHints:
    stats, config = metadata.get("rgb_stats"), metadata.get("config")
    if isinstance(stats, dict):
        _check_statistics(stats.get("mean"), stats.get("std"), where)
    config = config if isinstance(config, dict) else {}
    _check_eps(config.get("norm_layer_eps", LAYER_NORM_EPS), where)
    heads = config.get("num_heads")
    heads = heads if isinstance(heads, int) and heads > 0 else None
    if config.get("act_layer_type"):
        return TowerHints(_activation(config["act_layer_type"], where), "birder's config in the file says so", heads)
    if "quick_gelu" in name:
        return TowerHints("quick_gelu", "birder's network is named so", heads)
    return TowerHints(None, "", heads)


def _of_timm(config: Mapping[str, Any], where: str) -> TowerHints:
    architecture, published = str(config.get("architecture", "")), config.get("pretrained_cfg", {})
    if not architecture:
        return TowerHints()
    published = published if isinstance(published, dict) else {}
    _check_statistics(published.get("mean"), published.get("std"), where)
    if published.get("tag") == "openai":
        return TowerHints("quick_gelu", OPENAI_REASON, is_openai=True)
    arguments = config.get("model_args")
    named = arguments.get("act_layer") if isinstance(arguments, dict) else None
    activation = _activation(named, where) if named else "quick_gelu" if "quickgelu" in architecture else "gelu"
    return TowerHints(activation, f"timm's architecture {architecture} says so")


def _of_open_clip(config: Mapping[str, Any], *, is_openai: bool, where: str) -> TowerHints:
    model, pixels = config["model_cfg"], config.get("preprocess_cfg")
    if isinstance(pixels, dict):
        _check_statistics(pixels.get("mean"), pixels.get("std"), where)
    vision = model.get("vision_cfg", {})
    width, head_width = (vision.get(key) for key in ("width", "head_width")) if isinstance(vision, dict) else (None, None)
    heads = width // head_width if isinstance(width, int) and isinstance(head_width, int) and head_width > 0 else None
    if is_openai:
        return TowerHints("quick_gelu", OPENAI_REASON, heads, is_openai=True)
    activation: TowerActivation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return TowerHints(activation, "open_clip_config.json says so", heads)


def _of_script(code: str) -> TowerHints:
    """The program of a TorchScript archive: QuickGELU is the only thing in CLIP with a sigmoid, plain GELU has a name."""
    if re.search(r"torch\.gelu\(|\bgelu\(", code):
        return TowerHints("gelu", "the archive's program says so")
    if "torch.sigmoid(" in code:
        return TowerHints("quick_gelu", "the archive's program says so")
    return TowerHints()


def _check_eps(eps: object, where: str) -> None:
    if eps != LAYER_NORM_EPS:
        raise HeadError(f"{where} says its layer norms use {eps}; CLIP's towers use {LAYER_NORM_EPS}")


def _check_preprocessor(config: object, where: str) -> None:
    if isinstance(config, dict):
        _check_statistics(config.get("image_mean"), config.get("image_std"), where)


def _check_statistics(mean: object, std: object, where: str) -> None:
    """Whether the pixels are normalised as CLIP's are; None: not said."""
    for found, wanted in ((mean, PIXEL_MEAN), (std, PIXEL_STD)):
        if found is None:
            continue
        if not isinstance(found, list | tuple) or len(found) != 3:
            raise HeadError(f"{where} says its pixels are normalised with {found}; CLIP's with {wanted}")
        if any(not isinstance(a, int | float) or abs(a - b) > 1e-6 for a, b in zip(found, wanted, strict=True)):
            raise HeadError(f"{where} wants pixels normalised with {tuple(found)}; beholder's towers have CLIP's, {wanted}")
