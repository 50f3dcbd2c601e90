"""The tables of heads, backbones and published shares."""

from __future__ import annotations

import hashlib
from itertools import combinations
from pathlib import Path

import pytest

from beholder.models import backbones, catalog, published

L14 = "openai/clip-vit-large-patch14"


def test_sha256_and_size_are_those_of_the_files(shared_models: Path) -> None:
    for entry in catalog.HEADS:
        data = (shared_models / entry.files[0]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == entry.sha256, entry.name
        assert len(data) == entry.num_bytes, entry.name


def test_the_nine_heads_and_the_seven_repackaged_ones_are_all_there() -> None:
    assert len(catalog.HEADS) == 9
    assert len(catalog.BUNDLES) == 7
    assert len({entry.sha256 for entry in catalog.HEADS}) == 9
    assert all(entry.sha256 is None and entry.num_bytes is None for entry in catalog.BUNDLES)
    assert catalog.find(catalog.DEFAULT_HEAD) is catalog.HEADS[0]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sac+logos+ava1-l14-linearMSE", "sac+logos+ava1-l14-linearMSE"),
        ("SAC+logos+ava1-l14-linearmse.pth", "sac+logos+ava1-l14-linearMSE"),
        ("openai-clip_aesthetic-predictor", "sac+logos+ava1-l14-linearMSE"),
        ("openai-clip_aesthetic-predictor.pt", "sac+logos+ava1-l14-linearMSE"),
        ("birder-project/aesthetic-predictor", "sac+logos+ava1-l14-linearMSE"),
        ("laion-v2", "sac+logos+ava1-l14-linearMSE"),
        (" laion-v1 ", "sa_0_4_vit_l_14_linear"),
        ("simulacra-b_16", "sac_public_2022_06_29_vit_b_16_linear"),
        ("ttj/sac-logos-ava1-l14-linearMSE", "ttj/sac-logos-ava1-l14-linearMSE"),
    ],
)
def test_find(name: str, expected: str) -> None:
    entry = catalog.find(name)
    assert entry is not None
    assert entry.name == expected


def test_no_name_stands_for_two_heads() -> None:
    names = {
        entry.name: {name.casefold() for name in (entry.name, *entry.aliases)} for entry in (*catalog.HEADS, *catalog.BUNDLES)
    }
    for (one, its), (other, others) in combinations(names.items(), 2):
        assert not its & others, (one, other)


@pytest.mark.parametrize("name", ["", "laion-v3", "model.safetensors", "model", "sac"])
def test_unknown_names_are_not_guessed(name: str) -> None:
    assert catalog.find(name) is None


def test_near_misses_are_suggested() -> None:
    assert catalog.suggestions("sac+logos+ava-l14-linearMSE")[0] == "sac+logos+ava1-l14-linearMSE"
    assert catalog.suggestions("sa_0_4_vit_l14_linear")[0] == "sa_0_4_vit_l_14_linear"
    assert catalog.suggestions("zzzzqqqq") == []


def test_refused_heads_have_a_reason() -> None:
    refused = catalog.find_refused("discus0434/aesthetic-predictor-v2-5")
    assert refused is not None
    assert "1152" in refused.reason
    assert "AGPL" in refused.reason
    assert catalog.find("aesthetic_predictor_v2_5.pth") is None
    found = catalog.refused_by_sha256("a6caf256b3dc434273c98dcb12f6bf17c5d4fc647d8df11f038386923dd06220")
    assert found is refused
    assert catalog.refused_by_sha256("0" * 64) is None
    assert catalog.find_refused("rockerBOO/candle-aesthetic-predictor") is not None


def test_every_backbone_has_the_dimension_its_heads_need() -> None:
    for entry in (*catalog.HEADS, *catalog.BUNDLES):
        backbone = backbones.find_backbone(entry.backbone)
        assert backbone is not None
        assert backbone.id == entry.backbone
        assert backbone.dim == entry.dim


@pytest.mark.parametrize(
    "name",
    [L14, "ViT-L/14", "vit-l/14", "clip:ViT-L/14", "vit_l14_pn_quick_gelu_openai-clip", "ViT-L-14-quickgelu/openai"],
)
def test_aliases_of_the_large_tower(name: str) -> None:
    assert backbones.canonical_backbone(name) == L14
    assert backbones.same_backbone(name, L14)


@pytest.mark.parametrize(
    "name",
    [
        "openai/clip-vit-large-patch14-336",
        "ViT-L/14@336px",
        "ViT-B/32",
        "ViT-L-14/openai",
        "vit_large_patch14_clip_224.openai",
        "laion/CLIP-ViT-L-14-laion2B-s32B-b82K",
        "",
    ],
)
def test_other_towers_and_wrong_activations_are_not_the_large_tower(name: str) -> None:
    assert backbones.canonical_backbone(name) != L14
    assert not backbones.same_backbone(name, L14)


def test_unknown_backbones_are_the_same_only_when_spelt_alike() -> None:
    assert backbones.canonical_backbone("my/tower") is None
    assert backbones.same_backbone("my/tower", "My/Tower ")
    assert not backbones.same_backbone("my/tower", "my/other")


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ((14, 257, 1024, 768), L14),
        ((14, 577, 1024, 768), "openai/clip-vit-large-patch14-336"),
        ((32, 50, 768, 512), "openai/clip-vit-base-patch32"),
        ((16, 197, 768, 512), "openai/clip-vit-base-patch16"),
        ((14, 257, 1024, 512), None),
        ((14, 730, 1152, 1152), None),
    ],
)
def test_towers_by_size(sizes: tuple[int, int, int, int], expected: str | None) -> None:
    patch, tokens, width, dim = sizes
    assert backbones.backbone_of_tower(patch, tokens, width, dim) == expected


@pytest.mark.parametrize(
    ("threshold", "share"),
    [(4.5, 0.51), (4.75, 0.40), (5, 0.25), (6, 0.0051), (6.25, 0.0013), (6.5, 0.00026)],
)
def test_published_shares_of_v2(threshold: float, share: float) -> None:
    found = published.published_share_at_least("laion-v2", threshold)
    assert found is not None
    assert float(f"{found:.2g}") == share


def test_published_shares_of_v1_come_from_its_unit_buckets() -> None:
    # By hand: 2.66+25.62+147.55+410.18+656.38+601.73+271.19+51.43+3.35+0.05 = 2170.14 million pictures;
    # 51.43+3.35+0.05 = 54.83 of them at 7 or more, 3.40 at 8 or more.
    assert published.published_share_at_least("sa_0_4_vit_l_14_linear", 7.0) == pytest.approx(54.83 / 2170.14, rel=1e-12)
    assert published.published_share_at_least("laion-v1", 8) == pytest.approx(3.40 / 2170.14, rel=1e-12)
    assert published.published_share_at_least("laion-v1", 1) == pytest.approx(1 - 2.66 / 2170.14, rel=1e-12)
    shares = list(published.published_shares("laion-v1").values())
    assert shares == sorted(shares, reverse=True)
    assert len(shares) == 9


@pytest.mark.parametrize(
    ("head", "threshold"),
    [
        ("laion-v2", 5.5),
        ("laion-v2", 4.51),
        ("laion-v1", 6.5),
        ("laion-v1", 0),
        ("laion-v1", 10),
        ("ava+logos-l14-linearMSE", 5),
        ("laion-v1-b_32", 5),
        ("nobody's head", 5),
        ("", 5),
    ],
)
def test_nothing_is_made_up_where_nothing_was_published(head: str, threshold: float) -> None:
    assert published.published_share_at_least(head, threshold) is None


def test_a_repackaged_head_has_the_shares_of_its_original() -> None:
    twin = published.published_share_at_least("ttj/sac-logos-ava1-l14-linearMSE", 5.0)
    assert twin == published.published_share_at_least("laion-v2", 5.0) == 600 / 2370
