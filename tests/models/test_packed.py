"""Packed bfloat16 and int8 towers against the plain one in float32 and float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beholder.models.balance import balance
from beholder.models.clip_vit import ClipVisionTower, TowerShape, build_tower, random_tensors, random_tower
from beholder.models.packed import Bf16Product, Int8Product, PackedTower, find_fault
from beholder.models.plain import plain_tower
from beholder.models.precision import check_pictures, score_drift

SHAPE = TowerShape.small(image_px=56, width=128, num_layers=4, dim=64)
PIXELS = torch.from_numpy(check_pictures(56))

pytestmark = pytest.mark.skipif(find_fault("quick_gelu", int8=True) is not None, reason="no packed products on this processor")


def with_large_channels(factor: float) -> ClipVisionTower:
    """A tower whose tokens have three channels far larger than the others, as trained CLIP towers have."""
    tensors = random_tensors(SHAPE)
    tensors["norm_pre.weight"][[5, 50, 100]] *= factor
    tensors["norm_pre.bias"][[5, 50, 100]] += factor / 4
    return build_tower(SHAPE, "quick_gelu", tensors)


def embedded(tower: PackedTower | ClipVisionTower, pixels: torch.Tensor = PIXELS) -> np.ndarray:
    with torch.inference_mode():
        return tower(pixels).numpy()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_packed_bf16_is_as_near_to_float32_as_the_plain_bf16_tower(activation: str) -> None:
    tower = random_tower(SHAPE, activation=activation)  # type: ignore[arg-type]
    exact = embedded(tower)
    packed = score_drift(exact, embedded(PackedTower(tower, 8, int8=False)))
    plain = score_drift(exact, embedded(plain_tower(tower, torch.device("cpu"), torch.bfloat16)))
    assert 0 < packed < 1.5 * plain
    assert plain < 0.05


def test_int8_stays_near_float32_also_with_large_channels() -> None:
    for factor in (1, 40):
        tower = with_large_channels(factor)
        assert 0 < score_drift(embedded(tower), embedded(PackedTower(tower, 8, int8=True))) < 0.1


def test_without_balance_large_channels_spoil_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    tower = with_large_channels(40)
    exact, balanced = embedded(tower), embedded(PackedTower(tower, 8, int8=True))
    ones = [type(pair)(torch.ones(128), torch.ones(128)) for pair in balance(tower, PIXELS[:1])]
    monkeypatch.setattr("beholder.models.packed.balance", lambda *_: ones)
    assert score_drift(exact, embedded(PackedTower(tower, 8, int8=True))) > 2 * score_drift(exact, balanced)


def test_balance_gives_powers_of_two_that_are_larger_for_large_channels() -> None:
    for factors in balance(with_large_channels(40), PIXELS[:2]):
        for values in (factors.qkv, factors.mlp_in):
            assert torch.equal(torch.exp2(torch.log2(values).round()), values)
            assert values.median() == 1
    assert balance(with_large_channels(40), PIXELS[:2])[0].qkv[[5, 50, 100]].min() >= 4


@pytest.mark.parametrize("batch", [1, 3])
def test_batches_of_another_size_than_it_was_packed_for(batch: int) -> None:
    tower = random_tower(SHAPE)
    for int8 in (False, True):
        found = embedded(PackedTower(tower, 8, int8=int8), PIXELS[:batch])
        assert found.shape == (batch, 64)
        assert np.abs(found - embedded(tower, PIXELS[:batch])).max() < 0.05


def test_products_agree_with_float64() -> None:
    make = torch.Generator().manual_seed(3)
    x, weight, bias = torch.randn(20, 96, generator=make), torch.randn(40, 96, generator=make), torch.randn(40, generator=make)
    exact = x.bfloat16().double() @ weight.bfloat16().double().T + bias.bfloat16().double()
    assert ((Bf16Product(weight, bias, 20)(x.bfloat16()) - exact).abs() <= exact.abs() * 2.0**-8 + 1e-4).all()
    signed = torch.randint(-127, 128, (20, 96), generator=make, dtype=torch.int8)
    product = Int8Product(weight, bias)
    rounding = 127 * 96 * 0.5 * weight.abs().amax(dim=1) / 127  # every weight is half a step off at most
    found = product(signed, torch.float32)
    assert ((found - signed.double() @ weight.double().T).abs() <= rounding).all()
    assert np.array_equal(product.bias, bias.numpy())


def test_the_offset_of_unsigned_bytes_is_taken_back_by_the_bias() -> None:
    weight, raised = torch.eye(16)[:4] * 2, torch.full((1, 16), 17, dtype=torch.uint8)  # 17 steps of 0.01 = the offset
    product = Int8Product(weight, torch.tensor([0.0, 1.0, 2.0, 3.0]), offset=0.17)
    found = 0.01 * product(raised, torch.float32)[0].numpy() + product.bias
    assert found == pytest.approx([0, 1, 2, 3], abs=1e-6)


def test_int8_is_not_offered_for_gelu() -> None:
    assert find_fault("gelu", int8=False) is None
    assert "QuickGELU" in str(find_fault("gelu", int8=True))


def test_a_build_without_the_products_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute '_linear_pointwise'")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", missing)
    assert "no such products" in str(find_fault("quick_gelu", int8=False))
