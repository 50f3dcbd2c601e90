"""The same checkpoint file, the same pixels: timm, open_clip and birder give beholder's embeddings.

The libraries live in an environment of their own (`make peers`); each is asked in a process of its own, under the name it has
for OpenAI's ViT-L/14, with fewer blocks (and in a small size) so that it is quick.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from beholder.models.backbones import SHAPES, TowerShape
from beholder.models.clip import random_tensors
from beholder.models.towers import load_tower
from oracles import checkpoints as made
from oracles.peers import PEERS, needs_peers
from oracles.tiers import mostly_slow

TOLERANCE = 2e-5

ASK = """
import importlib.util, json, sys
peer, jobs = sys.argv[1], json.loads(sys.argv[2])
if importlib.util.find_spec(peer) is None:
    sys.exit(77)
import numpy as np, torch

def timm_model(path, s):
    import timm
    model = timm.create_model(
        "vit_large_patch14_clip_quickgelu_224", pretrained=False, num_classes=s["dim"], img_size=s["image_px"],
        patch_size=s["patch_px"], embed_dim=s["width"], depth=s["num_layers"], num_heads=s["num_heads"],
        mlp_ratio=s["mlp_width"] / s["width"],
    )
    timm.models.load_checkpoint(model, path, strict=True)
    return model.eval()

def open_clip_model(path, s):
    import open_clip
    from safetensors.torch import load_file
    config = open_clip.get_model_config("ViT-L-14-quickgelu")
    assert config["quick_gelu"] and config["vision_cfg"]["patch_size"] == 14, config
    config["embed_dim"] = s["dim"]
    config["vision_cfg"] |= dict(
        image_size=s["image_px"], patch_size=s["patch_px"], width=s["width"], layers=s["num_layers"],
        mlp_ratio=s["mlp_width"] / s["width"],
    )
    config["text_cfg"] |= dict(width=64, heads=1, layers=1, vocab_size=64)
    model = open_clip.model.CLIP(**config)
    state = {name[7:]: tensor for name, tensor in load_file(path).items() if name.startswith("visual.")}
    model.visual.load_state_dict(state, strict=True)
    return model.eval().encode_image

def birder_model(path, s):
    from birder.model_registry import registry
    sizes = dict(num_layers=s["num_layers"], num_heads=s["num_heads"], hidden_dim=s["width"], mlp_dim=s["mlp_width"])
    model = registry.net_factory(
        "vit_l14_pn_quick_gelu", s["dim"], 3, config={"patch_size": s["patch_px"], **sizes}, size=(s["image_px"],) * 2
    )
    saved = torch.load(path, weights_only=True)
    assert len(saved["class_to_idx"]) == s["dim"]
    model.load_state_dict(saved["state"], strict=True)
    return model.eval()

mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
for path, pixels, out, shape in jobs:
    embed = {"timm": timm_model, "open_clip": open_clip_model, "birder": birder_model}[peer](path, shape)
    images = (torch.from_numpy(np.load(pixels)).permute(0, 3, 1, 2).float() / 255 - mean) / std
    with torch.inference_mode():
        np.save(out, embed(images).numpy())
"""

SIZES = {
    "small": TowerShape.small(image_px=42, num_layers=3),
    "L/14 with two blocks": dataclasses.replace(SHAPES["openai/clip-vit-large-patch14"], num_layers=2),
}

pytestmark = needs_peers("timm, open_clip and birder are")


def write(peer: str, folder: Path, tensors: dict[str, torch.Tensor], shape: TowerShape) -> Path:
    """The checkpoint in the peer's own layout."""
    if peer == "timm":
        made.write_json(folder / "config.json", made.timm_config("vit_large_patch14_clip_quickgelu_224"))
        return made.write_safetensors(folder / "model.safetensors", made.timm_state(tensors))
    if peer == "open_clip":
        made.write_json(folder / "open_clip_config.json", {"model_cfg": {"quick_gelu": True}})
        state = made.openai_state(tensors) | made.text_state()
        return made.write_safetensors(folder / "open_clip_model.safetensors", state)
    path = folder / "vit_l14_pn_quick_gelu_tiny.pt"
    torch.save({"state": made.birder_state(tensors), **made.birder_extras(shape)}, path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("peer", mostly_slow(["birder", "timm", "open_clip"], quick=0, slow=1))
def test_the_peer_gives_the_same_embeddings(peer: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    jobs = []
    for number, shape in enumerate(SIZES.values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        tensors = random_tensors(shape, seed=21)
        if peer != "open_clip":  # OpenAI's layout has no bias on the projection
            tensors["projection.bias"] = torch.linspace(-0.5, 0.5, shape.dim)
        path = write(peer, folder, tensors, shape)
        np.save(folder / "pixels.npy", rng.integers(0, 256, (2, shape.image_px, shape.image_px, 3), dtype=np.uint8))
        jobs.append([str(path), str(folder / "pixels.npy"), str(folder / "out.npy"), dataclasses.asdict(shape)])
    line = [str(PEERS), "-c", ASK, peer, json.dumps(jobs)]
    result = subprocess.run(line, capture_output=True, text=True, check=False)
    if result.returncode == 77:
        pytest.skip(f"needs-peers: {peer} is not installed (make peers)")
    assert result.returncode == 0, result.stderr[-3000:]
    for path_text, pixels, out, _ in jobs:
        tower = load_tower(str(path_text))
        assert tower.activation == "quick_gelu"
        with torch.inference_mode():
            ours = tower.module(torch.from_numpy(np.load(str(pixels)))).numpy()
        theirs = np.load(str(out))
        assert theirs.std() > 0.3
        assert np.abs(ours - theirs).max() < TOLERANCE
