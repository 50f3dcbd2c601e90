"""Matrix products in float8 (e4m3: 4 bits of exponent, 3 of mantissa) with a scale for each row of tokens and of weights.

The format is that of "FP8 Formats for Deep Learning" (Micikevicius et al., https://arxiv.org/abs/2209.05433). Rows are divided
by their largest magnitude / 448, e4m3's largest number, and the product gets both scales. Weights are rounded once,
tokens anew for each product. Sums are kept inside the card.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from beholder.errors import BeholderError, text_of
from beholder.models.clip import ClipVisionTower

LARGEST = 448.0
"""Of e4m3's numbers."""
_LEAST_SCALE = 1e-12
_MULTIPLE = 16
"""Both sides of a product must be a multiple of this."""
LEAST_CAPABILITY = (8, 9)


def fp8_fault(tower: ClipVisionTower, device: torch.device) -> str | None:
    """Why a tower cannot have such products on a device; None where it can."""
    if device.type != "cuda":
        return f"not on {device.type}"
    major, minor = torch.cuda.get_device_capability(device)
    if (major, minor) < LEAST_CAPABILITY:
        return f"this card has no float8 products (compute capability {major}.{minor}; 8.9 is needed)"
    if not hasattr(torch, "_scaled_mm"):
        return f"torch {torch.__version__} has no float8 products"
    shape = tower.shape
    if shape.width % _MULTIPLE or shape.mlp_width % _MULTIPLE:
        return f"the tower's widths ({shape.width}, {shape.mlp_width}) are no multiples of {_MULTIPLE}"
    return product_fault(device)


def product_fault(device: torch.device) -> str | None:
    """Why a small product fails there, in one line; None where it does not. Builds differ in which scales they take."""
    try:
        linear = nn.Linear(_MULTIPLE, _MULTIPLE, device=device)
        x = torch.ones(_MULTIPLE, _MULTIPLE, dtype=torch.bfloat16, device=device)
        with torch.inference_mode():
            Fp8Product(linear)(x).cpu()  # (waits for the card, which tells of some failures late)
    except Exception as error:  # what torch raises here differs from version to version
        return f"torch {torch.__version__} cannot do float8 products here ({text_of(error)})"
    return None


def rounded_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """(M, K) float -> (M, K) float8 e4m3 and its scales, (M, 1) float32: x is about the product of both."""
    wide = x.float()
    scales = (wide.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(_LEAST_SCALE)  # [M, 1]
    return (wide / scales).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn), scales


class Fp8Product(nn.Module):
    """What a Linear computes, in float8: (..., K) bfloat16 -> (..., N) bfloat16."""

    weight: Tensor
    scales: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """Round the weights (N, K) of `linear`, one scale for each output."""
        super().__init__()
        small, scales = rounded_rows(linear.weight.detach())
        self.register_buffer("weight", small)  # [N, K]
        self.register_buffer("scales", scales.t().contiguous())  # [1, N]
        self.register_buffer("bias", linear.bias.detach().to(torch.bfloat16))

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) -> (..., N)."""
        small, scales = rounded_rows(x.reshape(-1, x.shape[-1]))
        found: Tensor = self.product(small, scales)
        return found.reshape(*x.shape[:-1], -1)

    def product(self, small: Tensor, scales: Tensor) -> Tensor:
        """(M, K) float8 and (M, 1) float32 -> (M, N) bfloat16, on a card that has it."""
        found: Tensor = torch._scaled_mm(
            small, self.weight.t(), scale_a=scales, scale_b=self.scales, bias=self.bias, out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )  # fmt: skip
        return found


def with_fp8_products(tower: ClipVisionTower, make: type[Fp8Product] = Fp8Product) -> ClipVisionTower:
    """The tower, whose products are bfloat16, with those of all blocks but the last in float8; it is changed in place.

    The last block computes one token of each picture and is left as it is, and so is the patch embedding. Raises BeholderError
    for a tower whose blocks have other products.
    """
    for block in tower.blocks[:-1]:
        for owner, name in ((block.attn, "qkv"), (block.attn, "out"), (block, "mlp_in"), (block, "mlp_out")):
            linear = getattr(owner, name)
            if not isinstance(linear, nn.Linear):
                raise BeholderError(f"--precision fp8: {name} of this tower is no matrix product; choose bf16 or auto")
            setattr(owner, name, make(linear))
    return tower
