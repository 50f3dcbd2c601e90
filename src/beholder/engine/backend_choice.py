"""A tower, a device and a precision in, the backend that computes it fastest there out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from beholder.engine.backends import Backend, CpuBackend, CudaBackend, DirectBackend, Form
from beholder.engine.eager import plain_tower
from beholder.engine.onednn import PackedTower, find_fault, int8_support
from beholder.engine.precisions import Precision
from beholder.errors import BeholderError
from beholder.models.backbones import TowerShape
from beholder.models.clip import ClipVisionTower

_CPU_BATCH_TOKENS = 514
"""Tokens to a lane: two pictures of ViT-L/14. With one the weights are read too often; with four the C library gives memory
back and asks for it again."""
_MPS_BATCH = 32
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_HAS = {
    "cpu": ("fp32", "bf16", "fp16", "int8"),
    "cuda": ("fp32", "tf32", "bf16", "fp16"),
    "mps": ("fp32", "fp16"),
}


def candidates(device: torch.device) -> list[Precision]:
    """What "auto" tries beside fp32, the likely fastest first."""
    found: dict[str, list[Precision]] = {"cpu": ["int8", "bf16"], "cuda": ["fp16", "bf16", "tf32"]}
    return found.get(device.type, [])


def default_batch_size(device: torch.device, shape: TowerShape) -> int | None:
    """Pictures computed together; None where it is found by trying."""
    return {"cpu": _cpu_batch(shape), "cuda": None}.get(device.type, _MPS_BATCH)


def _cpu_batch(shape: TowerShape) -> int:
    return max(1, _CPU_BATCH_TOKENS // shape.num_tokens)


def build_backend(
    tower: ClipVisionTower, device: torch.device, precision: Precision, *, compile: bool = False, num_threads: int | None = None
) -> Backend:
    """Raises BeholderError for a precision that the device does not have."""
    if precision not in _HAS[device.type]:
        choices = ", ".join(_HAS[device.type])
        raise BeholderError(f"--precision {precision}: not on {device.type}; choose one of {choices} or auto")
    if device.type == "cpu":
        return _cpu_backend(tower, precision, compile, num_threads or torch.get_num_threads())
    form: Form = plain_tower(tower, device, _DTYPES[precision])
    name = "plain"
    if compile:
        form, name = Compiled(form, "max-autotune-no-cudagraphs"), "compiled"
    if device.type == "cuda":
        return CudaBackend(form, name, device, tf32=precision == "tf32")
    return DirectBackend(form, name, device)


def _cpu_backend(tower: ClipVisionTower, precision: Precision, compile: bool, num_threads: int) -> Backend:
    cpu = torch.device("cpu")
    if compile and precision != "int8":
        form = Compiled(plain_tower(tower, cpu, _DTYPES[precision]), "default")
        return CpuBackend(form, "compiled", num_lanes=1, threads_per_lane=num_threads)
    if precision in ("bf16", "int8"):
        fault = find_fault(tower.activation, int8=precision == "int8")
        if fault is None:
            support = int8_support() if precision == "int8" else None
            assert not isinstance(support, str)  # that would be a fault
            packed = PackedTower(tower, _cpu_batch(tower.shape), int8=support)
            return CpuBackend(packed, packed.form_name, num_lanes=num_threads)
        if precision == "int8":
            raise BeholderError(f"--precision int8: {fault}; choose bf16, fp32 or auto")
    return CpuBackend(plain_tower(tower, cpu, _DTYPES[precision]), "plain", num_lanes=num_threads)


class Compiled:
    """A tower that torch compiles at its first batch of a size."""

    def __init__(self, form: Any, mode: str) -> None:
        self.form: Form = torch.compile(form, dynamic=False, mode=mode)

    def __call__(self, pixels: Tensor) -> Tensor:
        """See `Form`. Raises BeholderError where torch cannot compile (no C++ compiler, no Triton)."""
        try:
            found: Tensor = self.form(pixels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler's errors have no common parent
            if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise
            text = " ".join(str(error).split()).split(" Set TORCHDYNAMO_")[0][:200]
            raise BeholderError(f"--compile: torch could not compile the tower ({text}); leave --compile out") from error
        return found
