"""One set of weights in; the programs that gpu.py compares out, each with the same `run`: our Engine, transformers, timm.

Peers are built here from their own classes with the same weights (`tower_checkpoints`). They are given what their
preprocessing ends with, normalised floats on the device, in the model's dtype; beholder is given uint8 on the device and
normalises inside. That is in the peers' favour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from beholder.models.backbones import PIXEL_MEAN, PIXEL_STD, TowerShape
from beholder.models.clip import ClipVisionTower, build_tower
from beholder.notices import told_to
from tower_checkpoints import hugging_face_config, state_in

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}


class Side(Protocol):
    """Something that turns batches into embeddings."""

    def prepared(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 on the device -> what `run` takes, on the device; not timed."""
        ...

    def run(self, batches: Sequence[Tensor]) -> Tensor:
        """All batches, one after the other; the last batch's embeddings, (B, D). Returns when all work is done."""
        ...


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class EngineSide:
    """beholder's Engine."""

    def __init__(self, tower: ClipVisionTower, device: torch.device, precision: str, batch: int, compiled: bool) -> None:
        from beholder.engine.engine import Engine

        name = "cpu" if device.type == "cpu" else f"cuda:{device.index or 0}"
        said: list[str] = []
        with told_to(said.append):
            self.engine: Any = Engine(tower, device=name, precision=precision, batch_size=batch, compile=compiled)  # type: ignore[arg-type]
        if compiled and not self.engine.describe()["compiled"]:
            raise RuntimeError(said[-1] if said else "not compiled")

    def prepared(self, pixels: Tensor) -> Tensor:
        """As they are."""
        return pixels

    def run(self, batches: Sequence[Tensor]) -> Tensor:
        """Three batches are under way at a time, as in a real run; embeddings come back to the host."""
        pending: list[Any] = []
        found = None
        for batch in batches:
            pending.append(self.engine.submit(batch))
            if len(pending) > 3:
                found = self.engine.result(pending.pop(0))
        for one in pending:
            found = self.engine.result(one)
        return torch.from_numpy(found)

    def close(self) -> None:
        """Give the memory back."""
        self.engine.close()


class ModuleSide:
    """A torch module on normalised (B, 3, S, S) floats, or on uint8 pixels."""

    def __init__(
        self,
        module: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        compiled: bool,
        *,
        of: str = "",
        takes_uint8: bool = False,
    ) -> None:
        self.device, self.dtype, self.of, self.takes_uint8 = device, dtype, of, takes_uint8
        module = module.to(device=device, dtype=dtype).eval().requires_grad_(False)
        self.call: Callable[[Tensor], Any] = torch.compile(module, dynamic=False) if compiled else module

    def prepared(self, pixels: Tensor) -> Tensor:
        """Normalised, channels first, in the model's dtype."""
        if self.takes_uint8:
            return pixels
        mean, std = (torch.tensor(c, device=pixels.device).view(1, 3, 1, 1) for c in (PIXEL_MEAN, PIXEL_STD))
        return ((pixels.permute(0, 3, 1, 2).float() / 255 - mean) / std).to(self.dtype).contiguous()

    def run(self, batches: Sequence[Tensor]) -> Tensor:
        """Embeddings stay on the device, but for the last batch's."""
        with torch.inference_mode():
            for batch in batches:
                found = self.call(batch)
            synchronize(self.device)
        found = getattr(found, self.of) if self.of else found
        return found.float().cpu()

    def close(self) -> None:
        """Give the memory back."""
        self.call = lambda x: x
        torch.compiler.reset()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def transformers_module(shape: TowerShape, tensors: Mapping[str, Tensor]) -> nn.Module:
    """CLIPVisionModelWithProjection with scaled dot product attention. Raises ImportError where transformers is missing."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    given = {k: v for k, v in hugging_face_config(shape).items() if k not in ("architectures", "model_type")}
    config = CLIPVisionConfig(**given)
    config._attn_implementation = "sdpa"
    model: nn.Module = CLIPVisionModelWithProjection(config)
    model.load_state_dict(_fitting(model, state_in("hugging face", tensors)))
    return model


def timm_module(shape: TowerShape, tensors: Mapping[str, Tensor]) -> nn.Module:
    """VisionTransformer of timm as its CLIP models configure it. Raises ImportError where timm is missing."""
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=shape.image_px, patch_size=shape.patch_px, embed_dim=shape.width, depth=shape.num_layers,
        num_heads=shape.num_heads, mlp_ratio=shape.mlp_width / shape.width, num_classes=shape.dim, pre_norm=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-5), act_layer="quick_gelu",
    )  # fmt: skip
    model.load_state_dict(state_in("timm", tensors))
    return model


def _fitting(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the buffers that some versions of transformers save as well."""
    return state | {name: value for name, value in model.state_dict().items() if name.endswith("position_ids")}


class Fp8Side(EngineSide):
    """beholder's float8 back end itself: the Engine refuses one whose drift is too large, and its speed is asked for too."""

    def __init__(self, tower: ClipVisionTower, device: torch.device, batch: int, compiled: bool) -> None:
        from beholder.engine.backends import build_backend

        self.batch = batch
        self.backend: Any = build_backend(tower, device, "fp8", compile=compiled)

    def run(self, batches: Sequence[Tensor]) -> Tensor:
        """As of EngineSide."""
        pending: list[Any] = []
        found = None
        for batch in batches:
            pending.append(self.backend.submit(batch, self.batch))
            if len(pending) > 3:
                found = pending.pop(0)()
        for fetch in pending:
            found = fetch()
        return torch.from_numpy(found)

    def close(self) -> None:
        """Give the memory back."""
        self.backend.close()


def build(
    what: str,
    shape: TowerShape,
    tensors: Mapping[str, Tensor],
    device: torch.device,
    precision: str,
    batch: int,
    compiled: bool,
) -> Any:
    """A side by name: beholder, transformers, timm. Raises ImportError or RuntimeError where it cannot be had."""
    dtype = DTYPES[precision]
    if precision == "fp8":
        return Fp8Side(build_tower(shape, "quick_gelu", tensors), device, batch, compiled)
    if what == "beholder":
        return EngineSide(build_tower(shape, "quick_gelu", tensors), device, precision, batch, compiled)
    if what == "transformers":
        return ModuleSide(transformers_module(shape, tensors), device, dtype, compiled, of="image_embeds")
    return ModuleSide(timm_module(shape, tensors), device, dtype, compiled)


def timed(side: Side, batches: Sequence[Tensor], times: int, device: torch.device) -> float:
    """Seconds for `times` batches, taken in turn from `batches`."""
    chosen = [batches[number % len(batches)] for number in range(times)]
    synchronize(device)
    started = time.perf_counter()
    side.run(chosen)
    synchronize(device)
    return time.perf_counter() - started
