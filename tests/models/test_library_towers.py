"""Towers of transformers with random weights: its own processor and model give the same embeddings; what is refused, and how.

timm and open_clip live in an environment of their own: `test_library_peers.py`.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

import beholder
from beholder.engine.engine import Engine
from beholder.errors import BeholderError, HeadError, InputError
from beholder.models.backbones import known_backbone, same_backbone
from beholder.models.towers import check_head_fits, inspect_tower, load_any_tower
from oracles.hub import Hub
from oracles.library_models import MAKERS, TEXT, by_the_library, clip, clip_image_side, saved, siglip
from oracles.photo_files import write_photographs


def scorer_for(backbone: str, dim: int, **options: Any) -> beholder.Scorer:
    head = beholder.Head.affine(np.linspace(-1, 1, dim), 5.0, name="any", backbone=known_backbone(backbone))
    return beholder.load_scorer(backbone, head, device="cpu", precision="fp32", **options)


@pytest.mark.parametrize("kind", MAKERS)
def test_embeddings_are_those_of_transformers_own_pipeline(kind: str, tmp_path: Path) -> None:
    maker, features, dim = MAKERS[kind]
    model, processor = saved(tmp_path / "org-tower", maker)
    paths = write_photographs(tmp_path / "pictures")
    wanted = by_the_library(model, processor, paths)
    scorer = scorer_for(f"transformers:{tmp_path / 'org-tower'}", dim)
    found = scorer.embed(paths)
    assert found.shape == (len(paths), dim)
    assert np.ptp(wanted, axis=0).max() > 0.05  # the photographs are told apart
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(scorer.embed(paths[0]), found[0])
    assert scorer.embed([]).shape == (0, dim)
    unit = wanted[0].astype(np.float64) / np.linalg.norm(wanted[0].astype(np.float64))
    assert scorer.score(paths[0]) == pytest.approx(unit @ np.linspace(-1, 1, dim) + 5, abs=1e-5)
    record = scorer.tower.describe()
    assert record["features"] == features
    assert record["library"] == "transformers"
    assert record["library_version"] == transformers.__version__
    assert record["backbone"].startswith("transformers:org-tower#")
    assert len(record["backbone"].partition("#")[2]) == 12
    assert record["preprocessing"]["config"]["image_mean"] == list(processor.image_mean)


def test_a_model_that_is_the_image_side_alone(tmp_path: Path) -> None:
    model, processor = saved(tmp_path / "tower", clip_image_side)
    paths = write_photographs(tmp_path / "pictures")
    scorer = scorer_for(f"transformers:{tmp_path / 'tower'}", 24)
    np.testing.assert_allclose(scorer.embed(paths), by_the_library(model, processor, paths), rtol=0, atol=1e-6)
    assert scorer.tower.describe()["features"] == "projected"


def test_upright_turns_and_flattens_before_the_transform(tmp_path: Path) -> None:
    model, processor = saved(tmp_path / "tower", siglip)
    seen = Image.open(write_photographs(tmp_path / "pictures")[1]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = seen.transpose(Image.Transpose.ROTATE_90)  # what orientation 6 turns back
    stored.save(tmp_path / "turned.png", exif=exif)
    seen.save(tmp_path / "seen.png")
    wanted = by_the_library(model, processor, [tmp_path / "seen.png", tmp_path / "turned.png"])
    spec = f"transformers:{tmp_path / 'tower'}"
    upright = scorer_for(spec, 48, preset="upright").embed(tmp_path / "turned.png")
    as_stored = scorer_for(spec, 48).embed(tmp_path / "turned.png")
    np.testing.assert_allclose(np.stack([upright, as_stored]), wanted, rtol=0, atol=1e-6)
    assert np.abs(upright - as_stored).max() > 1e-3


def test_pictures_that_a_transform_cannot_take_are_rejects(tmp_path: Path) -> None:
    saved(tmp_path / "tower", siglip)
    scorer = scorer_for(f"transformers:{tmp_path / 'tower'}", 48)
    Image.new("RGB", (300_000, 1)).save(tmp_path / "thin.png")
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(beholder.PictureError, match="too thin"):
        scorer.embed(tmp_path / "thin.png")
    assert np.isnan(scorer.score([tmp_path / "thin.png", tmp_path / "text.png"], on_error="nan")).all()


def test_the_module_is_differentiable_and_gives_the_same_scores(tmp_path: Path) -> None:
    saved(tmp_path / "tower", siglip)
    scorer = scorer_for(f"transformers:{tmp_path / 'tower'}", 48)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255).requires_grad_()
    scores = scorer.as_module()(images)
    wanted = scorer.head.score(scorer.engine.embed(pixels))
    np.testing.assert_allclose(scores.detach().numpy(), wanted, atol=1e-5)
    scores.sum().backward()
    assert images.grad is not None
    assert images.grad.abs().sum() > 0


@pytest.mark.parametrize("precision", ["bf16", "fp16", "auto"])
def test_narrow_precisions_stay_near_float32(precision: Any, tmp_path: Path) -> None:
    saved(tmp_path / "tower", clip)
    tower = load_any_tower(f"transformers:{tmp_path / 'tower'}")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    wanted = Engine(tower, device="cpu", precision="fp32").embed(pixels)
    engine = Engine(tower, device="cpu", precision=precision)
    found = engine.embed(pixels)
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    assert engine.describe()["form"] == "plain"
    if precision == "auto":
        assert engine.check()["chosen"] == engine.precision
    else:
        assert np.abs(found - wanted).max() > 0


def test_other_weights_of_the_same_name_are_another_space(tmp_path: Path) -> None:
    saved(tmp_path / "one" / "tower", siglip, seed=0)
    saved(tmp_path / "two" / "tower", siglip, seed=1)
    first, second = (load_any_tower(f"transformers:{tmp_path / name / 'tower'}") for name in ("one", "two"))
    assert first.backbone != second.backbone
    assert not same_backbone(first.backbone, second.backbone)
    head = beholder.Head.affine(np.ones(48), name="mine", backbone=first.backbone)
    assert check_head_fits(first, head) is None
    with pytest.raises(HeadError, match="is another tower; its scores would mean nothing"):
        check_head_fits(second, head)
    digest = first.backbone.partition("#")[2]
    with pytest.raises(HeadError, match=f"not {digest}"):
        load_any_tower(f"transformers:tower@{tmp_path / 'two' / 'tower'}#{digest}")
    assert load_any_tower(f"transformers:tower@{tmp_path / 'one' / 'tower'}#{digest}").backbone == first.backbone


def test_another_configuration_of_the_same_weights_is_another_space(tmp_path: Path) -> None:
    saved(tmp_path / "one" / "tower", siglip)
    first = load_any_tower(f"transformers:{tmp_path / 'one' / 'tower'}")
    shutil.copytree(tmp_path / "one", tmp_path / "same")
    edited(tmp_path / "same" / "tower", "config.json", transformers_version="0.0", dtype="float16")
    assert load_any_tower(f"transformers:{tmp_path / 'same' / 'tower'}").backbone == first.backbone
    vision = json.loads((tmp_path / "one" / "tower" / "config.json").read_text())["vision_config"]
    for name, file, changes in (
        ("eps", "config.json", {"vision_config": vision | {"layer_norm_eps": 0.1}}),
        ("mean", "preprocessor_config.json", {"image_mean": [0.1, 0.2, 0.3]}),
    ):
        shutil.copytree(tmp_path / "one", tmp_path / name)
        edited(tmp_path / name / "tower", file, **changes)
        other = load_any_tower(f"transformers:{tmp_path / name / 'tower'}")
        assert other.sha256 == first.sha256
        assert not same_backbone(other.backbone, first.backbone), name
        with pytest.raises(HeadError, match="not " + first.backbone.partition("#")[2]):
            load_any_tower(f"transformers:tower@{tmp_path / name / 'tower'}#{first.backbone.partition('#')[2]}")


def test_names_of_spaces() -> None:
    plain, one, two = "timm:some_vit.tag", "timm:some_vit.tag#0123456789ab", "timm:some_vit.tag#ba9876543210"
    assert same_backbone(plain, one)
    assert same_backbone(one, plain.upper().replace("TIMM", "timm"))
    assert not same_backbone(one, two)
    assert not same_backbone(plain, "open_clip:some_vit.tag")
    assert not same_backbone(plain, "some_vit.tag")
    assert known_backbone("timm:some_vit@/data/weights.pt") == "timm:some_vit"
    assert known_backbone("transformers:/data/org-tower/") == "transformers:org-tower"
    assert same_backbone("open_clip:ViT-L-14-quickgelu/openai", "openai/clip-vit-large-patch14")  # as ever
    assert not same_backbone("open_clip:ViT-H-14/laion2b_s32b_b79k", "openai/clip-vit-large-patch14")


def test_a_repository_of_the_hub(web: Hub, tmp_path: Path) -> None:
    model, processor = saved(tmp_path / "tower", siglip)
    web.publish("org/tower", tmp_path / "tower")
    paths = write_photographs(tmp_path / "pictures")
    wanted = by_the_library(model, processor, paths)
    found = scorer_for("transformers:org/tower@main", 48)
    np.testing.assert_allclose(found.embed(paths), wanted, rtol=0, atol=1e-6)
    assert found.tower.name.startswith("transformers:org/tower#")
    sent = web.num_bytes_sent
    again = load_any_tower("transformers:org/tower", offline=True)
    assert again.backbone == found.tower.name
    assert web.num_bytes_sent == sent
    with pytest.raises(HeadError, match="offline mode is on"):
        load_any_tower("transformers:org/other", offline=True)
    with pytest.raises(HeadError, match=r"org/none has none of the files that are needed: config\.json"):
        load_any_tower("transformers:org/none")


def edited(folder: Path, file: str, **changes: Any) -> None:
    record = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(record | changes))


def test_what_is_no_tower_is_refused_in_a_line(tmp_path: Path) -> None:
    saved(tmp_path / "good", siglip)
    spec = f"transformers:{tmp_path / 'bad'}"

    def refused(match: str, name: str = spec) -> None:
        with pytest.raises(BeholderError, match=match) as caught:
            load_any_tower(name)
        assert "\n" not in str(caught.value)

    refused("bad is not there")
    shutil.copytree(tmp_path / "good", tmp_path / "bad")
    (tmp_path / "bad" / "preprocessor_config.json").unlink()
    refused("no preprocessor_config.json")
    shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
    edited(tmp_path / "bad", "preprocessor_config.json", size={"height": 64, "width": 48})
    refused("48 x 64 pixels, and beholder's towers take squares")
    edited(tmp_path / "bad", "preprocessor_config.json", size={"height": 32, "width": 32})
    refused("is no tower that takes pictures alone")
    shutil.copytree(tmp_path / "good", tmp_path / "bad", dirs_exist_ok=True)
    (tmp_path / "bad" / "model.safetensors").write_bytes(b"damaged")
    refused("transformers cannot load")
    shutil.rmtree(tmp_path / "bad")
    model, _ = saved(tmp_path / "bad", siglip)
    state = {name: tensor for name, tensor in model.state_dict().items() if "post_layernorm" not in name}
    model.save_pretrained(tmp_path / "bad", state_dict=state)
    refused("lacks 2 tensors of the image tower")
    refused("names no model", "transformers:")
    with pytest.raises(HeadError, match="its activation is its library's"):
        load_any_tower(f"transformers:{tmp_path / 'good'}", activation="gelu")
    with pytest.raises(InputError, match="--preset squash"):
        scorer_for(f"transformers:{tmp_path / 'good'}", 48, preset="squash")
    with pytest.raises(HeadError, match="a tower of transformers"):
        inspect_tower(f"transformers:{tmp_path / 'good'}")


@pytest.mark.parametrize(
    ("file", "name", "kind"),
    [
        ("config.json", "AutoConfig", "nobody-knows-it"),
        ("preprocessor_config.json", "AutoImageProcessor", "NobodyKnowsItImageProcessor"),
    ],
)
def test_code_that_comes_with_a_tower_is_never_run(file: str, name: str, kind: str, tmp_path: Path) -> None:
    folder, trace = tmp_path / "tower", tmp_path / "was_run"
    saved(folder, siglip)
    before = load_any_tower(f"transformers:{folder}").sha256
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    edited(folder, "config.json", auto_map={"AutoConfig": "own.Own", "AutoModel": "own.Own"})
    assert load_any_tower(f"transformers:{folder}").sha256 == before  # the library's own class does
    edited(
        folder, file, auto_map={name: "own.Own"}, **{"model_type" if file == "config.json" else "image_processor_type": kind}
    )
    with pytest.raises(HeadError, match="tower needs program code of its own, which is never run; give a tower of") as caught:
        load_any_tower(f"transformers:{folder}")
    assert "\n" not in str(caught.value)
    assert not trace.exists()


def test_pictures_of_several_sizes_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "tower", clip)
    edited(tmp_path / "tower", "preprocessor_config.json", do_center_crop=False)
    with pytest.raises(HeadError, match="makes pictures of different sizes"):
        load_any_tower(f"transformers:{tmp_path / 'tower'}")


def test_a_network_of_several_inputs_is_refused(tmp_path: Path) -> None:
    """NaFlex, which takes patches, their places and a mask."""
    config = transformers.Siglip2Config(text_config=TEXT | {"projection_size": 48}, vision_config={
        "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "patch_size": 16,
        "num_patches": 16,
    })  # fmt: skip
    transformers.Siglip2Model(config).save_pretrained(tmp_path / "tower")
    transformers.Siglip2ImageProcessorPil(patch_size=16, max_num_patches=16).save_pretrained(tmp_path / "tower")
    with pytest.raises(HeadError) as caught:
        load_any_tower(f"transformers:{tmp_path / 'tower'}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("library", ["timm", "open_clip"])
def test_a_library_that_is_not_installed(library: str) -> None:
    if importlib.util.find_spec(library) is not None:
        pytest.skip(f"{library} is installed")
    with pytest.raises(HeadError, match=rf"pip install 'beholder\[{library}\]'"):
        load_any_tower(f"{library}:anything")
