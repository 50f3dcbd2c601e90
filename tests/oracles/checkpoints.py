"""Canonical tensors of a tower in; checkpoints as OpenAI, Hugging Face, open_clip, timm, birder and shunk031 publish them out.

The key maps are written out here a second time, from the libraries' own modules, and share nothing with beholder's.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from beholder.models.backbones import TowerShape

Tensors = Mapping[str, Tensor]
CLIP_MEAN = [0.48145466, 0.4578275, 0.40821073]
CLIP_STD = [0.26862954, 0.26130258, 0.27577711]


def openai_state(tensors: Tensors, prefix: str = "visual.") -> dict[str, Tensor]:
    """The names of OpenAI's VisionTransformer and of open_clip; `proj` is (width, dim)."""
    found = {
        "class_embedding": tensors["class_token"],
        "positional_embedding": tensors["positions"],
        "proj": tensors["projection.weight"].t().contiguous(),
        "conv1.weight": tensors["patch.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"ln_pre.{kind}"] = tensors[f"norm_pre.{kind}"]
        found[f"ln_post.{kind}"] = tensors[f"norm_post.{kind}"]
    for i in range(num_blocks(tensors)):
        theirs = f"transformer.resblocks.{i}."
        found[theirs + "attn.in_proj_weight"] = tensors[f"blocks.{i}.attn.qkv.weight"]
        found[theirs + "attn.in_proj_bias"] = tensors[f"blocks.{i}.attn.qkv.bias"]
        for kind in ("weight", "bias"):
            found[theirs + f"attn.out_proj.{kind}"] = tensors[f"blocks.{i}.attn.out.{kind}"]
            found[theirs + f"ln_1.{kind}"] = tensors[f"blocks.{i}.norm_1.{kind}"]
            found[theirs + f"mlp.c_fc.{kind}"] = tensors[f"blocks.{i}.mlp_in.{kind}"]
            found[theirs + f"mlp.c_proj.{kind}"] = tensors[f"blocks.{i}.mlp_out.{kind}"]
            found[theirs + f"ln_2.{kind}"] = tensors[f"blocks.{i}.norm_2.{kind}"]
    return {prefix + name: tensor for name, tensor in found.items()}


def text_state(dim: int = 16) -> dict[str, Tensor]:
    """A few tensors of OpenAI's text tower, top-level as published, and the scalars of its archives."""
    return {
        "positional_embedding": torch.zeros(77, dim),
        "text_projection": torch.zeros(dim, dim),
        "logit_scale": torch.tensor(4.6),
        "token_embedding.weight": torch.zeros(100, dim),
        "transformer.resblocks.0.attn.in_proj_weight": torch.zeros(3 * dim, dim),
        "ln_final.weight": torch.zeros(dim),
        "input_resolution": torch.tensor(224),
        "context_length": torch.tensor(77),
        "vocab_size": torch.tensor(49408),
    }


def hf_state(tensors: Tensors, prefix: str = "vision_model.", *, projection: bool = True, outer: str = "") -> dict[str, Tensor]:
    """The names of transformers' CLIPVisionTransformer; the projection stands beside it."""
    found = {
        "embeddings.class_embedding": tensors["class_token"],
        "embeddings.position_embedding.weight": tensors["positions"],
        "embeddings.patch_embedding.weight": tensors["patch.weight"],
    }
    for kind in ("weight", "bias"):
        found[f"pre_layrnorm.{kind}"] = tensors[f"norm_pre.{kind}"]
        found[f"post_layernorm.{kind}"] = tensors[f"norm_post.{kind}"]
        for i in range(num_blocks(tensors)):
            parts = tensors[f"blocks.{i}.attn.qkv.{kind}"].chunk(3)
            for letter, part in zip("qkv", parts, strict=True):
                found[f"encoder.layers.{i}.self_attn.{letter}_proj.{kind}"] = part.contiguous()
            found[f"encoder.layers.{i}.self_attn.out_proj.{kind}"] = tensors[f"blocks.{i}.attn.out.{kind}"]
            found[f"encoder.layers.{i}.layer_norm1.{kind}"] = tensors[f"blocks.{i}.norm_1.{kind}"]
            found[f"encoder.layers.{i}.layer_norm2.{kind}"] = tensors[f"blocks.{i}.norm_2.{kind}"]
            found[f"encoder.layers.{i}.mlp.fc1.{kind}"] = tensors[f"blocks.{i}.mlp_in.{kind}"]
            found[f"encoder.layers.{i}.mlp.fc2.{kind}"] = tensors[f"blocks.{i}.mlp_out.{kind}"]
    named = {outer + prefix + name: tensor for name, tensor in found.items()}
    return named | ({outer + "visual_projection.weight": tensors["projection.weight"]} if projection else {})


def hf_text_state(dim: int = 32) -> dict[str, Tensor]:
    """A few text tensors of a whole CLIPModel file, and the buffers of old ones."""
    return {
        "logit_scale": torch.tensor(4.6),
        "text_model.embeddings.token_embedding.weight": torch.zeros(100, dim),
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "text_projection.weight": torch.zeros(dim, dim),
        "vision_model.embeddings.position_ids": torch.arange(5)[None],
    }


def hf_config(shape: TowerShape, hidden_act: str = "quick_gelu") -> dict[str, Any]:
    """config.json of a whole CLIPModel."""
    return {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": shape.dim,
        "vision_config": {
            "hidden_act": hidden_act,
            "hidden_size": shape.width,
            "image_size": shape.image_px,
            "intermediate_size": shape.mlp_width,
            "layer_norm_eps": 1e-5,
            "num_attention_heads": shape.num_heads,
            "num_hidden_layers": shape.num_layers,
            "patch_size": shape.patch_px,
            "projection_dim": shape.dim,
        },
    }


def timm_state(tensors: Tensors, *, bias: bool = True) -> dict[str, Tensor]:
    """The names of timm's VisionTransformer."""
    found = {
        "cls_token": tensors["class_token"][None, None],
        "pos_embed": tensors["positions"][None],
        "patch_embed.proj.weight": tensors["patch.weight"],
        "head.weight": tensors["projection.weight"],
    }
    if bias:
        found["head.bias"] = tensors.get("projection.bias", torch.zeros(len(tensors["projection.weight"])))
    for kind in ("weight", "bias"):
        found[f"norm_pre.{kind}"] = tensors[f"norm_pre.{kind}"]
        found[f"norm.{kind}"] = tensors[f"norm_post.{kind}"]
        for i in range(num_blocks(tensors)):
            found[f"blocks.{i}.attn.qkv.{kind}"] = tensors[f"blocks.{i}.attn.qkv.{kind}"]
            found[f"blocks.{i}.attn.proj.{kind}"] = tensors[f"blocks.{i}.attn.out.{kind}"]
            found[f"blocks.{i}.norm1.{kind}"] = tensors[f"blocks.{i}.norm_1.{kind}"]
            found[f"blocks.{i}.norm2.{kind}"] = tensors[f"blocks.{i}.norm_2.{kind}"]
            found[f"blocks.{i}.mlp.fc1.{kind}"] = tensors[f"blocks.{i}.mlp_in.{kind}"]
            found[f"blocks.{i}.mlp.fc2.{kind}"] = tensors[f"blocks.{i}.mlp_out.{kind}"]
    return found


def timm_config(architecture: str, tag: str = "openai") -> dict[str, Any]:
    """config.json of a timm repository."""
    return {"architecture": architecture, "pretrained_cfg": {"tag": tag, "mean": CLIP_MEAN, "std": CLIP_STD}}


def birder_state(tensors: Tensors) -> dict[str, Tensor]:
    """The names of birder's ViT."""
    found = {
        "class_token": tensors["class_token"][None, None],
        "pos_embedding": tensors["positions"][None],
        "conv_proj.weight": tensors["patch.weight"],
        "classifier.weight": tensors["projection.weight"],
        "classifier.bias": tensors.get("projection.bias", torch.zeros(len(tensors["projection.weight"]))),
    }
    for kind in ("weight", "bias"):
        found[f"encoder.pre_block.0.{kind}"] = tensors[f"norm_pre.{kind}"]
        found[f"norm.{kind}"] = tensors[f"norm_post.{kind}"]
        for i in range(num_blocks(tensors)):
            theirs = f"encoder.block.{i}."
            found[f"{theirs}attn.qkv.{kind}"] = tensors[f"blocks.{i}.attn.qkv.{kind}"]
            found[f"{theirs}attn.proj.{kind}"] = tensors[f"blocks.{i}.attn.out.{kind}"]
            found[f"{theirs}norm1.{kind}"] = tensors[f"blocks.{i}.norm_1.{kind}"]
            found[f"{theirs}norm2.{kind}"] = tensors[f"blocks.{i}.norm_2.{kind}"]
            found[f"{theirs}mlp.0.{kind}"] = tensors[f"blocks.{i}.mlp_in.{kind}"]
            found[f"{theirs}mlp.3.{kind}"] = tensors[f"blocks.{i}.mlp_out.{kind}"]
    return found


def birder_extras(shape: TowerShape) -> dict[str, Any]:
    """What a birder checkpoint carries beside `state`."""
    return {
        "birder_version": "0.8.4",
        "task": "image_classification",
        "signature": {
            "inputs": [{"data_shape": [0, 3, shape.image_px, shape.image_px]}],
            "outputs": [{"data_shape": [0, shape.dim]}],
        },
        "class_to_idx": {str(i): i for i in range(shape.dim)},
        "rgb_stats": {"mean": tuple(CLIP_MEAN), "std": tuple(CLIP_STD)},
    }


class _Part(nn.Module):
    """A node of a module tree made from dotted names."""


class _Scripted(nn.Module):
    """The outermost module of an archive; its program is that of QuickGELU or of plain GELU."""

    def __init__(self, state: Tensors) -> None:
        super().__init__()
        for name, tensor in state.items():
            node: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if step not in dict(node.named_children()):
                    node.add_module(step, _Part())
                node = node.get_submodule(step)
            node.register_buffer(last, tensor) if not tensor.is_floating_point() else node.register_parameter(
                last, nn.Parameter(tensor, requires_grad=False)
            )


class _QuickGelu(_Scripted):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Gelu(_Scripted):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.gelu(x)


class _Neither(_Scripted):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def half_where_openai_does(state: Tensors) -> dict[str, Tensor]:
    """As `convert_weights` of clip/model.py: convolution, linear, attention and `proj` in float16, the rest in float32."""
    keep = ("class_embedding", "positional_embedding", "ln_pre", "ln_post", "ln_1", "ln_2", "ln_final", "token_embedding")
    floats = {name: any(word in name for word in keep) or not tensor.is_floating_point() for name, tensor in state.items()}
    return {name: tensor if floats[name] else tensor.half() for name, tensor in state.items()}


def write_archive(path: Path, state: Tensors, kind: str = "quick_gelu", *, traced: bool = False) -> Path:
    """A TorchScript archive with these tensors, as `torch.jit.save` writes it."""
    module = {"quick_gelu": _QuickGelu, "gelu": _Gelu, "neither": _Neither}[kind](state)
    script = torch.jit.trace(module, torch.ones(2)) if traced else torch.jit.script(module)
    torch.jit.save(script, str(path))
    return path


def write_safetensors(path: Path, state: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file; metadata as transformers and timm write it unless given."""
    contiguous = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(contiguous, str(path), dict(metadata or {"format": "pt"}))
    return path


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def num_blocks(tensors: Tensors) -> int:
    return sum(name.endswith("norm_1.weight") for name in tensors)


def every_layout(folder: Path, tensors: Tensors, shape: TowerShape) -> dict[str, tuple[Path, str]]:
    """Each layout as a file in a folder of its own: name -> (path, word for the layout). float32 all through."""

    def at(name: str) -> Path:
        (folder / name).mkdir(parents=True, exist_ok=True)
        return folder / name

    found: dict[str, tuple[Path, str]] = {}

    def add(name: str, file: str, write: Callable[[Path], object], word: str, **configs: object) -> None:
        write(at(name) / file)
        for config, value in configs.items():
            write_json(at(name) / f"{config}.json", value)
        found[name] = (at(name) / file, word)

    openai, config = openai_state(tensors) | text_state(), hf_config(shape)
    quick = {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": CLIP_MEAN, "std": CLIP_STD}}
    add("archive", "ViT-tiny.pt", lambda p: write_archive(p, openai), "openai torchscript")
    add("traced", "traced.pt", lambda p: write_archive(p, openai, traced=True), "openai torchscript")
    add("openai state dict", "state.pt", lambda p: torch.save(openai, p), "openai", open_clip_config=quick)
    add("hf whole", "model.safetensors", lambda p: write_safetensors(p, hf_state(tensors) | hf_text_state()), "hugging face",
        config=config)  # fmt: skip
    add(
        "hf bin",
        "pytorch_model.bin",
        lambda p: torch.save(hf_state(tensors) | hf_text_state(), p),
        "hugging face",
        config=config,
    )
    add("hf vision", "model.safetensors", lambda p: write_safetensors(p, hf_state(tensors)), "hugging face", config=config)
    add("hf bare", "model.safetensors", lambda p: write_safetensors(p, hf_state(tensors, "")), "hugging face", config=config)
    add("hf inside", "model.safetensors", lambda p: write_safetensors(p, hf_state(tensors, outer="clip.")), "hugging face",
        config=config)  # fmt: skip
    bundle = hf_state(tensors) | {"predictor.weight": torch.ones(1, 32)}
    add("bundle", "model.safetensors", lambda p: write_safetensors(p, bundle),
        "hugging face with a head", config=config)  # fmt: skip
    add("open_clip", "open_clip_model.safetensors", lambda p: write_safetensors(p, openai), "openai", open_clip_config=quick)
    add("open_clip bin", "open_clip_pytorch_model.bin", lambda p: torch.save(openai, p), "openai", open_clip_config=quick)
    training = {"epoch": 3, "name": "x", "state_dict": {f"module.{name}": tensor for name, tensor in openai.items()}}
    add("open_clip training", "epoch_3.pt", lambda p: torch.save(training, p), "openai", open_clip_config=quick)
    timm = timm_config("vit_tiny_clip_quickgelu_28")
    add("timm", "model.safetensors", lambda p: write_safetensors(p, timm_state(tensors)), "timm", config=timm)
    add("timm bin", "pytorch_model.bin", lambda p: torch.save(timm_state(tensors, bias=False), p), "timm", config=timm)
    birder = {"state": birder_state(tensors), **birder_extras(shape)}
    add("birder", "vit_l14_pn_quick_gelu_tiny.pt", lambda p: torch.save(birder, p), "birder")
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in birder_extras(shape).items()}
    add("birder safetensors", "vit_l14_pn_quick_gelu_tiny.safetensors",
        lambda p: write_safetensors(p, birder_state(tensors), texts), "birder")  # fmt: skip
    return found
