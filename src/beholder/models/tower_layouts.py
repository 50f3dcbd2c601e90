"""Names and shapes of a checkpoint's tensors in; how they make CLIP's image tower out, or why they do not. Loads nothing.

Key maps: OpenAI's clip/model.py, open_clip's transformer.py, transformers' modeling_clip.py, timm's vision_transformer.py and
birder's net/vit.py (versions in docs/models.md); checked against the libraries themselves in tests/models.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from beholder.errors import HeadError
from beholder.models.backbones import HEAD_DIM, TowerShape

Shapes = Mapping[str, tuple[int, ...]]

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
        raise HeadError(f"{where} is damaged or no CLIP tower: it lacks {_listed(missing)}")
    used = {name for part in parts.values() for name in part.names}
    inside = (f"{prefix}embeddings.", f"{prefix}encoder.") if names is HUGGING_FACE else prefix
    extra = sorted(name for name in set(shapes) - used if name.startswith(inside) and not _IGNORED.fullmatch(name))
    if extra:
        raise HeadError(f"{where} is another architecture: beside CLIP's tower it has {_listed(extra)}")
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
        raise HeadError(f"{where} holds no CLIP image tower that beholder knows: its tensors are {_listed(sorted(shapes))}")
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


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"
