"""Small models of transformers with random weights, in folders as repositories have them; their own pipelines out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

VISION = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 64}
TEXT = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 60_000,
    "max_position_embeddings": 8,
}  # fmt: skip
SQUASHED = {"size": {"height": 64, "width": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.6, 0.7]}
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}


def siglip() -> tuple[Any, Any]:
    config = transformers.SiglipConfig(text_config=TEXT | {"projection_size": 48}, vision_config=VISION)
    return transformers.SiglipModel(config), transformers.SiglipImageProcessorPil(**SQUASHED)


def clip() -> tuple[Any, Any]:
    config = transformers.CLIPConfig(text_config=TEXT, vision_config=VISION | {"patch_size": 16}, projection_dim=24)
    return transformers.CLIPModel(config), transformers.CLIPImageProcessorPil(**CROPPED)


def clip_image_side() -> tuple[Any, Any]:
    config = transformers.CLIPVisionConfig(**VISION, patch_size=16, projection_dim=24)
    return transformers.CLIPVisionModelWithProjection(config), transformers.CLIPImageProcessorPil(**CROPPED)


def dino() -> tuple[Any, Any]:
    config = transformers.Dinov2Config(**VISION, patch_size=16)
    return transformers.Dinov2Model(config), transformers.BitImageProcessorPil(**CROPPED)


MAKERS = {"siglip": (siglip, "pooled", 48), "clip": (clip, "projected", 24), "dino": (dino, "pooled", 48)}


def saved(folder: Path, maker: Any, seed: int = 0) -> tuple[Any, Any]:
    """A model with random weights and its processor, in a folder as a repository has them."""
    torch.manual_seed(seed)
    model, processor = maker()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases begin at 1 and 0: no mistake in them must go unseen
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def by_the_library(model: Any, processor: Any, paths: list[Path]) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What transformers' own documentation does, a picture at a time."""
    rows = []
    for path in paths:
        inputs = processor(images=Image.open(path).convert("RGB"), return_tensors="pt")
        with torch.inference_mode():
            found = model.get_image_features(**inputs) if hasattr(model, "get_image_features") else model(**inputs)
        features = getattr(found, "image_embeds", None)
        rows.append((found.pooler_output if features is None else features).numpy()[0])
    return np.stack(rows)
