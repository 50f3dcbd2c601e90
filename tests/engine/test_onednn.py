"""Packed bfloat16 and int8 towers against the plain one in float32 and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beholder.engine.backends import own_tower
from beholder.engine.drift import check_pictures, score_drift
from beholder.engine.onednn import (
    FloatProduct,
    Int8Product,
    Int8Support,
    OnednnTower,
    _bf16_fault,
    find_fault,
    int8_support,
    smoothquant_factors,
)
from beholder.models.backbones import TowerShape
from beholder.models.clip import ClipVisionTower, build_tower, random_tensors, random_tower

SHAPE = TowerShape.small(image_px=56, width=128, num_layers=4, dim=64)
PIXELS = torch.from_numpy(check_pictures(56))

BF16 = find_fault("quick_gelu", int8=False) is None
INT8 = int8_support()
needs_bf16 = pytest.mark.skipif(not BF16, reason="no packed bfloat16 products on this processor")
needs_int8 = pytest.mark.skipif(not isinstance(INT8, Int8Support), reason="no fast int8 products on this processor")


def with_large_channels(factor: float) -> ClipVisionTower:
    """A tower whose tokens have three channels far larger than the others, as trained CLIP towers have."""
    tensors = random_tensors(SHAPE)
    tensors["norm_pre.weight"][[5, 50, 100]] *= factor
    tensors["norm_pre.bias"][[5, 50, 100]] += factor / 4
    return build_tower(SHAPE, "quick_gelu", tensors)


def embedded(tower: OnednnTower | ClipVisionTower, pixels: torch.Tensor = PIXELS) -> np.ndarray:
    with torch.inference_mode():
        return tower(pixels).numpy()


def int8_tower(tower: ClipVisionTower) -> OnednnTower:
    assert isinstance(INT8, Int8Support)
    return OnednnTower(tower, 8, int8=INT8)


@needs_bf16
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_packed_bf16_is_as_near_to_float32_as_the_plain_bf16_tower(activation: str) -> None:
    tower = random_tower(SHAPE, activation=activation)  # type: ignore[arg-type]
    exact = embedded(tower)
    packed = score_drift(exact, embedded(OnednnTower(tower, 8)))
    plain = score_drift(exact, embedded(own_tower(tower, torch.device("cpu"), torch.bfloat16)))
    assert 0 < packed < 1.5 * plain
    assert plain < 0.05


@needs_int8
def test_int8_stays_near_float32_also_with_large_channels() -> None:
    for factor in (1, 40):
        tower = with_large_channels(factor)
        assert 0 < score_drift(embedded(tower), embedded(int8_tower(tower))) < 0.1


def test_the_factors_are_powers_of_two_that_are_larger_for_large_channels() -> None:
    for factors in smoothquant_factors(with_large_channels(40), PIXELS[:2]):
        for values in (factors.qkv, factors.mlp_in):
            assert torch.equal(torch.exp2(torch.log2(values).round()), values)
            assert values.median() == 1
    assert smoothquant_factors(with_large_channels(40), PIXELS[:2])[0].qkv[[5, 50, 100]].min() >= 4


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_of_another_size_than_it_was_packed_for(batch: int) -> None:
    tower = random_tower(SHAPE)
    packed = [*([OnednnTower(tower, 8)] if BF16 else []), *([int8_tower(tower)] if isinstance(INT8, Int8Support) else [])]
    for either in packed:
        found = embedded(either, PIXELS[:batch])
        assert found.shape == (batch, 64)
        assert np.abs(found - embedded(tower, PIXELS[:batch])).max() < 0.05


def made_product() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(3)
    return torch.randn(20, 96, generator=make), torch.randn(40, 96, generator=make), torch.randn(40, generator=make)


def test_float_products_agree_with_float64() -> None:
    x, weight, bias = made_product()
    found = FloatProduct(weight, bias, 20, dtype=torch.float32)(x)
    assert (found - (x.double() @ weight.double().T + bias)).abs().max() < 1e-4
    if BF16:
        exact = x.bfloat16().double() @ weight.bfloat16().double().T + bias.bfloat16().double()
        assert ((FloatProduct(weight, bias, 20)(x.bfloat16()) - exact).abs() <= exact.abs() * 2.0**-8 + 1e-4).all()


@needs_int8
@pytest.mark.parametrize("zero", [0, 128])
def test_int8_products_agree_with_float64_for_all_bytes(zero: int) -> None:
    assert isinstance(INT8, Int8Support)
    _, weight, bias = made_product()
    x = torch.from_numpy(np.random.default_rng(4).integers(0, 256, (300, 96), dtype=np.uint8))
    x[0], x[1] = 255, 0
    steps = INT8.weight_steps
    for outputs, signs in ((weight, 1), (weight.abs(), 1), (-weight.abs(), -1)):  # sums as large as they can get
        product = Int8Product(outputs, bias, weight_steps=steps, zero=zero)
        rounded = (outputs.double() / outputs.double().abs().amax(dim=1, keepdim=True) * steps).round()
        exact = (x.double() - zero) @ rounded.T * (outputs.abs().amax(dim=1).double() / steps)
        largest = 255 * rounded.abs().sum(dim=1) * outputs.abs().amax(dim=1) / steps
        assert ((product(x, torch.float32) - exact).abs() <= largest * 2.0**-22).all(), signs
        assert ((product(x, INT8.between) - exact).abs() <= exact.abs() * 2.0**-8 + largest * 2.0**-22).all(), signs
        assert np.array_equal(product.bias, bias.numpy())


@needs_int8
def test_the_offset_of_unsigned_bytes_is_taken_back_by_the_bias() -> None:
    weight, raised = torch.eye(16)[:4] * 2, torch.full((1, 16), 17, dtype=torch.uint8)  # 17 steps of 0.01 = the offset
    product = Int8Product(weight, torch.tensor([0.0, 1.0, 2.0, 3.0]), offset=0.17)
    found = 0.01 * product(raised, torch.float32)[0].numpy() + product.bias
    assert found == pytest.approx([0, 1, 2, 3], abs=1e-6)


def test_int8_is_not_offered_for_gelu() -> None:
    assert "QuickGELU" in str(find_fault("gelu", int8=True))


def test_a_build_without_the_products_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    _bf16_fault.cache_clear()
    try:
        assert "no such products" in str(find_fault("quick_gelu", int8=False))
    finally:
        _bf16_fault.cache_clear()


def test_a_processor_without_its_own_bfloat16_keeps_float32_between_int8_products() -> None:
    if isinstance(INT8, Int8Support) and INT8.between == torch.bfloat16:
        assert BF16
        assert torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if isinstance(INT8, Int8Support) and INT8.weight_steps == 63:
        assert not torch.cpu._is_vnni_supported()  # with VNNI nothing overflows
