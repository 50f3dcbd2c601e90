"""Computes batches of pictures with a tower: on all cores, or on a GPU with overlapping copies; and which way suits a device.

A backend is given at most `size` pictures at a time and always computes `size`: the missing ones are black. So every picture
meets the same arithmetic whatever comes with it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from beholder.engine import Precision
from beholder.engine.compiled import Captured, CompiledTower
from beholder.engine.devices import enter_lane, float32_products, multiplies_bf16
from beholder.engine.fp8 import fp8_fault, with_fp8_products
from beholder.engine.library import OnDevice
from beholder.engine.onednn import OnednnTower, find_fault, int8_support
from beholder.errors import BeholderError
from beholder.models.backbones import LAYER_NORM_EPS, TowerShape
from beholder.models.clip import ClipVisionTower
from beholder.models.library_towers import LibraryModule, LibraryShape

Rows = npt.NDArray[np.float32]
Fetch = Callable[[], Rows]
"""Waits for a batch and gives its embeddings, (n, D) float32; raises what the computation raised."""
Compute = Callable[[Tensor], Tensor]
"""(size, S, S, 3) uint8 on the device -> (size, D) float32 on the device."""

_CPU_BATCH_TOKENS = 514
"""Tokens to a lane: two pictures of ViT-L/14. With one the weights are read too often; with four the C library gives memory
back and asks for it again."""
_MPS_BATCH = 32
_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.bfloat16}
_HAS = {
    "cpu": ("fp32", "bf16", "fp16", "int8"),
    "cuda": ("fp32", "tf32", "bf16", "fp16", "fp8"),
    "mps": ("fp32", "fp16"),
}
_CUDA_DEPTH = 3
"""Batches on a GPU at a time: one is copied in, one computed, one copied out."""

_PRODUCT_NAMES = (".patch.", ".attn.qkv.", ".attn.out.", ".mlp_in.", ".mlp_out.")
"""Parameters of the matrix products that cost time; all others stay float32."""


class Backend(Protocol):
    """Computes batches; `submit` may return before the work is done, and `num_lanes` batches are worked on at once."""

    num_lanes: int
    form_name: str
    """Which of the ways to compute the tower it is; for stamps."""

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """(n, S, S, 3) uint8 with n <= size -> what waits for (n, D) float32."""
        ...

    def close(self) -> None:
        """Give back threads and buffers. It can be used again; they are then made anew."""
        ...


class CpuBackend:
    """One batch to a core: every lane is a thread in which torch computes alone.

    Cores that share one product wait for each other at its end, several hundred times a picture, and all wait for the one
    that another program has interrupted. Lanes do not wait (measured: benchmarks/results/tower_cpu_*.md).
    """

    def __init__(self, compute: Compute, form_name: str, *, num_lanes: int, threads_per_lane: int = 1) -> None:
        self.compute, self.form_name, self.num_lanes, self.threads_per_lane = compute, form_name, num_lanes, threads_per_lane
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """See `Backend`. The pixels are read later: leave them alone until the result is there."""
        if self._pool is None or self._pid != os.getpid():  # threads do not survive a fork
            enter = partial(enter_lane, self.threads_per_lane)
            self._pool, self._pid = ThreadPoolExecutor(self.num_lanes, "tower", enter), os.getpid()
        future: Future[Rows] = self._pool.submit(self._compute, pixels, size)
        return future.result

    def _compute(self, pixels: Tensor, size: int) -> Rows:
        with torch.inference_mode(), float32_products(tf32=False):
            return self.compute(padded(pixels, size))[: len(pixels)].numpy().copy()

    def close(self) -> None:
        """See `Backend`."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def padded(pixels: Tensor, size: int) -> Tensor:
    """(n, ...) -> (size, ...), with zeros behind; the same tensor where n is size."""
    if len(pixels) == size:
        return pixels
    whole = torch.zeros(size, *pixels.shape[1:], dtype=pixels.dtype, device=pixels.device)
    whole[: len(pixels)] = pixels
    return whole


class DirectBackend:
    """Devices without streams of their own (mps): copied, computed and copied back in turn."""

    num_lanes = 1

    def __init__(self, compute: Compute, form_name: str, device: torch.device) -> None:
        self.compute, self.form_name, self.device = compute, form_name, device

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """See `Backend`."""
        with torch.inference_mode(), float32_products(tf32=False):
            found = self.compute(padded(pixels, size).to(self.device))[: len(pixels)].float().cpu().numpy().copy()
        return lambda: found

    def close(self) -> None:
        """See `Backend`."""


class _Slot:
    """A pinned buffer for pictures on their way to a GPU, and the event after which it is free again."""

    def __init__(self) -> None:
        self.pixels: Tensor | None = None
        self.free: Any = None

    def filled(self, pixels: Tensor, size: int) -> Tensor:
        """The buffer with `pixels` in it, padded; waits until its last batch has been computed."""
        if self.free is not None:
            self.free.synchronize()
        if self.pixels is None or self.pixels.shape != (size, *pixels.shape[1:]):
            self.pixels = torch.empty(size, *pixels.shape[1:], dtype=torch.uint8, pin_memory=True)
        self.pixels[: len(pixels)] = pixels
        self.pixels[len(pixels) :] = 0
        return self.pixels


class CudaBackend:
    """A CUDA device: batch k + 1 is copied in and batch k - 1 out while batch k is computed, each on a stream of its own.

    `submit` returns as soon as the work is queued, and waits only while three batches are on the device already.
    Pictures that are on the device are taken where they are.
    """

    num_lanes = 1

    def __init__(self, compute: Compute, form_name: str, device: torch.device, *, tf32: bool = False) -> None:
        self.compute, self.form_name, self.device, self.tf32 = compute, form_name, device, tf32
        with torch.cuda.device(device):
            self._in, self._work, self._out = (torch.cuda.Stream() for _ in range(3))  # type: ignore[no-untyped-call]
        self._slots = [_Slot() for _ in range(_CUDA_DEPTH)]
        self._turn = 0

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """See `Backend`. Raises torch.OutOfMemoryError at once when the batch does not fit."""
        with torch.cuda.device(self.device), torch.inference_mode(), float32_products(tf32=self.tf32):
            slot = self._slots[self._turn]
            self._turn = (self._turn + 1) % _CUDA_DEPTH
            on_device = self._copied_in(pixels, size, slot)
            with torch.cuda.stream(self._work):
                found = self.compute(on_device)
                slot.free = self._work.record_event()
            self._out.wait_event(slot.free)
            with torch.cuda.stream(self._out):
                found.record_stream(self._out)
                rows = torch.empty(found.shape, dtype=torch.float32, pin_memory=True)
                rows.copy_(found, non_blocking=True)
                done = self._out.record_event()
        num_pictures = len(pixels)

        def fetch() -> Rows:
            done.synchronize()
            return rows[:num_pictures].numpy().copy()

        return fetch

    def _copied_in(self, pixels: Tensor, size: int, slot: _Slot) -> Tensor:
        if pixels.device.type == "cuda":
            ready = torch.cuda.current_stream(pixels.device).record_event()
            self._work.wait_event(ready)
            with torch.cuda.stream(self._work):
                moved = padded(pixels.to(self.device), size)
            pixels.record_stream(self._work)
            return moved
        host = slot.filled(pixels, size)
        with torch.cuda.stream(self._in):
            on_device = host.to(self.device, non_blocking=True)
            slot.free = self._in.record_event()  # also where the computation then fails for want of memory
        self._work.wait_event(slot.free)
        on_device.record_stream(self._work)
        return on_device

    def close(self) -> None:
        """See `Backend`."""
        torch.cuda.synchronize(self.device)
        self._slots = [_Slot() for _ in range(_CUDA_DEPTH)]
        if isinstance(self.compute, Captured):
            self.compute.release()
        torch.cuda.empty_cache()


class NarrowedNorm(nn.LayerNorm):
    """A LayerNorm of float32 tokens whose result goes into products of another dtype."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__(width, LAYER_NORM_EPS)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """(..., W) float32 -> (..., W) of `dtype`."""
        return super().forward(x).to(self.dtype)


def own_tower(tower: ClipVisionTower, device: torch.device, dtype: torch.dtype) -> ClipVisionTower:
    """The tower on `device`; for a 16-bit `dtype`, with the products in it and all else in float32.

    The sums that the blocks add to (the residual stream) stay float32. Rounding them to bfloat16 after every block costs six
    times the drift of all other roundings together (random L/14, `worst_case_drift`: 0.21 against 0.035).
    Tensors that already are as wanted are shared, not copied.
    """
    with torch.device("meta"):
        copy = ClipVisionTower(tower.shape, tower.activation)
        if dtype != torch.float32:
            for block in copy.blocks:
                block.norm_1 = NarrowedNorm(tower.shape.width, dtype)
                block.norm_2 = NarrowedNorm(tower.shape.width, dtype)
    state = {
        name: tensor.detach().to(device, dtype if any(part in f".{name}" for part in _PRODUCT_NAMES) else torch.float32)
        for name, tensor in tower.state_dict().items()
    }
    copy.load_state_dict(state, strict=True, assign=True)
    return copy.requires_grad_(False).eval()


def candidates(device: torch.device, tower: ClipVisionTower | LibraryModule) -> list[Precision]:
    """What "auto" tries beside fp32, the likely fastest first. fp8, of which no card's speed is known, is had by name only."""
    if isinstance(tower, LibraryModule) and device.type == "cpu":
        return ["bf16"] if multiplies_bf16() else []
    found: dict[str, list[Precision]] = {"cpu": ["int8", "bf16"], "cuda": ["fp16", "bf16", "tf32"]}
    return found.get(device.type, [])


def default_batch_size(device: torch.device, shape: TowerShape | LibraryShape) -> int | None:
    """Pictures computed together; None where it is found by trying."""
    return {"cpu": max(1, _CPU_BATCH_TOKENS // shape.num_tokens), "cuda": None}.get(device.type, _MPS_BATCH)


def build_backend(
    tower: ClipVisionTower | LibraryModule,
    device: torch.device,
    precision: Precision,
    *,
    compile: bool = False,
    num_threads: int | None = None,
) -> Backend:
    """Raises BeholderError: the device or the tower lacks the precision, or a tower to compile has no repeated blocks."""
    if precision not in _HAS[device.type]:
        choices = ", ".join(_HAS[device.type])
        raise BeholderError(f"--precision {precision}: not on {device.type}; choose one of {choices} or auto")
    if isinstance(tower, LibraryModule):
        return _library_backend(tower, device, precision, compile=compile, num_threads=num_threads)
    dtype = _DTYPES.get(precision, torch.float32)
    if device.type == "cpu" and (precision == "int8" or (precision == "bf16" and not compile)):
        fault = find_fault(tower.activation, int8=precision == "int8")
        if fault is None:
            support = int8_support() if precision == "int8" else None
            assert not isinstance(support, str)  # that would be a fault
            packed = OnednnTower(tower, default_batch_size(device, tower.shape) or 1, int8=support)
            return CpuBackend(packed, packed.form_name, num_lanes=num_threads or torch.get_num_threads())
        if precision == "int8":
            raise BeholderError(f"--precision int8: {fault}; choose bf16, fp32 or auto")
    own = own_tower(tower, device, dtype)
    if precision == "fp8":
        fault = fp8_fault(tower, device)
        if fault is not None:
            raise BeholderError(f"--precision fp8: {fault}; choose bf16 or auto")
        own = with_fp8_products(own)
    compute: Compute = CompiledTower(own, own.blocks[:-1]) if compile else own  # the last one gives one token only
    if compile and device.type == "cuda":
        compute = Captured(compute)
    return _backend_for(compute, device, precision, compile=compile, num_threads=num_threads)


def _library_backend(
    tower: LibraryModule, device: torch.device, precision: Precision, *, compile: bool, num_threads: int | None
) -> Backend:
    """Another library's tower as torch's own operators compute it; its batches are not replayed as graphs.

    What a network of unknown make does between its products (transfers, choices by value) may not be fit for a graph.
    """
    if precision in ("int8", "fp8"):
        raise BeholderError(f"--precision {precision}: only for CLIP's own shapes; choose bf16, fp32 or auto")
    plain = OnDevice(tower, device, _DTYPES[precision], precision)
    compute: Compute = CompiledTower(plain, plain.blocks()) if compile else plain
    return _backend_for(compute, device, precision, compile=compile, num_threads=num_threads)


def _backend_for(
    compute: Compute, device: torch.device, precision: Precision, *, compile: bool, num_threads: int | None
) -> Backend:
    """What a device is run with; on a processor a compiled tower has all threads to itself."""
    name = "compiled" if compile else "plain"
    if device.type == "cpu":
        num_lanes = num_threads or torch.get_num_threads()
        if compile:
            return CpuBackend(compute, name, num_lanes=1, threads_per_lane=num_lanes)
        return CpuBackend(compute, name, num_lanes=num_lanes)
    if device.type == "cuda":
        return CudaBackend(compute, name, device, tf32=precision == "tf32")
    return DirectBackend(compute, name, device)
