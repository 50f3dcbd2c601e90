"""CLIP image towers in checkpoints: every published layout, its sizes and activation, and its tensors under one set of names.

Opening reads headers only, wherever the format has one; safetensors files are mapped into memory, and of a whole CLIP model the
text tower is never read. The layout is recognised by the tensors' names, never by the file's. The activation is not in the
tensors, and the wrong one gives other embeddings without any error: it is taken from what the publisher wrote down beside them
or in them; where nothing is written, `TowerHints.activation` is None and the caller has to say it.

Key maps: OpenAI's clip/model.py, open_clip's transformer.py, transformers' modeling_clip.py, timm's vision_transformer.py and
birder's net/vit.py (versions in docs/models.md); checked against the libraries themselves in tests/models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import HeadError, text_of
from beholder.io.records import json_value
from beholder.models.backbones import HEAD_DIM, LAYER_NORM_EPS, PIXEL_MEAN, PIXEL_STD, TowerActivation, TowerShape
from beholder.models.tensor_files import (
    Shapes,
    TensorFile,
    check_floats,
    check_tensor,
    listed,
    load_weights,
    look_at,
    open_script,
    open_tensors,
    refuse_no_weights,
)

if TYPE_CHECKING:
    import torch

CONFIG_FILES = ("config.json", "open_clip_config.json", "preprocessor_config.json")
"""Files beside a checkpoint that are read, where they are there."""
OPENAI_REASON = "the weights are OpenAI's, which were trained with QuickGELU"

TOWER_FORMAT = "beholder-tower-tensors"
"""`format` in the header of a file that beholder wrote with the vision tensors of a remote model (`towers.keep`)."""

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors", "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
"""What is looked for in a folder or a hub repository, in this order; then birder's `<name>.pt` and `.safetensors`."""

_MAX_CONFIG_BYTES = 1 << 20
_TOLD = ("config", "rgb_stats", "signature")
"""What birder's checkpoints say beside their tensors and is asked here."""
_MAX_SETTINGS = 10_000
_MAX_SHOWN = 100
_MAX_DEPTH = 8
"""Of state dicts inside of checkpoints; a pickle can hold itself."""
_Read = Callable[[list[str]], "dict[str, torch.Tensor]"]
_HEAD_DIMS = {1280: 80, 1408: 88, 1664: 104}
"""Width -> width of an attention head where that is not 64: ViT-H, -g and -bigG of open_clip's model_configs."""
_CLASSIFIER_SIZES = {1000, 11821, 21841, 21843}
"""Outputs of ImageNet classifiers: a timm file with one was fine-tuned, and has no projection."""
_IGNORED = re.compile(r"(.*\.)?(position_ids|attn_mask)|(.*\.)?rel_pos.*index")


@dataclass(frozen=True)
class Names:
    """How a layout calls the parts of the tower; norms and Linears without `.weight` and `.bias`.

    `prefixes` is a pattern of what may stand before all names; the names of a block follow `block` and its number.
    """

    word: str
    prefixes: str
    class_token: str
    positions: str
    patch: str
    norm_pre: str
    norm_post: str
    block: str
    norm_1: str
    norm_2: str
    qkv: tuple[tuple[str, ...], tuple[str, ...]]
    attn_out: str
    mlp_in: str
    mlp_out: str
    projection: str
    projection_is_transposed: bool = False
    projection_bias: str = ""


OPENAI = Names(
    word="openai",
    prefixes=r"(.*\.)?visual\.|(module\.)?",
    class_token="class_embedding", positions="positional_embedding", patch="conv1.weight", norm_pre="ln_pre",
    norm_post="ln_post", block="transformer.resblocks.", norm_1="ln_1", norm_2="ln_2",
    qkv=(("attn.in_proj_weight",), ("attn.in_proj_bias",)), attn_out="attn.out_proj", mlp_in="mlp.c_fc", mlp_out="mlp.c_proj",
    projection="proj", projection_is_transposed=True,
)  # fmt: skip
HUGGING_FACE = Names(
    word="hugging face",
    prefixes=r"(.*\.)?vision_model\.|(module\.)?",
    class_token="embeddings.class_embedding", positions="embeddings.position_embedding.weight",
    patch="embeddings.patch_embedding.weight", norm_pre="pre_layrnorm", norm_post="post_layernorm", block="encoder.layers.",
    norm_1="layer_norm1", norm_2="layer_norm2",
    qkv=(
        ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
        ("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
    ),
    attn_out="self_attn.out_proj", mlp_in="mlp.fc1", mlp_out="mlp.fc2", projection="visual_projection.weight",
)  # fmt: skip
TIMM = Names(
    word="timm",
    prefixes=r"(module\.)?",
    class_token="cls_token", positions="pos_embed", patch="patch_embed.proj.weight", norm_pre="norm_pre",
    norm_post="norm", block="blocks.", norm_1="norm1", norm_2="norm2", qkv=(("attn.qkv.weight",), ("attn.qkv.bias",)),
    attn_out="attn.proj", mlp_in="mlp.fc1", mlp_out="mlp.fc2", projection="head.weight", projection_bias="head.bias",
)  # fmt: skip
BIRDER = Names(
    word="birder",
    prefixes=r"(module\.)?",
    class_token="class_token", positions="pos_embedding", patch="conv_proj.weight", norm_pre="encoder.pre_block.0",
    norm_post="norm", block="encoder.block.", norm_1="norm1", norm_2="norm2", qkv=(("attn.qkv.weight",), ("attn.qkv.bias",)),
    attn_out="attn.proj", mlp_in="mlp.0", mlp_out="mlp.3", projection="classifier.weight", projection_bias="classifier.bias",
)  # fmt: skip
LAYOUTS = (OPENAI, HUGGING_FACE, TIMM, BIRDER)


@dataclass(frozen=True)
class Part:
    """Where a canonical tensor comes from: tensors to be put one below the other, then transposed if so, then reshaped."""

    names: tuple[str, ...]
    is_transposed: bool = False


@dataclass(frozen=True)
class TowerLayout:
    """A recognised tower: a word for the layout, its sizes, and where each canonical tensor comes from."""

    word: str
    shape: TowerShape
    parts: Mapping[str, Part]

    @property
    def names(self) -> list[str]:
        """The tensors of the file that are needed."""
        return sorted({name for part in self.parts.values() for name in part.names})


def recognise(shapes: Shapes, where: str, *, num_heads: int | None = None) -> TowerLayout:
    """The image tower among tensors of these names and shapes. Raises HeadError that says what the file is instead.

    `num_heads`: attention heads in a block, where a configuration tells; otherwise known from the width.
    """
    names, prefix = _layout_of(shapes, where)
    parts = _parts(names, prefix, _num_blocks(names, prefix, shapes, where))
    if names.projection_bias and prefix + names.projection_bias in shapes:
        parts["projection.bias"] = Part((prefix + names.projection_bias,))
    missing = sorted({name for part in parts.values() for name in part.names} - set(shapes))
    projection = parts["projection.weight"].names[0]
    if missing == [projection]:
        raise HeadError(
            f"{where} has no projection ({projection}), so it gives no embeddings that a head can score; "
            "save the whole CLIP model, or CLIPVisionModelWithProjection (timm: num_classes=embedding length)"
        )
    if missing:
        raise HeadError(f"{where} is damaged or no CLIP tower: it lacks {listed(missing)}")
    used = {name for part in parts.values() for name in part.names}
    inside = (f"{prefix}embeddings.", f"{prefix}encoder.") if names is HUGGING_FACE else prefix
    extra = sorted(name for name in set(shapes) - used if name.startswith(inside) and not _IGNORED.fullmatch(name))
    if extra:
        raise HeadError(f"{where} is another architecture: beside CLIP's tower it has {listed(extra)}")
    shape = _sizes(parts, shapes, where, num_heads)
    _check_shapes(parts, shapes, shape, where)
    if names is TIMM and shape.dim in _CLASSIFIER_SIZES:
        raise HeadError(
            f"{where} ends in a classifier of {shape.dim} classes, not in CLIP's projection; take the weights before it"
        )
    bundle = names is HUGGING_FACE and any(name.startswith(("predictor.", "layers.")) for name in shapes)
    return TowerLayout(f"{names.word} with a head" if bundle else names.word, shape, parts)


def _found(shapes: Shapes) -> tuple[Names, str] | None:
    for names in LAYOUTS:
        for marker in (names.class_token, names.patch):
            for name in shapes:
                if name.endswith(marker) and re.fullmatch(names.prefixes, name.removesuffix(marker)):
                    return names, name.removesuffix(marker)
    return None


def _layout_of(shapes: Shapes, where: str) -> tuple[Names, str]:
    wrong = _what_else(shapes)
    if wrong:
        raise HeadError(f"{where} {wrong}")
    found = _found(shapes)
    if found is None:
        raise HeadError(f"{where} holds no CLIP image tower that beholder knows: its tensors are {listed(sorted(shapes))}")
    return found


def _what_else(shapes: Shapes) -> str:
    """What a file is that is often taken for a CLIP tower, or an empty string."""

    def has(*ends: str) -> bool:
        return any(name.endswith(ends) for name in shapes)

    if has("head.probe", "attn_pool.latent", "attn_pool.query"):
        return "is a SigLIP tower or the like: attention pooling and no class token; beholder's heads need CLIP's ViT"
    if any(re.search(r"(^|\.)visual\.(layer[1-4]\.|attnpool\.)", name) for name in shapes):
        return "is a CLIP model with a ResNet, not a vision transformer; beholder's heads need ViT-L/14, B/16 or B/32"
    if any(".trunk." in name for name in shapes):
        return "is an open_clip model around a timm trunk (SigLIP, EVA, ConvNeXt, ...), not CLIP's own vision transformer"
    if _found(shapes) is not None:
        return ""
    if has("scoring_head.0.weight") or (shapes and set(shapes) <= {"weight", "bias", "linear.weight", "linear.bias"}):
        return "is an aesthetic head, not an image tower; give it as the head"
    if shapes and all(re.fullmatch(r"layers\.\d+\.(linear\.)?(weight|bias)", name) for name in shapes):
        return "is an aesthetic head, not an image tower; give it as the head"
    if has("token_embedding.weight"):
        return "holds a text tower only; the image tower is needed"
    return ""


def _num_blocks(names: Names, prefix: str, shapes: Shapes, where: str) -> int:
    pattern = re.compile(re.escape(prefix + names.block) + r"(\d+)\.")
    numbers = {int(found[1]) for name in shapes if (found := pattern.match(name))}
    if not numbers or max(numbers) != len(numbers) - 1:
        gaps = sorted(set(range(max(numbers, default=0) + 1)) - numbers)
        raise HeadError(f"{where} is damaged: it lacks {prefix}{names.block}{gaps[0]}.*")
    return len(numbers)


def _parts(names: Names, prefix: str, num_blocks: int) -> dict[str, Part]:
    parts = {
        "class_token": Part((prefix + names.class_token,)),
        "positions": Part((prefix + names.positions,)),
        "patch.weight": Part((prefix + names.patch,)),
    }
    pairs = [("norm_pre", prefix + names.norm_pre), ("norm_post", prefix + names.norm_post)]
    for number in range(num_blocks):
        ours, theirs = f"blocks.{number}.", f"{prefix}{names.block}{number}."
        pairs += [
            (ours + "norm_1", theirs + names.norm_1), (ours + "norm_2", theirs + names.norm_2),
            (ours + "attn.out", theirs + names.attn_out), (ours + "mlp_in", theirs + names.mlp_in),
            (ours + "mlp_out", theirs + names.mlp_out),
        ]  # fmt: skip
        for kind, sources in zip(("weight", "bias"), names.qkv, strict=True):
            parts[f"{ours}attn.qkv.{kind}"] = Part(tuple(theirs + source for source in sources))
    for ours, theirs in pairs:
        parts |= {f"{ours}.{kind}": Part((f"{theirs}.{kind}",)) for kind in ("weight", "bias")}
    # In Hugging Face's files the projection stands beside the tower, not in it.
    outer = prefix.removesuffix("vision_model.") if names is HUGGING_FACE else prefix
    parts["projection.weight"] = Part((outer + names.projection,), names.projection_is_transposed)
    return parts


def _sizes(parts: Mapping[str, Part], shapes: Shapes, where: str, num_heads: int | None) -> TowerShape:
    def of(name: str) -> tuple[int, ...]:
        return shapes[parts[name].names[0]]

    patch, positions, projection = of("patch.weight"), of("positions"), of("projection.weight")
    if len(patch) != 4 or len(positions) not in (2, 3) or len(projection) != 2 or len(of("blocks.0.mlp_in.weight")) != 2:
        raise HeadError(
            f"{where} is damaged: its patches, positions or projection have shapes {patch}, {positions}, {projection}"
        )
    width, grid = patch[0], math.isqrt(max(positions[-2] - 1, 0))
    num_blocks = sum(name.endswith("norm_1.weight") for name in parts)
    heads = num_heads or width // _HEAD_DIMS.get(width, HEAD_DIM)
    if grid < 1 or grid**2 + 1 != positions[-2] or heads < 1 or width % heads or patch[2] < 1:
        raise HeadError(
            f"{where} has {positions[-2]} positions and width {width}, which no square picture and whole heads give"
        )
    dim = projection[1 if parts["projection.weight"].is_transposed else 0]
    return TowerShape(grid * patch[2], patch[2], width, num_blocks, heads, of("blocks.0.mlp_in.weight")[0], max(dim, 1))


def _check_shapes(parts: Mapping[str, Part], shapes: Shapes, shape: TowerShape, where: str) -> None:
    """Every tensor against the sizes, before anything is read."""
    for name, wanted in {**canonical_shapes(shape), "projection.bias": (shape.dim,)}.items():
        part = parts.get(name)
        if part is None:
            continue
        found = [shapes[source] for source in part.names]
        joined = (sum(size[0] for size in found), *found[0][1:]) if len(found) > 1 and all(found) else found[0]
        if part.is_transposed:
            joined = joined[::-1]
        while len(joined) > len(wanted) and joined[0] == 1:
            joined = joined[1:]
        if joined != wanted or any(size[1:] != found[0][1:] for size in found):
            raise HeadError(f"{where} is damaged: {', '.join(part.names)} gives {joined} where {wanted} is needed")


def canonical_shapes(shape: TowerShape) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that every checkpoint layout is brought to.

    A Linear's weight is (out, in); qkv is query, key and value one below the other; `patch.weight` (W, 3, P, P) is the
    convolution on normalised pixels, as published. `projection.bias` (D,), where a checkpoint has one, comes on top.
    """
    width, mlp = shape.width, shape.mlp_width
    found: dict[str, tuple[int, ...]] = {
        "class_token": (width,),
        "positions": (shape.num_tokens, width),
        "patch.weight": (width, 3, shape.patch_px, shape.patch_px),
    }
    norms = ["norm_pre", "norm_post"]
    for number in range(shape.num_layers):
        block = f"blocks.{number}"
        norms += [f"{block}.norm_1", f"{block}.norm_2"]
        for part, num_out, num_in in (
            ("attn.qkv", 3 * width, width), ("attn.out", width, width), ("mlp_in", mlp, width), ("mlp_out", width, mlp),
        ):  # fmt: skip
            found |= {f"{block}.{part}.weight": (num_out, num_in), f"{block}.{part}.bias": (num_out,)}
    for norm in norms:
        found |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    found["projection.weight"] = (shape.dim, width)
    return found


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
    pixels = configs.get("preprocessor_config.json")
    if isinstance(pixels, dict):
        _check_statistics(pixels.get("image_mean"), pixels.get("image_std"), where)
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
    raise HeadError(f"{where} says its activation is {_shown(word)}; CLIP's towers have quick_gelu or gelu")


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


def _shown(value: object) -> str:
    """A setting, for messages."""
    try:
        text = str(value)
    except RecursionError:
        return "something nested without end"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _check_eps(eps: object, where: str) -> None:
    if not isinstance(eps, int | float) or eps != LAYER_NORM_EPS:
        raise HeadError(f"{where} says its layer norms use {_shown(eps)}; CLIP's towers use {LAYER_NORM_EPS}")


def _check_statistics(mean: object, std: object, where: str) -> None:
    """Whether the pixels are normalised as CLIP's are; None: not said."""
    for found, wanted in ((mean, PIXEL_MEAN), (std, PIXEL_STD)):
        if found is None:
            continue
        if not isinstance(found, list | tuple) or len(found) != 3:
            raise HeadError(f"{where} says its pixels are normalised with {_shown(found)}; CLIP's with {wanted}")
        if not all(isinstance(a, int | float) and b - 1e-6 <= a <= b + 1e-6 for a, b in zip(found, wanted, strict=True)):
            said = _shown(tuple(found))
            raise HeadError(f"{where} wants pixels normalised with {said}; beholder's towers have CLIP's, {wanted}")


@dataclass(frozen=True)
class TowerFile:
    """An opened checkpoint: all checks of names, shapes and configuration are done, the tensors are not read yet.

    Attributes:
        path: the file, the folder's index file, or a URL.
        layout: a word for the layout it was found in.
        shape: the tower's sizes.
        hints: what is known about its activation.
        metadata: the texts of a file that beholder wrote itself; empty otherwise.
    """

    path: str
    layout: str
    shape: TowerShape
    hints: TowerHints
    metadata: Mapping[str, str]
    _parts: TowerLayout
    _read: _Read | None

    @property
    def names(self) -> list[str]:
        """The tensors of the file that make the tower."""
        return self._parts.names

    def tensors(self) -> dict[str, torch.Tensor]:
        """The canonical tensors as float32 on the CPU (`tower_layouts.canonical_shapes`). Raises HeadError for NaN.

        Tensors that are float32 in a safetensors file are not copied: they stay in the file until they are used.
        """
        import torch

        sizes = {**canonical_shapes(self.shape), "projection.bias": (self.shape.dim,)}
        assert self._read is not None, "of a remote file only the header is known"
        sources = self._read(self.names)
        found: dict[str, torch.Tensor] = {}
        for name, part in self._parts.parts.items():
            pieces = [sources[source] for source in part.names]
            for source, piece in zip(part.names, pieces, strict=True):
                check_floats(piece, source, self.path)
                if not torch.isfinite(piece.sum(dtype=torch.float32)) and not torch.isfinite(piece).all():
                    raise HeadError(f"{self.path} is damaged: {source} holds NaN or infinite values")
            tensor = torch.cat([piece.float() for piece in pieces]) if len(pieces) > 1 else pieces[0].float()
            tensor = tensor.t().contiguous() if part.is_transposed else tensor
            found[name] = tensor.reshape(sizes[name])
        return found


def open_tower_file(path: Path, *, known_as: str = "") -> TowerFile:
    """Open a local checkpoint: a file, or a folder as Hugging Face, open_clip, timm or birder lay it out.

    `known_as` is the name it was published under, where that is not the name of the file. Raises HeadError, in one line.
    """
    file = _in_folder(path) if path.is_dir() else path
    configs = read_configs(file.parent)
    name = known_as or file.name
    if file.name.endswith(".index.json"):
        files = shard_files(file, are_here=True)
        return tower_of_tensors(_shards(file, files), configs, name, str(file), _mapped(files))
    kind, start = look_at(file)
    if kind == "safetensors":
        opened = open_tensors(str(file))
        return tower_of_tensors(opened, configs, name, str(file), _mapped(dict.fromkeys(opened.tensors, file)))
    refuse_no_weights(file, start, "a checkpoint")
    if kind == "torchscript":
        archive = open_script(file)
        shapes = {name: stored.shape for name, stored in archive.tensors.items()}
        return _tower(shapes, configs, {"code": archive.code}, name, str(file), archive.read, {}, "torchscript")
    tensors, metadata = _load_pickled(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def checked(names: list[str]) -> dict[str, torch.Tensor]:
        for name in names:
            check_tensor(tensors[name], name, file)
        return tensors

    return _tower(shapes, configs, metadata, name, str(file), checked, {})


def tower_of_tensors(
    opened: TensorFile, configs: Mapping[str, Any], name: str, where: str, read: _Read | None = None
) -> TowerFile:
    """The tower among the tensors of a safetensors file, of which only the header is known; without `read` it stays so."""
    own = dict(opened.metadata) if opened.metadata.get("format") == TOWER_FORMAT else {}
    if own:
        kept, name = _parsed(own.get("configs", "{}")), own.get("name", name)
        configs = kept if isinstance(kept, dict) else {}  # (they may be no longer what was written)
    metadata = {key: _parsed(text) for key, text in opened.metadata.items()}
    return _tower(opened.shapes, configs, metadata, name, where, read, own)


def read_configs(folder: Path) -> dict[str, Any]:
    """The parsed `CONFIG_FILES` of a folder; what is missing or no JSON is left out."""
    found: dict[str, Any] = {}
    for name in CONFIG_FILES:
        try:
            if (folder / name).stat().st_size <= _MAX_CONFIG_BYTES:
                found[name] = json_value((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
    return found


def _tower(
    shapes: Shapes, configs: Mapping[str, Any], metadata: Mapping[str, Any], name: str, where: str, read: _Read | None,
    own: Mapping[str, str], word: str = "",
) -> TowerFile:  # fmt: skip
    first = recognise(shapes, where)
    configs = {key: config for key, config in configs.items() if _is_about(config, first)}
    hints = read_hints(first.word, configs, metadata, name, where)
    layout = recognise(shapes, where, num_heads=hints.num_heads) if hints.num_heads else first
    _check_signature(metadata.get("signature"), layout.shape, where)
    return TowerFile(where, f"{layout.word} {word}".strip(), layout.shape, hints, own, layout, read)


def _is_about(config: Any, layout: TowerLayout) -> bool:
    """Whether a Hugging Face configuration is about a tower of these sizes, and not about another file of the folder."""
    vision = config.get("vision_config", config) if isinstance(config, dict) else None
    if not isinstance(vision, dict):
        return False
    shape = layout.shape
    stated = {"hidden_size": shape.width, "patch_size": shape.patch_px, "image_size": shape.image_px}
    is_clip = "model_type" in config
    return not is_clip or all(vision.get(key, size) == size for key, size in stated.items())


def _check_signature(signature: Any, shape: TowerShape, where: str) -> None:
    """Compare birder's `signature` with the tensors."""
    if not isinstance(signature, dict):
        return
    try:
        pixels = list(signature["inputs"][0]["data_shape"])[1:]
        dim = list(signature["outputs"][0]["data_shape"])[-1]
    except (KeyError, IndexError, TypeError):
        return
    if pixels != [3, shape.image_px, shape.image_px] or dim != shape.dim:
        raise HeadError(
            f"{where} is damaged: its signature says {_shown(pixels)} pixels and {_shown(dim)} numbers out, its tensors "
            f"{[3, shape.image_px, shape.image_px]} and {shape.dim}"
        )


def _in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors", ".bin") and path.is_file())
    if len(others) == 1:
        return others[0]
    what = "several files of weights; give the one you mean" if others else f"no weights ({', '.join(WEIGHT_FILES)}, ...)"
    raise HeadError(f"{folder} holds {what}")


def shard_files(index: Path, *, are_here: bool = False) -> dict[str, Path]:
    """Tensor name -> file, of a sharded Hugging Face checkpoint. Raises HeadError; where `are_here`, for missing files, too."""
    try:
        weights = json_value(index.read_text(encoding="utf-8"))["weight_map"]
        found = {str(name): index.parent / Path(str(file)).name for name, file in weights.items()}
        missing = sorted({path.name for path in found.values() if not path.is_file()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(f"{index} is not a sound index of a sharded checkpoint ({text_of(error, 100)})") from None
    if missing and are_here:
        raise HeadError(f"{index.parent} is not complete: {listed(missing)} of {index.name} are missing")
    return found


def _shards(index: Path, files: Mapping[str, Path]) -> TensorFile:
    """The headers of all shards as one."""
    opened = {path: open_tensors(str(path)) for path in set(files.values())}
    lost = sorted(name for name, path in files.items() if name not in opened[path].tensors)
    if lost:
        raise HeadError(f"{index} is not sound: {lost[0]} is not in {files[lost[0]].name}")
    return TensorFile(str(index), {name: opened[path].tensors[name] for name, path in files.items()}, {}, 0)


def _mapped(files: Mapping[str, Path]) -> _Read:
    """Reads tensors of local safetensors files as maps of the files."""

    def read(wanted: list[str]) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        found: dict[str, torch.Tensor] = {}
        for path in sorted({files[name] for name in wanted}):
            try:
                with safe_open(str(path), framework="pt", device="cpu") as opened:
                    found |= {name: opened.get_tensor(name) for name in wanted if files[name] == path}
            except (SafetensorError, OSError, RuntimeError, ValueError) as error:
                raise HeadError(f"{path} is damaged: {text_of(error, 150)}; get the file again") from None
        return found

    return read


def _parsed(text: str) -> Any:
    """A text of a safetensors header: birder keeps JSON there."""
    try:
        return json_value(text)
    except ValueError:
        return text


def _is_plain(value: Any) -> bool:
    """Whether a value is what JSON could hold, and no more of it than settings are."""
    left, waiting = _MAX_SETTINGS, [value]
    while waiting and left:
        one, left = waiting.pop(), left - 1
        if isinstance(one, dict):
            waiting += [*one, *one.values()] if len(one) < left else [None] * left
        elif isinstance(one, list | tuple):
            waiting += one[:left]
        elif one is not None and type(one) not in (str, int, float, bool):
            return False
    return not waiting


def _load_pickled(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a pickled checkpoint by name, and what else it carries, without running anything in it."""
    import torch

    found = load_weights(path, mapped=True)
    metadata: dict[str, Any] = {}
    for _ in range(_MAX_DEPTH):
        inner = (
            next((key for key in ("state", "state_dict", "model") if isinstance(found.get(key), Mapping)), None)
            if isinstance(found, Mapping)
            else None
        )
        if inner is None:
            break
        metadata |= {key: found[key] for key in _TOLD if key in found and key != inner and _is_plain(found[key])}
        found = found[inner]
    if not isinstance(found, Mapping):
        raise HeadError(f"{path} holds a {type(found).__name__}, not a state dict of named tensors")
    tensors = {
        name: value.detach() for name, value in found.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise HeadError(f"{path} holds no tensors by name, so it is no checkpoint of a tower")
    return tensors, metadata
