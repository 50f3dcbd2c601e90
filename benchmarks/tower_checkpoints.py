"""Canonical tensors of a tower in; the checkpoint files that beholder and its peers load, all of the same weights, out.

The names of `tower_layouts.canonical_shapes` are turned into those of other libraries here, apart from beholder's own reading
of them. Embeddings of such towers mean nothing; time does not depend on that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from beholder.models.backbones import PIXEL_MEAN, PIXEL_STD, TowerShape

BLOCKS = {
    "openai": ("transformer.resblocks.", "ln_1", "ln_2", "attn.in_proj_", "attn.out_proj.", "mlp.c_fc.", "mlp.c_proj."),
    "timm": ("blocks.", "norm1", "norm2", "attn.qkv.", "attn.proj.", "mlp.fc1.", "mlp.fc2."),
    "birder": ("encoder.block.", "norm1", "norm2", "attn.qkv.", "attn.proj.", "mlp.0.", "mlp.3."),
    "hugging face": (
        "encoder.layers.",
        "layer_norm1",
        "layer_norm2",
        "self_attn.",
        "self_attn.out_proj.",
        "mlp.fc1.",
        "mlp.fc2.",
    ),
}
OUTER = {
    "openai": ("class_embedding", "positional_embedding", "conv1.weight", "ln_pre", "ln_post", "proj"),
    "timm": ("cls_token", "pos_embed", "patch_embed.proj.weight", "norm_pre", "norm", "head.weight"),
    "birder": ("class_token", "pos_embedding", "conv_proj.weight", "encoder.pre_block.0", "norm", "classifier.weight"),
    "hugging face": (
        "embeddings.class_embedding", "embeddings.position_embedding.weight", "embeddings.patch_embedding.weight",
        "pre_layrnorm", "post_layernorm", "",
    ),
}  # fmt: skip


def state_in(layout: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Canonical tensors under the names and in the shapes of "openai" (with `visual.`), "timm", "birder" or "hugging face"."""
    block, norm_1, norm_2, qkv, out, mlp_in, mlp_out = BLOCKS[layout]
    outer = dict(
        zip(
            ("class_token", "positions", "patch.weight", "norm_pre", "norm_post", "projection.weight"),
            OUTER[layout],
            strict=True,
        )
    )
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        in_block = re.fullmatch(r"blocks\.(\d+)\.(norm_1|norm_2|attn\.qkv|attn\.out|mlp_in|mlp_out)\.(weight|bias)", name)
        if in_block and in_block[2] == "attn.qkv" and layout == "hugging face":
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[f"{block}{in_block[1]}.{qkv}{letter}_proj.{in_block[3]}"] = part.contiguous()
        elif in_block:
            theirs = {
                "norm_1": f"{norm_1}.",
                "norm_2": f"{norm_2}.",
                "attn.qkv": qkv,
                "attn.out": out,
                "mlp_in": mlp_in,
                "mlp_out": mlp_out,
            }
            found[f"{block}{in_block[1]}.{theirs[in_block[2]]}{in_block[3]}"] = tensor
        elif name.startswith("norm_"):
            stem, kind = name.split(".")
            found[f"{outer[stem]}.{kind}"] = tensor
        elif name == "projection.weight" and layout == "openai":
            found["proj"] = tensor.T.contiguous()
        elif name in ("class_token", "positions") and layout in ("timm", "birder"):
            found[outer[name]] = tensor.reshape(1, -1, tensor.shape[-1])
        elif outer.get(name):
            found[outer[name]] = tensor
    if layout == "hugging face":
        found = {f"vision_model.{name}": tensor for name, tensor in found.items()}
        return found | {"visual_projection.weight": tensors["projection.weight"]}
    if layout == "openai":
        return {f"visual.{name}": tensor for name, tensor in found.items()}
    bias = {"timm": "head.bias", "birder": "classifier.bias"}[layout]
    return found | {bias: torch.zeros(len(tensors["projection.weight"]))}


def hugging_face_config(shape: TowerShape) -> dict[str, Any]:
    """The config.json of a CLIPVisionModelWithProjection."""
    return {
        "architectures": ["CLIPVisionModelWithProjection"],
        "model_type": "clip_vision_model",
        "hidden_act": "quick_gelu",
        "hidden_size": shape.width,
        "intermediate_size": shape.mlp_width,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "image_size": shape.image_px,
        "patch_size": shape.patch_px,
        "projection_dim": shape.dim,
        "layer_norm_eps": 1e-5,
    }


def save_hugging_face(folder: Path, shape: TowerShape, tensors: Mapping[str, Tensor]) -> Path:
    """The folder that `from_pretrained` and `--backbone` take."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(hugging_face_config(shape), indent=1), encoding="utf-8")
    save_file(state_in("hugging face", tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def save_birder(file: Path, shape: TowerShape, tensors: Mapping[str, Tensor]) -> Path:
    """The .pt of birder, for a `*_pn` network: QuickGELU stands in the checkpoint's own configuration."""
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "state": state_in("birder", tensors),
        "birder_version": "0.8.4",
        "task": "image_classification",
        "signature": {
            "inputs": [{"data_shape": [0, 3, shape.image_px, shape.image_px]}],
            "outputs": [{"data_shape": [0, shape.dim]}],
        },
        "class_to_idx": {str(number): number for number in range(shape.dim)},
        "rgb_stats": {"mean": PIXEL_MEAN, "std": PIXEL_STD},
        "config": {"act_layer_type": "quick_gelu"},
    }
    torch.save(record, file)
    return file
