"""A tower in its final form and uint8 pictures in, embeddings out: on all cores, or on a GPU with overlapping copies.

A backend is given at most `size` pictures at a time and always computes `size`: the missing ones are black. So every picture
meets the same arithmetic whatever comes with it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from beholder.engine.devices import float32_products

T = TypeVar("T")
Rows = npt.NDArray[np.float32]
Fetch = Callable[[], Rows]
"""Waits for a batch and gives its embeddings, (n, D) float32; raises what the computation raised."""
Form = Callable[[Tensor], Tensor]
"""(size, S, S, 3) uint8 on the device -> (size, D) float32 on the device."""

_CUDA_DEPTH = 3
"""Batches on a GPU at a time: one is copied in, one computed, one copied out."""
_THREADS_LOCKS: dict[int, threading.Lock] = {}
"""By process: a lock that another thread held at a fork stays locked in the child for ever."""


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

    def __init__(self, form: Form, form_name: str, *, num_lanes: int, threads_per_lane: int = 1) -> None:
        self.form, self.form_name, self.num_lanes, self.threads_per_lane = form, form_name, num_lanes, threads_per_lane
        self._pool: ThreadPoolExecutor | None = None
        self._pid = 0

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """See `Backend`. The pixels are read later: leave them alone until the result is there."""
        if self._pool is None or self._pid != os.getpid():  # threads do not survive a fork
            enter = partial(_enter_lane, self.threads_per_lane)
            self._pool, self._pid = ThreadPoolExecutor(self.num_lanes, "tower", enter), os.getpid()
        future: Future[Rows] = self._pool.submit(self._compute, pixels, size)
        return future.result

    def _compute(self, pixels: Tensor, size: int) -> Rows:
        with torch.inference_mode(), float32_products(tf32=False):
            return self.form(padded(pixels, size))[: len(pixels)].numpy().copy()

    def close(self) -> None:
        """See `Backend`."""
        if self._pool is not None and self._pid == os.getpid():
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._pool = None


def _enter_lane(num_threads: int) -> None:
    """Give this thread its own number of torch threads, and leave the number that new threads start with as it was."""
    with _THREADS_LOCKS.setdefault(os.getpid(), threading.Lock()):
        before = torch.get_num_threads()
        torch.set_num_threads(num_threads)
        if before != num_threads:
            keeper = threading.Thread(target=torch.set_num_threads, args=(before,))
            keeper.start()
            keeper.join()


def on_one_core(work: Callable[[], T]) -> T:
    """What `work` gives, computed as in a lane of its own: products that share cores wait for each other, and time badly."""
    with ThreadPoolExecutor(1, "lane", partial(_enter_lane, 1)) as pool:
        return pool.submit(work).result()


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

    def __init__(self, form: Form, form_name: str, device: torch.device) -> None:
        self.form, self.form_name, self.device = form, form_name, device

    def submit(self, pixels: Tensor, size: int) -> Fetch:
        """See `Backend`."""
        with torch.inference_mode(), float32_products(tf32=False):
            found = self.form(padded(pixels, size).to(self.device))[: len(pixels)].float().cpu().numpy().copy()
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

    def __init__(self, form: Form, form_name: str, device: torch.device, *, tf32: bool = False) -> None:
        self.form, self.form_name, self.device, self.tf32 = form, form_name, device, tf32
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
                found = self.form(on_device)
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
        torch.cuda.empty_cache()
