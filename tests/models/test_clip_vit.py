"""The tower's numbers: against transformers, against a float64 copy of itself, and against finite differences."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers
from torch import Tensor

from beholder.errors import BeholderError
from beholder.models.backbones import SHAPES, TowerShape
from beholder.models.clip import ClipVisionTower, build_tower, folded_patch, random_tensors, random_tower
from beholder.models.tower_layouts import canonical_shapes
from oracles.checkpoints import CLIP_MEAN, CLIP_STD, hf_state

TOLERANCE = 2e-5
"""Largest difference to transformers in float32; embeddings of these towers have a spread of about 1."""
SMALL = {
    "one block": TowerShape.small(num_layers=1),
    "L/14 in small": TowerShape.small(image_px=56, num_layers=3),
    "B/32 in small": TowerShape.small(image_px=96, patch_px=32, width=192, dim=48),
    "wide MLP": dataclasses.replace(TowerShape.small(image_px=15, patch_px=5), mlp_width=200),
    "one patch": TowerShape.small(image_px=8, patch_px=8, width=64, dim=1),
}


def pixels(shape: TowerShape, num: int, seed: int = 0) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, shape.image_px, shape.image_px, 3), dtype=torch.uint8, generator=make)


def normalised(pictures: Tensor) -> Tensor:
    """What the processors of other libraries give: (B, 3, S, S) float32."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - mean) / std


def reference(shape: TowerShape, tensors: dict[str, Tensor], hidden_act: str = "quick_gelu") -> torch.nn.Module:
    """Transformers' tower with the same tensors, shared where they need not be cut."""
    config = transformers.CLIPVisionConfig(
        hidden_size=shape.width, intermediate_size=shape.mlp_width, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads, image_size=shape.image_px, patch_size=shape.patch_px, projection_dim=shape.dim,
        hidden_act=hidden_act,
    )  # fmt: skip
    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(config)
    model.load_state_dict(hf_state(tensors), strict=True, assign=True)
    embeddings = model.vision_model.embeddings
    embeddings.register_buffer("position_ids", torch.arange(shape.num_tokens)[None], persistent=False)
    return model.eval()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
@pytest.mark.parametrize("name", SMALL)
def test_small_towers_against_transformers(name: str, activation: str) -> None:
    shape = SMALL[name]
    tensors = random_tensors(shape, seed=3)
    tower, theirs = build_tower(shape, activation, tensors), reference(shape, tensors, activation)  # type: ignore[arg-type]
    for num in (1, 7):
        found = theirs(normalised(pixels(shape, num)))
        with torch.inference_mode():
            embeddings = tower(pixels(shape, num))
            assert embeddings.shape == (num, shape.dim)
            assert embeddings.dtype == torch.float32
            assert (embeddings - found.image_embeds).abs().max() < TOLERANCE
            pooled = theirs.vision_model(normalised(pixels(shape, num))).pooler_output
            assert (tower.hidden(pixels(shape, num)) - pooled).abs().max() < TOLERANCE
    assert found.image_embeds.std() > 0.3, "the tolerance was set for embeddings of this size"


def test_the_activation_matters() -> None:
    shape = SMALL["L/14 in small"]
    quick, plain = (random_tower(shape, 1, activation) for activation in ("quick_gelu", "gelu"))  # type: ignore[arg-type]
    assert (quick(pixels(shape, 2)) - plain(pixels(shape, 2))).abs().max() > 100 * TOLERANCE


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_the_published_shapes_against_transformers() -> None:
    """All four in full size. L/14@336 and B/16 take over the blocks of L/14 and B/32, which saves making them again."""
    tensors: dict[str, Tensor] = {}
    for name in ("base-patch32", "base-patch16", "large-patch14", "large-patch14-336"):
        shape = SHAPES[f"openai/clip-vit-{name}"]
        wanted = canonical_shapes(shape)
        if not tensors or wanted["norm_pre.weight"] != tuple(tensors["norm_pre.weight"].shape):
            tensors.clear()
            tensors = random_tensors(shape, seed=5)
        for key in ("patch.weight", "positions"):
            if tuple(tensors[key].shape) != wanted[key]:
                tensors[key] = torch.empty(wanted[key]).uniform_(-0.05, 0.05, generator=torch.Generator().manual_seed(6))
        assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == wanted
        pictures = pixels(shape, 2 if shape.image_px == 224 else 1)
        with torch.inference_mode():
            ours = build_tower(shape, "quick_gelu", tensors)(pictures)
            theirs = reference(shape, tensors)(normalised(pictures)).image_embeds
        assert ours.std() > 0.3
        assert (ours - theirs).abs().max() < TOLERANCE, name


def test_published_sizes() -> None:
    """Parameters of the image tower as counted from the published architectures (with no bias on patches and projection)."""
    counts = {
        "base-patch32": 87_849_216, "base-patch16": 86_192_640, "large-patch14": 303_966_208, "large-patch14-336": 304_293_888,
    }  # fmt: skip
    for name, count in counts.items():
        shape = SHAPES[f"openai/clip-vit-{name}"]
        assert sum(torch.Size(size).numel() for size in canonical_shapes(shape).values()) == count
    shape = SHAPES["openai/clip-vit-large-patch14"]
    assert (shape.num_patches, shape.num_tokens) == (256, 257)
    # By hand: patches; keys and values of 24 blocks; queries, out, MLP and attention of 23*257+1 tokens; projection.
    assert shape.num_macs == 256 * 588 * 1024 + 24 * 257 * 2 * 1024**2 + (23 * 257 + 1) * (
        2 * 1024**2 + 8 * 1024**2 + 2 * 257 * 1024
    ) + 1024 * 768  # fmt: skip


def test_sizes_that_make_no_tower() -> None:
    for wrong in ({"image_px": 30}, {"width": 100, "num_heads": 3}, {"num_layers": 0}, {"dim": 0}):
        with pytest.raises(BeholderError, match="tower's"):
            dataclasses.replace(TowerShape.small(), **wrong)


def test_an_empty_batch_and_wrong_pixels() -> None:
    shape = SMALL["one block"]
    tower = random_tower(shape)
    assert tower(pixels(shape, 0)).shape == (0, shape.dim)
    assert tower.hidden(pixels(shape, 0)).shape == (0, shape.width)
    assert tower.embed_images(torch.zeros(0, 3, 28, 28)).shape == (0, shape.dim)
    with pytest.raises(ValueError, match="28 x 28 x 3"):
        tower(torch.zeros(1, 3, 28, 28, dtype=torch.uint8))
    with pytest.raises(ValueError, match="28 x 28 x 3"):
        tower(torch.zeros(1, 14, 28, 3, dtype=torch.uint8))


def test_a_picture_has_the_same_embedding_in_any_batch() -> None:
    shape = SMALL["L/14 in small"]
    tower, pictures = random_tower(shape), pixels(shape, 9)
    with torch.inference_mode():
        together = tower(pictures)
        alone = torch.cat([tower(pictures[i : i + 1]) for i in range(9)])
    assert (together - alone).abs().max() < 1e-5


def test_the_last_block_is_asked_for_the_class_token_alone() -> None:
    shape = SMALL["L/14 in small"]
    tower = random_tower(shape).double()
    with torch.inference_mode():
        x = tower.tokens(tower.centred(pixels(shape, 2)))
        for block in tower.blocks:
            whole, first = block(x), block.forward_first(x)
            assert (whole[:, :1] - first).abs().max() < 1e-12
            x = whole
        assert (tower.projection(tower.norm_post(x[:, 0])) - tower(pixels(shape, 2))).abs().max() < 1e-12


def test_normalisation_is_folded_exactly() -> None:
    """The folded Linear on uint8 - 128 against the convolution on normalised pixels, both in float64."""
    make = torch.Generator().manual_seed(1)
    weight, pictures = torch.randn(6, 3, 7, 7, generator=make), pixels(TowerShape.small(image_px=21, patch_px=7), 2)
    folded, bias = folded_patch(weight)
    mean, std = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    images = (pictures.permute(0, 3, 1, 2).double() / 255 - mean) / std
    wanted = torch.nn.functional.conv2d(images, weight.double(), stride=7).flatten(2).transpose(1, 2)
    patches = (pictures.double() - 128).reshape(2, 3, 7, 3, 7, 3).transpose(2, 3).reshape(2, 9, 147)
    found = patches @ folded.double().T + bias.double()
    assert (found - wanted).abs().max() < 1e-5  # the folded weights themselves are rounded to float32


def test_pixels_are_exact_in_bfloat16() -> None:
    tower = random_tower(SMALL["one block"]).bfloat16()
    every = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(tower.centred(every).double(), every.double() - 128)


def test_a_bias_of_the_projection_is_kept() -> None:
    shape = SMALL["one block"]
    tensors = random_tensors(shape)
    bias = torch.linspace(-1, 1, shape.dim)
    without = build_tower(shape, "quick_gelu", tensors)(pixels(shape, 3))
    found = build_tower(shape, "quick_gelu", {**tensors, "projection.bias": bias})(pixels(shape, 3))
    assert (found - without - bias).abs().max() < 1e-6


def test_float_images_give_the_same_as_pixels() -> None:
    shape = SMALL["L/14 in small"]
    tower, pictures = random_tower(shape), pixels(shape, 3)
    images = pictures.permute(0, 3, 1, 2).float() / 255
    assert (tower(pictures) - tower.embed_images(images)).abs().max() < TOLERANCE


def test_the_gradient_against_finite_differences() -> None:
    shape = TowerShape.small(image_px=10, patch_px=5, width=64, num_layers=2, dim=4)
    tower = random_tower(shape, seed=2).double()
    make = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, 10, 10, dtype=torch.float64, generator=make).requires_grad_()
    weights = torch.randn(2, 4, dtype=torch.float64, generator=make)
    assert tower.embed_images(images).dtype == torch.float64
    (gradient,) = torch.autograd.grad((tower.embed_images(images) * weights).sum(), images)
    assert gradient.abs().max() > 1e-3
    step = 1e-6
    for _ in range(20):
        direction = torch.randn(images.shape, dtype=torch.float64, generator=make)
        ahead, behind = ((tower.embed_images(images + sign * step * direction) * weights).sum() for sign in (1, -1))
        wanted = (ahead - behind) / (2 * step)
        assert abs(float(((gradient * direction).sum() - wanted).detach())) < 1e-6 * max(1.0, abs(float(wanted.detach())))


def test_weights_are_frozen_shared_and_saved() -> None:
    shape = SMALL["one block"]
    tensors = random_tensors(shape)
    tower = build_tower(shape, "quick_gelu", tensors)
    assert not tower.training
    assert not any(parameter.requires_grad for parameter in tower.parameters())
    weight = tower.state_dict()["blocks.0.mlp_in.weight"]
    assert weight.data_ptr() == tensors["blocks.0.mlp_in.weight"].data_ptr(), "copied"
    other = ClipVisionTower(shape)
    other.load_state_dict(tower.state_dict())
    assert (other(pixels(shape, 2)) - tower(pixels(shape, 2))).abs().max() < 1e-5


def test_random_towers_are_the_same_every_time() -> None:
    shape = SMALL["one block"]
    assert all(torch.equal(tensor, random_tensors(shape, 4)[name]) for name, tensor in random_tensors(shape, 4).items())
    assert not torch.equal(random_tower(shape, 4).positions, random_tower(shape, 5).positions)
