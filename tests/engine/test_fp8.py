"""float8 products against e4m3 rounded by hand in float64, and what the self-check makes of their drift.

Without a card the product of two float8 matrices is computed in float64 from the very bytes and scales that the card would get.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from beholder import Head
from beholder.engine import MAX_DRIFT
from beholder.engine.backends import candidates, own_tower
from beholder.engine.drift import check_pictures, score_drift
from beholder.engine.engine import Engine
from beholder.engine.fp8 import Fp8Product, product_fault, rounded_rows, with_fp8_products
from beholder.engine.self_check import refuse_drift
from beholder.errors import BeholderError
from beholder.kernels.scoring import Affine
from beholder.models.backbones import TowerShape
from beholder.models.clip import random_tower

SHAPE = TowerShape.small(image_px=56, patch_px=14, width=64, num_layers=4, dim=24)
Floats = npt.NDArray[np.float64]


def e4m3(value: float) -> float:
    """The nearest number of e4m3, ties to even: 3 bits behind the point, exponents from -6, at most 448."""
    if value == 0.0:
        return 0.0
    exponent = max(math.frexp(abs(value))[1] - 1, -6)
    step = 2.0 ** (exponent - 3)
    return math.copysign(min(round(abs(value) / step) * step, 448.0), value)


def by_hand(rows: Floats) -> tuple[Floats, Floats]:
    """Rows rounded to e4m3, and their scales, (M, 1)."""
    scales = np.float32(np.maximum(np.abs(rows).max(axis=1, keepdims=True) / 448.0, 1e-12)).astype(np.float64)
    divided = (rows.astype(np.float32) / scales.astype(np.float32)).astype(np.float64)
    return np.vectorize(e4m3)(divided), scales


class SlowProduct(Fp8Product):
    """The product in float64, of the bytes and scales that the card would get."""

    def product(self, small: Tensor, scales: Tensor) -> Tensor:
        """As of `Fp8Product`."""
        exact = (small.double() @ self.weight.double().t()) * scales.double() * self.scales.double() + self.bias.double()
        return exact.to(torch.bfloat16)


@pytest.mark.parametrize("size", [(1, 1), (3, 16), (17, 33)])
def test_rows_are_rounded_to_e4m3_with_a_scale_each(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal(size).astype(np.float32).astype(np.float64) * 10.0 ** rng.integers(-8, 8, (size[0], 1))
    rows = rows.astype(np.float32).astype(np.float64)
    rows[-1] = 0.0
    small, scales = rounded_rows(torch.from_numpy(rows).float())
    wanted, wanted_scales = by_hand(rows)
    assert small.dtype == torch.float8_e4m3fn
    np.testing.assert_allclose(scales.double().numpy(), wanted_scales, rtol=1.2e-7)
    np.testing.assert_array_equal(small.double().numpy(), wanted)
    error = np.abs(small.double().numpy() * scales.double().numpy() - rows)
    assert (error <= np.abs(rows).max(axis=1, keepdims=True) / 448 * 16 * 1.001).all()  # half of 32, the step at 448


def test_a_product_is_that_of_its_rounded_rows() -> None:
    rng = np.random.default_rng(8)
    linear = nn.Linear(48, 32).requires_grad_(False).to(torch.bfloat16)
    x = torch.from_numpy(rng.standard_normal((2, 5, 48)) * [[[3.0]], [[0.01]]]).to(torch.bfloat16)
    found = SlowProduct(linear)(x)
    assert found.shape == (2, 5, 32)
    assert found.dtype == torch.bfloat16
    left, left_scales = by_hand(x.double().numpy().reshape(10, 48))
    right, right_scales = by_hand(linear.weight.double().numpy())
    wanted = (left * left_scales) @ (right * right_scales).T + linear.bias.double().numpy()
    np.testing.assert_allclose(found.double().numpy().reshape(10, 32), wanted, rtol=2.0**-8, atol=1e-6)
    exact = x.double().numpy().reshape(10, 48) @ linear.weight.double().numpy().T + linear.bias.double().numpy()
    assert 1e-3 < np.abs(wanted - exact).max() < 0.1 * np.abs(exact).max()


def embedded_in_fp8() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """The check pictures' embeddings in float32 and in float8."""
    tower = random_tower(SHAPE, seed=1)
    pictures = torch.from_numpy(check_pictures(SHAPE.image_px))
    slow = with_fp8_products(own_tower(tower, torch.device("cpu"), torch.bfloat16), SlowProduct)
    assert sum(isinstance(module, SlowProduct) for module in slow.modules()) == 4 * (SHAPE.num_layers - 1)
    assert not any(isinstance(module, Fp8Product) for module in tower.modules())
    with torch.inference_mode():
        return tower(pictures).numpy(), slow(pictures).numpy()


def test_the_self_check_refuses_what_moves_scores_too_far() -> None:
    exact, found = embedded_in_fp8()
    unit = [(rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float64) for rows in (exact, found)]
    direction = np.random.default_rng(2).standard_normal(SHAPE.dim)
    moved = np.abs((unit[1] - unit[0]) @ direction).max()
    for factor, is_refused in ((0.9, False), (1.1, True)):
        head = Head(name="one", math=Affine(direction * (factor * MAX_DRIFT / moved), 5.0))
        drift = score_drift(exact, found, [head])
        assert drift == pytest.approx(factor * MAX_DRIFT, rel=1e-3)
        if is_refused:
            with pytest.raises(BeholderError, match=r"--precision fp8: would move scores by 0\.022, over 0\.02; choose bf16"):
                refuse_drift("fp8", {"fp32": 0.0, "fp8": drift})
        else:
            refuse_drift("fp8", {"fp32": 0.0, "fp8": drift})
    with pytest.raises(BeholderError, match="could not be checked"):
        refuse_drift("fp8", {"fp32": 0.0})
    with pytest.raises(BeholderError, match="nan"):
        refuse_drift("fp8", {"fp8": float("nan")})


def test_a_product_that_fails_is_a_line_and_no_exception() -> None:
    """Whatever torch raises, as here where there is nothing to compute with."""
    fault = product_fault(torch.device("meta"))
    assert fault is not None
    assert fault.startswith(f"torch {torch.__version__} cannot do float8 products here (")
    assert "\n" not in fault


def test_the_parts_of_a_product_move_with_it() -> None:
    product = Fp8Product(torch.nn.Linear(48, 32))
    assert {name: (tuple(part.shape), part.dtype) for name, part in product.named_buffers()} == {
        "weight": ((32, 48), torch.float8_e4m3fn), "scales": ((1, 32), torch.float32), "bias": ((32,), torch.bfloat16),
    }  # fmt: skip
    assert not list(product.parameters())


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_auto_never_tries_it(device: str) -> None:
    assert "fp8" not in candidates(torch.device(device), random_tower(SHAPE))


def test_a_processor_has_none() -> None:
    with pytest.raises(BeholderError) as refused:
        Engine(random_tower(SHAPE), device="cpu", precision="fp8")
    assert str(refused.value) == "--precision fp8: not on cpu; choose one of fp32, bf16, fp16, int8 or auto"
