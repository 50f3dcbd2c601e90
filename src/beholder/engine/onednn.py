"""The CLIP tower for a processor's cores: oneDNN's bfloat16 or int8 products, with compiled passes between them.

Products are oneDNN's, with weights laid out once for its kernels. They are operations that torch keeps for its own compiler
(`mkldnn._linear_pointwise`, `onednn.qlinear_pointwise`; used as in torch/_inductor/mkldnn_ir.py); `find_fault` says whether
this build and processor have them, and have them fast. Between products, tokens stay float32 (see `backends.own_tower`) and
one compiled pass adds, normalises and rounds (`kernels.tokens`). The last block's class token is computed in float32.

int8: weights have a scale for each output, tokens one for each row, found on the way. Tokens are unsigned bytes: products of
signed bytes have no fast kernel on processors without AMX. Attention and the product after it are bfloat16 where the processor
multiplies bfloat16 itself, else float32.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from beholder.engine.devices import multiplies_bf16, on_one_core
from beholder.engine.drift import check_pictures
from beholder.errors import text_of
from beholder.kernels import tokens as kernels
from beholder.models.backbones import LAYER_NORM_EPS, TowerShape
from beholder.models.clip import PIXEL_CENTRE, Block, ClipVisionTower

_EPS = np.float32(LAYER_NORM_EPS)
_QUICK_GELU_FACTOR = 1.702
"""QuickGELU(x) = silu(1.702 x) / 1.702: the factor goes into the product before, its inverse into the one after."""
_PLAIN_LOOPS = 20
"""A product that takes this many times as long as in float32 has no kernel of its own: oneDNN's plain loops take over 1,000."""
_CALL_S = 1e-4
"""What a call may cost beside its arithmetic."""
_TRIES = 12
"""Times that a product may be slow because of other programs."""


def _memory(tensor: Tensor) -> npt.NDArray[np.int16] | npt.NDArray[np.float32]:
    """A bfloat16 or float32 tensor's memory, as the kernels take it."""
    return tensor.numpy() if tensor.dtype == torch.float32 else tensor.view(torch.int16).numpy()


class FloatProduct:
    """x @ weight.T + bias in bfloat16 or float32, summed in float32; an activation may follow before the result is rounded."""

    def __init__(
        self, weight: Tensor, bias: Tensor, num_rows: int, activation: str = "none", dtype: torch.dtype = torch.bfloat16
    ) -> None:
        """`weight` (N, K) and `bias` (N,) of any float dtype; `num_rows` that x will have, to choose the layout for."""
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), num_rows)
        self.bias = bias.detach().to(dtype)
        self.activation, self.algorithm = activation, "none" if activation == "gelu" else ""

    def __call__(self, x: Tensor) -> Tensor:
        """(R, K) -> (R, N), both of the product's dtype."""
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, self.activation, [], self.algorithm)
        return found


class Int8Product:
    """Bytes @ weight.T, with a scale for each output; the rows' scales and the bias are left to the pass that follows."""

    def __init__(self, weight: Tensor, bias: Tensor, *, weight_steps: int = 127, offset: float = 0.0, zero: int = 0) -> None:
        """Round the weights.

        Args:
            weight: (N, K).
            bias: (N,).
            weight_steps: a row's largest weight becomes this many steps: 127, or 63 (see `Int8Support`).
            offset: what the rows have been raised by, in their own units: taken back by the bias.
            zero: the byte that stands for zero: taken back in the product, before it is rounded to its dtype.
        """
        exact = weight.detach().double()
        scale = exact.abs().amax(dim=1).clamp_min(1e-30) / weight_steps
        rounded = (exact / scale[:, None]).round()
        self.weight = torch.ops.onednn.qlinear_prepack(rounded.to(torch.int8), None)
        self.scale = scale.float()
        self.zeros = torch.zeros(len(scale), dtype=torch.int64)
        self.shift = (-zero * rounded.sum(dim=1) * scale).float() if zero else None
        self.bias = (bias.detach().double() - offset * rounded.sum(dim=1) * scale).float().numpy()

    def __call__(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, K) uint8 -> (R, N) of `dtype`, float32 or bfloat16, in units of the rows' scales and without the bias."""
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, 0, self.weight, self.scale, self.zeros, self.shift, 1.0, 0, dtype, "none", [], ""
        )
        return found


@dataclass(frozen=True)
class Int8Support:
    """How this processor multiplies bytes.

    Attributes:
        weight_steps: 127; or 63 where products of bytes are added in pairs to 16 bits, which overflow with larger weights
            (x86-64 without VNNI: 2 * 255 * 127 > 32767 >= 2 * 255 * 63).
        between: dtype of what stands between the int8 products: attention and the product after it.
    """

    weight_steps: int
    between: torch.dtype

    @property
    def form_name(self) -> str:
        """For stamps: embeddings of different ways to compute differ in their last digits."""
        weights = "" if self.weight_steps == 127 else ", 7-bit weights"
        return "packed" + weights + (", float32 between" if self.between == torch.float32 else "")


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

    normed: Tensor
    """(R, W) bfloat16 or float32: normalised tokens."""
    tokens: Tensor
    """(R, W) uint8: normalised tokens."""
    tokens_scale: npt.NDArray[np.float32]
    """(R,) of `tokens`."""
    activated: Tensor
    """(R, mlp_width) uint8: what the activation gave."""
    activated_scale: npt.NDArray[np.float32]
    """(R,) of `activated`."""


class _Bf16Steps:
    """The products of one block in bfloat16. `norm_*` take the branch to be added first, or None."""

    def __init__(self, block: Block, activation: str, num_rows: int) -> None:
        factor = _QUICK_GELU_FACTOR if activation == "quick_gelu" else 1.0
        self.norm_1, self.norm_2 = _Norm(block.norm_1), _Norm(block.norm_2)
        self.qkv = FloatProduct(block.attn.qkv.weight, block.attn.qkv.bias, num_rows)
        self.out = FloatProduct(block.attn.out.weight, block.attn.out.bias, num_rows)
        weight, bias = block.mlp_in.weight.double() * factor, block.mlp_in.bias.double() * factor
        self.mlp_in = FloatProduct(weight, bias, num_rows, "swish" if activation == "quick_gelu" else "gelu")
        self.mlp_out = FloatProduct(block.mlp_out.weight.double() / factor, block.mlp_out.bias, num_rows)

    def queries_keys_values(self, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> Tensor:
        """Add the branch to x (R, W) float32, normalise, multiply: (R, 3 W) bfloat16."""
        self._norm(self.norm_1, x, branch, scratch)
        return self.qkv(scratch.normed)

    def mlp(self, x: Tensor, branch: Tensor, scratch: _Scratch) -> Tensor | None:
        """Add the branch to x; the next branch comes back, (R, W) bfloat16."""
        self._norm(self.norm_2, x, branch, scratch)
        return self.mlp_out(self.mlp_in(scratch.normed))

    def _norm(self, norm: _Norm, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> None:
        added = None if branch is None else _memory(branch)
        kernels.norm(x.numpy(), added, norm.gain, norm.shift, _EPS, _memory(scratch.normed))


class _Int8Steps:
    """The products of one block in int8, but for the one after attention. Same calls as `_Bf16Steps`."""

    def __init__(self, block: Block, num_rows: int, factors: BlockFactors, support: Int8Support) -> None:
        self.between, steps = support.between, support.weight_steps
        self.norm_1, self.norm_2 = _Norm(block.norm_1, factors.qkv), _Norm(block.norm_2, factors.mlp_in)
        qkv, mlp_in, mlp_out = block.attn.qkv, block.mlp_in, block.mlp_out
        self.qkv = Int8Product(qkv.weight * factors.qkv, qkv.bias, weight_steps=steps, zero=kernels.ZERO)
        self.out = FloatProduct(block.attn.out.weight, block.attn.out.bias, num_rows, dtype=self.between)
        self.mlp_in = Int8Product(mlp_in.weight * factors.mlp_in, mlp_in.bias, weight_steps=steps, zero=kernels.ZERO)
        self.mlp_out = Int8Product(mlp_out.weight, mlp_out.bias, weight_steps=steps, offset=kernels.OFFSET)

    def queries_keys_values(self, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> Tensor:
        """Add the branch to x (R, W) float32, normalise, multiply: (R, 3 W) of the dtype between products."""
        self._norm(self.norm_1, x, branch, scratch)
        product = self.qkv(scratch.tokens, self.between)
        kernels.scale_rows(_memory(product), scratch.tokens_scale, self.qkv.bias)
        return product

    def mlp(self, x: Tensor, branch: Tensor, scratch: _Scratch) -> Tensor | None:
        """Add the branch to x, and what the MLP gives; nothing is left to be added."""
        self._norm(self.norm_2, x, branch, scratch)
        product = self.mlp_in(scratch.tokens, self.between)
        activated, scale = scratch.activated, scratch.activated_scale
        kernels.quick_gelu_to_bytes(_memory(product), scratch.tokens_scale, self.mlp_in.bias, activated.numpy(), scale)
        del product
        product = self.mlp_out(activated, torch.float32)
        kernels.add_scaled(x.numpy(), product.numpy(), scale, self.mlp_out.bias)
        return None

    def _norm(self, norm: _Norm, x: Tensor, branch: Tensor | None, scratch: _Scratch) -> None:
        added = None if branch is None else _memory(branch)
        kernels.norm_to_bytes(x.numpy(), added, norm.gain, norm.shift, _EPS, scratch.tokens.numpy(), scratch.tokens_scale)


@dataclass(frozen=True)
class BlockFactors:
    """Factors (W,) of the channels that go into query, key and value, and into the MLP."""

    qkv: Tensor
    mlp_in: Tensor


def smoothquant_factors(tower: ClipVisionTower, pixels: Tensor) -> list[BlockFactors]:
    """Factors for every block but the last that make its normalised tokens easy to store in bytes.

    A few channels of CLIP's tokens are many times larger than the rest, on every token. In a row with one scale they leave the
    others few steps. So each channel is divided by a factor, in the LayerNorm's gain and shift, and its column of weights is
    multiplied by it (SmoothQuant, https://arxiv.org/abs/2211.10438, equation 4 with alpha = 1/2). The factors are powers of
    two: dividing by them is exact, and a last bit more or less in the measurement does not change them.

    `pixels`: (n, S, S, 3) uint8 pictures, which are computed in float32.
    """
    found: list[BlockFactors] = []
    with torch.inference_mode():
        x = tower.tokens(tower.centred(pixels))
        for block in tower.blocks[:-1]:
            assert isinstance(block, Block)
            normed = block.norm_1(x)
            x = x + block.attn(normed)
            qkv = _factors(normed, block.attn.qkv.weight)
            normed = block.norm_2(x)
            x = x + block._mlp(normed)
            found.append(BlockFactors(qkv, _factors(normed, block.mlp_in.weight)))
    return found


def _factors(tokens: Tensor, weight: Tensor) -> Tensor:
    """sqrt(largest token / largest weight) of each channel, to the next power of two; the middle one is 1."""
    largest = tokens.abs().flatten(0, -2).amax(dim=0).clamp_min(1e-6)  # [W]
    wanted = torch.log2(largest / weight.abs().amax(dim=0).clamp_min(1e-6)) / 2
    return torch.exp2((wanted - wanted.median()).round())


class OnednnTower:
    """(B, S, S, 3) uint8 -> (B, D) float32, for batches of about `batch_size`. Several threads may call it at once."""

    def __init__(self, tower: ClipVisionTower, batch_size: int, *, int8: Int8Support | None = None) -> None:
        """Weights of the tower are packed, which takes a second or two; the tower stays as it is.

        Args:
            tower: in float32.
            batch_size: pictures it will mostly be given at a time.
            int8: how to multiply bytes (`int8_support`); None: all products in bfloat16.
        """
        self.shape: TowerShape = tower.shape
        self.form_name = "packed" if int8 is None else int8.form_name
        self.dtype = dtype = torch.bfloat16 if int8 is None else int8.between
        num_rows = batch_size * self.shape.num_tokens
        no_bias = torch.zeros(self.shape.width)
        self.patch = FloatProduct(tower.patch.weight, no_bias, batch_size * self.shape.num_patches, dtype=dtype)
        self.positions = tower.positions.detach().clone()
        self.positions[0] += tower.class_token
        self.positions[1:] += tower.patch.bias
        self.norm_pre, self.norm_post, self.projection = tower.norm_pre, tower.norm_post, tower.projection
        *before, last = (block for block in tower.blocks if isinstance(block, Block))
        self.steps: list[_Bf16Steps] | list[_Int8Steps]
        if int8 is not None:
            factors = smoothquant_factors(tower, torch.from_numpy(check_pictures(self.shape.image_px)[:2]))
            self.steps = [_Int8Steps(block, num_rows, found, int8) for block, found in zip(before, factors, strict=True)]
        else:
            self.steps = [_Bf16Steps(block, tower.activation, num_rows) for block in before]
        self.last = last
        keys_values = self.last.attn.qkv.weight[self.shape.width :]
        self.last_keys_values = FloatProduct(keys_values, self.last.attn.qkv.bias[self.shape.width :], num_rows, dtype=dtype)
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
            kernels.add_branch(x.numpy(), _memory(branch))
        return self._finished(x, batch, scratch)

    def _tokens(self, pixels: Tensor) -> Tensor:
        shape, batch = self.shape, len(pixels)
        grid, patch = shape.image_px // shape.patch_px, shape.patch_px
        patches = pixels.reshape(batch, grid, patch, grid, patch, 3).transpose(2, 3)  # [B, G, G, P, P, 3]
        rows = patches.reshape(batch * shape.num_patches, patch * patch * 3).to(self.dtype).sub_(PIXEL_CENTRE)
        x = self.positions.repeat(batch, 1, 1)  # [B, T, W]
        x[:, 1:] += self.patch(rows).view(batch, shape.num_patches, -1)
        return self.norm_pre(x)  # type: ignore[no-any-return]

    def _attended(self, qkv: Tensor, batch: int) -> Tensor:
        """(R, 3 W) -> (R, W), of the same dtype."""
        heads = qkv.view(batch, -1, 3, self.shape.num_heads, self.shape.width // self.shape.num_heads)
        q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)  # [B, H, T, W/H] each
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(len(qkv), -1)

    def _finished(self, x: Tensor, batch: int, scratch: _Scratch) -> Tensor:
        """The last block, for the class token alone: all in float32 but keys and values."""
        last, width = self.last, self.shape.width
        norm = _Norm(last.norm_1)
        kernels.norm(x.numpy(), None, norm.gain, norm.shift, _EPS, _memory(scratch.normed))
        first = x.view(batch, -1, width)[:, 0]  # [B, W]
        q = F.linear(last.norm_1(first), last.attn.qkv.weight[:width], last.attn.qkv.bias[:width])
        kv = self.last_keys_values(scratch.normed).view(batch, -1, 2, self.shape.num_heads, width // self.shape.num_heads)
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
                normed=torch.empty(num_rows, width, dtype=self.dtype),
                tokens=torch.empty(num_rows, width, dtype=torch.uint8),
                tokens_scale=np.empty(num_rows, np.float32),
                activated=torch.empty(num_rows, mlp, dtype=torch.uint8),
                activated_scale=np.empty(num_rows, np.float32),
            )
        return made[num_rows]


def find_fault(activation: str, *, int8: bool) -> str | None:
    """Why this build of torch or this processor cannot run a `OnednnTower`, or cannot run it fast; None where it can.

    The products are tried on small matrices, and compared with exact ones and with the time that float32 takes.
    """
    if int8:
        if activation != "quick_gelu":
            return "int8 is written for QuickGELU towers"
        support = int8_support()
        return support if isinstance(support, str) else None
    return _bf16_fault("swish" if activation == "quick_gelu" else "gelu")


@cache
def int8_support() -> Int8Support | str:
    """How this processor multiplies bytes, or why it does not. Found once in a process."""
    between = torch.bfloat16 if multiplies_bf16() and _bf16_fault("swish") is None else torch.float32
    try:
        with torch.inference_mode():
            steps = next((steps for steps in (127, 63) if _sums_bytes_exactly(steps)), None)
            if steps is None:
                return "int8 products overflow on this processor"
            for dtype in dict.fromkeys((between, torch.float32)):
                if on_one_core(partial(_has_int8_kernel, dtype)):
                    return Int8Support(steps, dtype)
    except (AttributeError, RuntimeError, NotImplementedError) as error:  # no such operation; not on this processor
        return _no_such_products(error)
    return "int8 products have no fast kernel on this processor"


def _no_such_products(error: Exception) -> str:
    return f"torch {torch.__version__} has no such products here ({text_of(error, 120)})"


@cache
def _bf16_fault(activation: str) -> str | None:
    make = torch.Generator().manual_seed(0)
    x, weight = torch.randn(48, 64, generator=make), torch.randn(32, 64, generator=make)
    try:
        with torch.inference_mode():
            found = FloatProduct(weight, torch.ones(32), len(x), activation)(x.bfloat16()).float()
    except (AttributeError, RuntimeError, NotImplementedError) as error:
        return _no_such_products(error)
    exact = F.linear(x.bfloat16().float(), weight.bfloat16().float(), torch.ones(32))
    exact = F.silu(exact) if activation == "swish" else F.gelu(exact)
    wrong = (found - exact).abs() > 0.02 * exact.abs() + 0.02
    return "bfloat16 products come out wrong here" if bool(wrong.any()) else None


def _sums_bytes_exactly(weight_steps: int) -> bool:
    """Whether the largest bytes there are come out right with weights of `weight_steps`."""
    x, weight = torch.full((48, 64), 255, dtype=torch.uint8), torch.full((32, 64), float(weight_steps))
    found = Int8Product(weight, torch.zeros(32), weight_steps=weight_steps)(x, torch.float32)
    return torch.equal(found, torch.full((48, 32), 255.0 * weight_steps * 64))


def _has_int8_kernel(dtype: torch.dtype) -> bool:
    """Whether bytes are multiplied in about the time of float32, or faster; a small product, since plain loops are slow."""
    weight, x = torch.ones(1024, 256), torch.ones(16, 256)
    product, rows = Int8Product(weight, torch.zeros(1024), zero=kernels.ZERO), x.to(torch.uint8)
    with torch.inference_mode():
        enough = _PLAIN_LOOPS * min(_seconds(lambda: F.linear(x, weight)) for _ in range(_TRIES)) + _CALL_S
        return any(_seconds(lambda: product(rows, dtype)) < enough for _ in range(_TRIES))


def _seconds(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
