"""The passes between products against float64, and against torch's own rounding to bfloat16."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from beholder.kernels import tokens

EPS = np.float32(1e-5)


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits by torch."""
    return torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy()


def wide(bits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(bits).view(torch.bfloat16).float().numpy()


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def layer_norm(x: np.ndarray, gain: np.ndarray, shift: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * gain + shift


@pytest.mark.parametrize("shape", [(0, 64), (1, 64), (3, 100), (5, 1024)])
def test_norms_agree_with_float64(shape: tuple[int, int]) -> None:
    rows, width = shape
    x, branch, gain, shift = random(*shape) * 3 + 1, bf16(random(*shape, seed=1)), random(width, seed=2), random(width, seed=3)
    exact, summed = layer_norm(x, gain, shift), x + wide(branch)
    out, stored, scale = np.empty(shape, np.int16), np.empty(shape, np.uint8), np.empty(rows, np.float32)

    def told_by_bytes() -> np.ndarray:
        return (stored.astype(np.float64) - 128) * scale[:, None]

    tokens.norm(x, None, gain, shift, EPS, out)
    assert np.all(np.abs(wide(out) - exact) <= np.abs(exact) * 2.0**-8 + 1e-5)
    floats = np.empty(shape, np.float32)
    tokens.norm(x, None, gain, shift, EPS, floats)
    assert np.all(np.abs(floats - exact) <= 1e-5)
    tokens.norm_to_bytes(x, None, gain, shift, EPS, stored, scale)
    assert np.all(np.abs(told_by_bytes() - exact) <= 0.501 * scale[:, None] + 1e-5)
    assert np.all(np.abs(stored.astype(int) - 128).max(axis=1, initial=0) == (127 if rows else 0))

    after = x.copy()
    tokens.norm(after, branch, gain, shift, EPS, out)
    exact = layer_norm(summed, gain, shift)
    assert np.array_equal(after, summed)
    assert np.all(np.abs(wide(out) - exact) <= np.abs(exact) * 2.0**-8 + 1e-5)
    after = x.copy()
    tokens.norm_to_bytes(after, branch, gain, shift, EPS, stored, scale)
    assert np.array_equal(after, summed)
    assert np.all(np.abs(told_by_bytes() - exact) <= 0.501 * scale[:, None] + 1e-5)
    for either in (branch, wide(branch)):
        after = x.copy()
        tokens.add_branch(after, either)
        assert np.array_equal(after, summed)


def test_rounding_to_bfloat16_is_torchs_for_ties_and_extremes() -> None:
    bits = np.arange(0, 2**32, 65_537 // 3, dtype=np.uint32)
    ties = np.arange(0x8000, 2**32, 2**16, dtype=np.uint32)
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.isfinite(values)][np.newaxis]
    product = np.zeros(values.shape, np.int16)
    tokens.scale_rows(product, np.ones(1, np.float32), values[0])  # 1 * 0 + value
    expected = bf16(values)
    same = (product == expected) | ((values == 0) & (wide(product) == 0))
    assert same.all()


def test_rows_of_float32_are_scaled_without_rounding_to_bfloat16() -> None:
    product, bias = np.float32([[1.0001, 2.0002]]), np.float32([0.5, 0.25])
    tokens.scale_rows(product, np.float32([2.0]), bias)
    assert product[0] == pytest.approx([2.5002, 4.2504], abs=1e-6)


def test_quick_gelu_in_bytes_is_within_half_a_step_of_float64() -> None:
    product = bf16(np.linspace(-60, 60, 4096, dtype=np.float32)[np.newaxis].repeat(3, 0) * np.float32([[1], [0.1], [3]]))
    scale, bias = np.float32([1, 0.5, 2]), random(4096)
    x = wide(product).astype(np.float64) * scale[:, None] + bias
    with np.errstate(over="ignore"):
        exact = x / (1 + np.exp(-1.702 * x))
    assert exact.min() > -tokens.OFFSET  # the least value fits into the bytes
    for either in (product, wide(product)):
        out, out_scale = np.empty(product.shape, np.uint8), np.empty(3, np.float32)
        tokens.quick_gelu_to_bytes(either, scale, bias, out, out_scale)
        found = out * out_scale[:, None].astype(np.float64) - tokens.OFFSET
        assert np.all(np.abs(found - exact) <= 0.502 * out_scale[:, None])


def test_rows_that_are_all_zero_give_zero_and_not_nan() -> None:
    stored, scale = np.empty((1, 8), np.uint8), np.empty(1, np.float32)
    zeros = np.zeros((1, 8), np.float32)
    tokens.norm_to_bytes(zeros, None, np.ones(8, np.float32), zeros[0], EPS, stored, scale)
    assert (stored == tokens.ZERO).all()
    assert scale[0] == 0


def test_a_scaled_product_is_added_with_its_bias() -> None:
    x, product, scale, bias = random(3, 40), random(3, 40, seed=1), random(3, seed=2), random(40, seed=3)
    expected = x.astype(np.float64) + scale[:, None].astype(np.float64) * product + bias
    tokens.add_scaled(x, product, scale, bias)
    assert np.abs(x - expected).max() < 1e-6
