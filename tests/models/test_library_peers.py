"""timm's and open_clip's towers with random weights: beholder's embeddings are those of the library's own pipeline.

The libraries live in an environment of their own (`make peers`), in which beholder is run as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import beholder
from oracles.hub import Hub
from oracles.peers import ask, needs_peers
from oracles.photo_files import write_photographs

pytestmark = needs_peers("timm and open_clip are")

START = (
    f"""
import sys
sys.path.insert(0, {str(Path(beholder.__file__).parents[1])!r})
"""
    + """
import json, os, time
import numpy as np, torch
from PIL import Image

def randomise(model, seed):
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()

def by_the_library(paths, transform, embed, mode):
    rows = []
    for path in paths:
        image = Image.open(path)
        image = image.convert("RGB") if mode == "RGB" else image
        with torch.inference_mode():
            rows.append(embed(transform(image)[None]).numpy()[0])
    return np.stack(rows)

def compared(spec, wanted, paths):
    import beholder
    head = beholder.Head.affine(np.ones(wanted.shape[1]), name="any")
    import warnings; warnings.simplefilter("ignore")
    scorer = beholder.load_scorer(spec, head, device="cpu", precision="fp32")
    found = scorer.embed(paths)
    return {
        "error": float(np.abs(found - wanted).max()), "spread": float(np.ptp(wanted, axis=0).max()),
        "one": float(np.abs(scorer.embed(paths[0]) - found[0]).max()), "none": list(scorer.embed([]).shape),
        **{name: scorer.tower.describe()[name] for name in ("backbone", "features", "library_version", "dim", "sha256")},
    }
"""
)

TIMM = (
    START
    + """
import timm
paths, folder = json.loads(sys.argv[1]), sys.argv[2]
found = {}
for name, num_classes in json.loads(sys.argv[3]):
    own = {} if num_classes is None else {"num_classes": num_classes}
    model = randomise(timm.create_model(name, pretrained=False, **own), 3)
    torch.save(model.state_dict(), f"{folder}/weights.pt")
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    wanted = by_the_library(paths, transform, model, "RGB")
    found[f"{name} {num_classes}"] = compared(f"timm:{name}@{folder}/weights.pt", wanted, paths)
print(json.dumps(found))
"""
)

OPEN_CLIP = (
    START
    + """
import open_clip
paths, folder = json.loads(sys.argv[1]), sys.argv[2]
found = {}
small = {"embed_dim": 40, "quick_gelu": False,
    "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}}
vit = {"image_size": 96, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16}
timm_vit = {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "avg",
    "timm_proj": "linear"}
for name, vision in (("small-vit", vit), ("small-timm", timm_vit)):
    with open(f"{folder}/{name}.json", "w") as file:
        json.dump(small | {"vision_cfg": vision}, file)
pooled = {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True}
coca = small | {"vision_cfg": vit | pooled, "custom_text": True,
    "multimodal_cfg": {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1, "attn_pooler_heads": 4}}
coca["text_cfg"] = coca["text_cfg"] | {"embed_cls": True, "output_tokens": True}
with open(f"{folder}/small-coca.json", "w") as file:
    json.dump(coca, file)
open_clip.add_model_config(folder)
for name in ("small-vit", "small-timm", "small-coca"):
    model, _, transform = open_clip.create_model_and_transforms(name)
    randomise(model, 4)
    torch.save(model.state_dict(), f"{folder}/weights.pt")
    wanted = by_the_library(paths, transform, lambda x: model.encode_image(x, normalize=False), None)
    found[name] = compared(f"open_clip:{name}@{folder}/weights.pt", wanted, paths)
print(json.dumps(found))
"""
)

HUB = (
    START
    + """
os.environ |= {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": sys.argv[3]}
import timm
from safetensors.torch import load_file
paths, folder = json.loads(sys.argv[1]), sys.argv[2]
model = timm.create_model("test_vit.r160_in1k", pretrained=False)
model.load_state_dict(load_file(f"{folder}/model.safetensors"))
model.eval().reset_classifier(0)
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
wanted = by_the_library(paths, transform, model, "RGB")
print(json.dumps(compared("timm:test_vit", wanted, paths)))
"""
)

MAKE = (
    START
    + """
import timm
from safetensors.torch import save_file
save_file(randomise(timm.create_model("test_vit", pretrained=False), 5).state_dict(), sys.argv[1])
"""
)

REFUSALS = (
    START
    + """
from beholder.errors import BeholderError
from beholder.models.towers import load_any_tower
folder = sys.argv[1]
import timm, open_clip
state = timm.create_model("test_vit", pretrained=False).state_dict()
state.pop("norm.weight")
torch.save(state, f"{folder}/cut.pt")
at_urls = [f"timm:{name}" for name in timm.list_pretrained() if not timm.get_pretrained_cfg(name).hf_hub_id][:1]
at_urls += [f"open_clip:{name}/{tag}" for name, tag in open_clip.list_pretrained()
            if not open_clip.get_pretrained_cfg(name, tag).get("hf_hub")][:1]
found = []
for models in (json.loads(sys.argv[2]), at_urls):
    said = {}
    for spec in models:
        try:
            load_any_tower(spec.replace("FOLDER", folder), offline=True)
            said[spec] = "loaded"
        except BeholderError as error:
            said[spec] = str(error)
    found.append(said)
print(json.dumps(found))
"""
)


def lines(script: str, *args: str, cache: Path) -> Any:
    """What a script printed in its last line, as JSON."""
    return json.loads(ask(script, *args, cache=cache).splitlines()[-1])


@pytest.fixture
def paths(tmp_path: Path) -> str:
    return json.dumps([str(path) for path in write_photographs(tmp_path / "pictures")])


def check(found: dict[str, Any], features: str, library: str) -> None:
    for name, result in found.items():
        assert result["error"] <= 1e-6 * max(1, result["spread"]), (name, result)
        assert result["spread"] > 0.01, name
        assert result["one"] == 0
        assert result["none"] == [0, result["dim"]]
        assert result["features"] == features
        assert result["backbone"].startswith(f"{library}:{name.partition(' ')[0]}#{result['sha256'][:12]}")


@pytest.mark.parametrize(
    "jobs",
    [
        [["test_vit", None], ["test_vit.r160_in1k", 7], ["test_efficientnet", None]],
        pytest.param([["resnet10t", 0], ["vit_tiny_patch16_224", 0]], marks=pytest.mark.soak),
    ],
    ids=["small", "larger"],
)
def test_timm(paths: str, tmp_path: Path, jobs: list[list[Any]]) -> None:
    found = lines(TIMM, paths, str(tmp_path), json.dumps(jobs), cache=tmp_path)
    assert len(found) == len(jobs)
    check(found, "pooled", "timm")


def test_open_clip(paths: str, tmp_path: Path) -> None:
    found = lines(OPEN_CLIP, paths, str(tmp_path), cache=tmp_path)
    assert set(found) == {"small-vit", "small-timm", "small-coca"}
    check(found, "projected", "open_clip")


@pytest.mark.soak
def test_published_weights_of_timm_come_from_the_hub(web: Hub, paths: str, tmp_path: Path) -> None:
    ask(MAKE, str(tmp_path / "model.safetensors"), cache=tmp_path)
    web.add_hub_file("timm/test_vit.r160_in1k", "model.safetensors", tmp_path / "model.safetensors")
    found = lines(HUB, paths, str(tmp_path), web.url, cache=tmp_path)
    check({"test_vit.r160_in1k": found}, "pooled", "timm")
    assert ("GET", "/timm/test_vit.r160_in1k/resolve/main/model.safetensors") in web.log


def test_what_is_refused_and_how(tmp_path: Path) -> None:
    wanted = {
        "timm:tst_vit": "did you mean test_vit",
        "timm:vit_base_patch16_sapiens2": "beholder's towers take squares",
        "timm:test_vit": "offline mode is on",
        "timm:test_vit@/nowhere/x.pt": "/nowhere/x.pt is not there",
        "timm:test_vit@FOLDER/cut.pt": "norm.weight",
        "timm:test_vit@x.pt": "after @ stands a path",
        "open_clip:ViT-B-3": "did you mean ViT-B-32",
        "open_clip:ViT-B-32": "open_clip:ViT-B-32/TAG with one of open_clip's own: openai, ",
        "open_clip:ViT-B-32/laion2b_s34b_b79": "did you mean laion2b_s34b_b79k",
        "open_clip:ViT-B-32/laion2b_s34b_b79k": "offline mode is on",
    }
    found, at_urls = lines(REFUSALS, str(tmp_path), json.dumps(list(wanted)), cache=tmp_path)
    for spec, text in wanted.items():
        assert text in found[spec], (spec, found[spec])
        assert "\n" not in found[spec]
    assert any(spec.startswith("timm:") for spec in at_urls)  # open_clip has its weights on the hub by now
    for spec, said in at_urls.items():
        assert said.startswith(f"{spec} is at http")
        assert "offline mode is on; give the file: " in said
        assert "\n" not in said
