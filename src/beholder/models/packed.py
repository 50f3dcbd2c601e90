"""A float32 tower in, the same tower for a processor's cores out: packed bfloat16 or int8 products with fused ends.

Products are oneDNN's, with weights laid out once for its kernels. They are operations that torch keeps for its own compiler
(`mkldnn._linear_pointwise`, `onednn.qlinear_pointwise`; used as in torch/_inductor/mkldnn_ir.py); `find_fault` says whether
this build and processor have them. Between products, tokens stay float32 (see `plain.plain_tower`) and one compiled pass
adds, normalises and rounds (`kernels.tokens`). The class token of the last block is computed in float32.

int8: weights have a scale for each output, tokens one for each row, found on the way. Attention and its output's product are
bfloat16.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from beholder.kernels import tokens as kernels
from beholder.models.balance import BlockBalance, balance
from beholder.models.clip_vit import PIXEL_CENTRE, Block, ClipVisionTower
from beholder.models.precision import check_pictures
from beholder.models.tower_shape import LAYER_NORM_EPS, TowerShape

_EPS = np.float32(LAYER_NORM_EPS)
_QUICK_GELU_FACTOR = 1.702
"""QuickGELU(x) = silu(1.702 x) / 1.702: the factor goes into the product before, its inverse into the one after."""


def _bits(tensor: Tensor) -> npt.NDArray[np.int16]:
    """A bfloat16 tensor's memory, as the kernels take it."""
    return tensor.view(torch.int16).numpy()


class Bf16Product:
    """x @ weight.T + bias in bfloat16, summed in float32; an activation may follow before the result is rounded."""

    def __init__(self, weight: Tensor, bias: Tensor, num_rows: int, activation: str = "none") -> None:
        """`weight` (N, K) and `bias` (N,) of any float dtype; `num_rows` that x will have, to choose the layout for."""
        narrow = weight.detach().to(torch.bfloat16).contiguous()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(narrow, num_rows)
        self.bias = bias.detach().to(torch.bfloat16)
        self.activation, self.algorithm = activation, "none" if activation == "gelu" else ""

    def __call__(self, x: Tensor) -> Tensor:
        """(R, K) bfloat16 -> (R, N) bfloat16."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.algorithm)
        return found


class Int8Product:
    """bytes @ weight.T, with a scale for each output; the rows' scales and the bias are left to the pass that follows."""

    def __init__(self, weight: Tensor, bias: Tensor, offset: float = 0.0) -> None:
        """`weight` (N, K) and `bias` (N,); `offset` is what the bytes' rows have been raised by (see `kernels.tokens`)."""
        exact = weight.detach().double()
        scale = exact.abs().amax(dim=1).clamp_min(1e-30) / 127
        rounded = (exact / scale[:, None]).round()
        self.weight = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self.scale = scale.float()
        self.zeros = torch.zeros(len(scale), dtype=torch.int64)
        self.bias = (bias.detach().double() - offset * rounded.sum(dim=1) * scale).float().numpy()

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, K) int8 or uint8 -> (R, N) of `dtype`, in units of the rows' scales and without the bias."""
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, self.weight, self.scale, self.zeros, None, 1.0, 0, dtype, "none", [], ""
        )
        return found


class _Norm:
    """Gain and shift of a LayerNorm as the kernels take them."""

    def __init__(self, norm: nn.LayerNorm, factors: Tensor | None = None) -> None:
        """`factors` (W,): what each channel is divided by."""
        gain, shift = norm.weight.detach(), norm.bias.detach()
        if factors is not None:
            gain, shift = gain / factors, shift / factors
        self.gain, self.shift = gain.numpy(), shift.numpy()


@dataclass
class _Scratch:
    """A lane's own buffers, so that no memory is asked of the system on the way. R rows of W."""

    narrow: Tensor
    """(R, W) bfloat16: normalised tokens."""
    signed: Tensor
    """(R, W) int8: normalised tokens."""
    unsigned: Tensor
    """(R, mlp_width) uint8: what the activation gave."""
    scale: npt.NDArray[np.float32]
    """(R,) of `signed`."""
    unsigned_scale: npt.NDArray[np.float32]
    """(R,) of `unsigned`."""


class _Bf16Steps:
    """The products of one block in bfloat16. `norm_*` take the branch to be added first, or None."""

    def __init__(self, block: Block, activation: str, num_rows: int) -> None:
        factor = _QUICK_GELU_FACTOR if activation == "quick_gelu" else 1.0
        self.norm_1, self.norm_2 = _Norm(block.norm_1), _Norm(block.norm_2)
        self.qkv = Bf16Product(block.attn.qkv.weight, block.attn.qkv.bias, num_rows)
        self.out = Bf16Product(block.attn.out.weight, block.attn.out.bias, num_rows)
        weight, bias = block.mlp_in.weight.double() * factor, block.mlp_in.bias.double() * factor
        self.mlp_in = Bf16Product(weight, bias, num_rows, "swish" if activation == "quick_gelu" else "gelu")
        self.mlp_out = Bf16Product(block.mlp_out.weight.double() / factor, block.mlp_out.bias, num_rows)

    def queries_keys_values(self, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> Tensor:
        """Add the branch to x (R, W) float32, normalise, multiply: (R, 3 W) bfloat16."""
        self._norm(self.norm_1, x, branch, scratch)
        return self.qkv(scratch.narrow)

    def mlp(self, x: Tensor, branch: Tensor, scratch: _Scratch) -> Tensor | None:
        """Add the branch to x; the next branch comes back, (R, W) bfloat16."""
        self._norm(self.norm_2, x, branch, scratch)
        return self.mlp_out(self.mlp_in(scratch.narrow))

    def _norm(self, norm: _Norm, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> None:
        if branch is None:
            kernels.norm_to_bf16(x.numpy(), norm.gain, norm.shift, _EPS, _bits(scratch.narrow))
        else:
            kernels.add_norm_to_bf16(x.numpy(), _bits(branch), norm.gain, norm.shift, _EPS, _bits(scratch.narrow))


class _Int8Steps:
    """The products of one block in int8, but for the one after attention. Same calls as `_Bf16Steps`."""

    def __init__(self, block: Block, num_rows: int, balanced: BlockBalance) -> None:
        self.norm_1, self.norm_2 = _Norm(block.norm_1, balanced.qkv), _Norm(block.norm_2, balanced.mlp_in)
        self.qkv = Int8Product(block.attn.qkv.weight * balanced.qkv, block.attn.qkv.bias)
        self.out = Bf16Product(block.attn.out.weight, block.attn.out.bias, num_rows)
        self.mlp_in = Int8Product(block.mlp_in.weight * balanced.mlp_in, block.mlp_in.bias)
        self.mlp_out = Int8Product(block.mlp_out.weight, block.mlp_out.bias, kernels.OFFSET)

    def queries_keys_values(self, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> Tensor:
        """Add the branch to x (R, W) float32, normalise, multiply: (R, 3 W) bfloat16."""
        self._norm(self.norm_1, x, branch, scratch)
        product = self.qkv(scratch.signed, torch.bfloat16)
        kernels.scaled_to_bf16(_bits(product), scratch.scale, self.qkv.bias)
        return product

    def mlp(self, x: Tensor, branch: Tensor, scratch: _Scratch) -> Tensor | None:
        """Add the branch to x, and what the MLP gives; nothing is left to be added."""
        self._norm(self.norm_2, x, branch, scratch)
        product = self.mlp_in(scratch.signed, torch.bfloat16)
        unsigned, scale = scratch.unsigned, scratch.unsigned_scale
        kernels.quick_gelu_to_bytes(_bits(product), scratch.scale, self.mlp_in.bias, unsigned.numpy(), scale)
        del product
        product = self.mlp_out(unsigned, torch.float32)
        kernels.add_scaled(x.numpy(), product.numpy(), scale, self.mlp_out.bias)
        return None

    def _norm(self, norm: _Norm, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> None:
        into = (norm.gain, norm.shift, _EPS, scratch.signed.numpy(), scratch.scale)
        if branch is None:
            kernels.norm_to_bytes(x.numpy(), *into)
        else:
            kernels.add_norm_to_bytes(x.numpy(), _bits(branch), *into)


class PackedTower:
    """(B, S, S, 3) uint8 -> (B, D) float32, for batches of about `batch_size`. Several threads may call it at once."""

    def __init__(self, tower: ClipVisionTower, batch_size: int, *, int8: bool) -> None:
        """Weights of the tower are packed, which takes a second or two; the tower stays as it is."""
        self.shape: TowerShape = tower.shape
        num_rows = batch_size * self.shape.num_tokens
        self.patch = Bf16Product(tower.patch.weight, torch.zeros(self.shape.width), batch_size * self.shape.num_patches)
        self.positions = tower.positions.detach().clone()
        self.positions[0] += tower.class_token
        self.positions[1:] += tower.patch.bias
        self.norm_pre, self.norm_post, self.projection = tower.norm_pre, tower.norm_post, tower.projection
        *before, last = (block for block in tower.blocks if isinstance(block, Block))
        self.steps: list[_Bf16Steps] | list[_Int8Steps]
        if int8:
            balances = balance(tower, torch.from_numpy(check_pictures(self.shape.image_px)[:2]))
            self.steps = [_Int8Steps(block, num_rows, balanced) for block, balanced in zip(before, balances, strict=True)]
        else:
            self.steps = [_Bf16Steps(block, tower.activation, num_rows) for block in before]
        self.last = last
        keys_values = self.last.attn.qkv.weight[self.shape.width :]
        self.last_keys_values = Bf16Product(keys_values, self.last.attn.qkv.bias[self.shape.width :], num_rows)
        self._local = threading.local()

    def __call__(self, pixels: Tensor) -> Tensor:
        """See the class. Call it under `torch.inference_mode` or `no_grad`."""
        shape, batch = self.shape, len(pixels)
        scratch = self._scratch(batch * shape.num_tokens)
        x = self._tokens(pixels).flatten(0, 1)  # [R, W] float32
        branch: Tensor | None = None
        for step in self.steps:
            qkv = step.queries_keys_values(x, branch, scratch)
            branch = step.out(self._attended(qkv, batch))
            branch = step.mlp(x, branch, scratch)
        if branch is not None:
            kernels.add_branch(x.numpy(), _bits(branch))
        return self._finished(x, batch, scratch)

    def _tokens(self, pixels: Tensor) -> Tensor:
        shape, batch = self.shape, len(pixels)
        grid, patch = shape.image_px // shape.patch_px, shape.patch_px
        patches = pixels.reshape(batch, grid, patch, grid, patch, 3).transpose(2, 3)  # [B, G, G, P, P, 3]
        rows = patches.reshape(batch * shape.num_patches, patch * patch * 3).to(torch.bfloat16).sub_(PIXEL_CENTRE)
        x = self.positions.repeat(batch, 1, 1)  # [B, T, W]
        x[:, 1:] += self.patch(rows).view(batch, shape.num_patches, -1)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def _attended(self, qkv: Tensor, batch: int) -> Tensor:
        """(R, 3 W) -> (R, W), both bfloat16."""
        heads = qkv.view(batch, -1, 3, self.shape.num_heads, self.shape.width // self.shape.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, W/H] each
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(qkv), -1)

    def _finished(self, x: Tensor, batch: int, scratch: _Scratch) -> Tensor:
        """The last block, for the class token alone: keys and values in bfloat16, all else in float32."""
        last, width = self.last, self.shape.width
        norm = _Norm(last.norm_1)
        kernels.norm_to_bf16(x.numpy(), norm.gain, norm.shift, _EPS, _bits(scratch.narrow))
        first = x.view(batch, -1, width)[:, 0]  # [B, W]
        q = F.linear(last.norm_1(first), last.attn.qkv.weight[:width], last.attn.qkv.bias[:width])
        kv = self.last_keys_values(scratch.narrow).view(batch, -1, 2, self.shape.num_heads, width // self.shape.num_heads)
        k, v = kv.float().permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, W/H] each
        mixed = F.scaled_dot_product_attention(q.view(batch, self.shape.num_heads, 1, -1), k, v)  # [B, H, 1, W/H]
        first = first + last.attn.out(mixed.reshape(batch, width))
        first = first + last._mlp(last.norm_2(first))
        return self.projection(self.norm_post(first))  # type: ignore[no-any-return]

    def _scratch(self, num_rows: int) -> _Scratch:
        made: dict[int, _Scratch] = self._local.__dict__.setdefault("made", {})
        if num_rows not in made:
            width, mlp = self.shape.width, self.shape.mlp_width
            made[num_rows] = _Scratch(
                torch.empty(num_rows, width, dtype=torch.bfloat16),
                torch.empty(num_rows, width, dtype=torch.int8),
                torch.empty(num_rows, mlp, dtype=torch.uint8),
                np.empty(num_rows, np.float32),
                np.empty(num_rows, np.float32),
            )
        return made[num_rows]


def find_fault(activation: str, *, int8: bool) -> str | None:
    """Why this build of torch or this processor cannot run a `PackedTower`, or None: the products are tried and compared."""
    if int8 and activation != "quick_gelu":
        return "int8 is written for QuickGELU towers"
    make = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        try:
            return _bf16_fault(make, "swish" if activation == "quick_gelu" else "gelu") or (_int8_fault() if int8 else None)
        except (AttributeError, RuntimeError, NotImplementedError) as error:  # no such operation; not on this processor
            return f"torch {torch.__version__} has no such products here ({' '.join(str(error).split())[:120]})"


def _bf16_fault(make: torch.Generator, activation: str) -> str | None:
    x, weight = torch.randn(48, 64, generator=make), torch.randn(32, 64, generator=make)
    found = Bf16Product(weight, torch.ones(32), len(x), activation)(x.bfloat16()).float()
    exact = F.linear(x.bfloat16().float(), weight.bfloat16().float(), torch.ones(32))
    exact = F.silu(exact) if activation == "swish" else F.gelu(exact)
    wrong = (found - exact).abs() > 0.02 * exact.abs() + 0.02
    return "bfloat16 products come out wrong here" if bool(wrong.any()) else None


def _int8_fault() -> str | None:
    """The largest bytes there are: processors without VNNI add them up in 16 bits, which overflows."""
    for x in (torch.full((48, 64), 255, dtype=torch.uint8), torch.full((48, 64), -128, dtype=torch.int8)):
        found = Int8Product(torch.full((32, 64), 127.0), torch.zeros(32))(x, torch.float32)
        if not torch.equal(found, torch.full((48, 32), float(x[0, 0]) * 127 * 64)):
            return "int8 products overflow on this processor"
    return None
