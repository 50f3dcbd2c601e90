"""Devices by the names that users write, and torch's settings of the process and of its threads while something is computed."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from beholder.errors import BeholderError

T = TypeVar("T")

_NAMES = "auto, cpu, cuda, cuda:1, mps"


def find_device(name: str = "auto") -> torch.device:
    """The device called `name`: auto (CUDA, else Apple's, else the processor), cpu, cuda, cuda:N or mps.

    Raises BeholderError when this machine, or this build of torch, has none of it.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("mps" if _has_mps() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise BeholderError(f"--device {name}: there is no such device; choose one of {_NAMES}") from None
    if device.type == "cuda":
        return _cuda_device(name, device)
    if device.type == "mps" and not _has_mps():
        raise BeholderError("--device mps: no Apple GPU that torch can use on this machine; leave --device out")
    if device.type not in ("cpu", "mps"):
        raise BeholderError(f"--device {name}: beholder runs on {_NAMES}")
    return device


def _cuda_device(name: str, device: torch.device) -> torch.device:
    if not torch.cuda.is_available():
        built = f"torch {torch.__version__} was built without CUDA"
        why = built if torch.version.cuda is None else f"torch {torch.__version__} finds no driver or no card; see nvidia-smi"
        raise BeholderError(f"--device {name}: no CUDA device ({why})")
    index = 0 if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise BeholderError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA device(s), counted from 0")
    return torch.device("cuda", index)


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def device_name(device: torch.device) -> str:
    """What the device is called by its maker; for stamps, and to keep measurements of different devices apart."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    if device.type == "cpu" and Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return device.type


def multiplies_bf16() -> bool:
    """Whether the processor has instructions for products of bfloat16; oneDNN also emulates them, no faster than float32."""
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, bool)()) for name in asked)


class _Float32Products:
    """How float32 matrix products are computed is a setting of the whole process: set while anyone here computes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.num_inside = 0
        self.before: list[tuple[Any, str]] = []

    def enter(self, tf32: bool) -> None:
        with self.lock:
            if self.num_inside == 0:
                self.before = _set_float32_products("tf32" if tf32 else "ieee")
            self.num_inside += 1

    def leave(self) -> None:
        with self.lock:
            self.num_inside -= 1
            if self.num_inside == 0:
                for module, value in self.before:
                    if module is torch:
                        torch.set_float32_matmul_precision(value)
                    else:
                        module.fp32_precision = value


_PRODUCTS: dict[int, _Float32Products] = {}
"""By process: a lock that another thread held at a fork stays locked in the child for ever."""


def _set_float32_products(cuda: str) -> list[tuple[Any, str]]:
    """Set CUDA's float32 products, and the processor's to exact ones; what was set before comes back."""
    modules: list[Any] = [torch.backends.cuda.matmul, torch.backends.mkldnn.matmul]  # type: ignore[attr-defined]
    if not all(hasattr(module, "fp32_precision") for module in modules):  # torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high" if cuda == "tf32" else "highest")
        return [(torch, before)]
    kept = [(module, str(module.fp32_precision)) for module in modules]
    for module, value in zip(modules, (cuda, "ieee"), strict=True):
        module.fp32_precision = value
    return kept


@contextlib.contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Float32 products in full precision, whatever the program has set; with `tf32`, in TF32 on CUDA. Restored at the end."""
    products = _PRODUCTS.setdefault(os.getpid(), _Float32Products())
    products.enter(tf32)
    try:
        yield
    finally:
        products.leave()


_THREADS_LOCKS: dict[int, threading.Lock] = {}
"""By process: a lock that another thread held at a fork stays locked in the child for ever."""


def enter_lane(num_threads: int) -> None:
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
    with ThreadPoolExecutor(1, "lane", partial(enter_lane, 1)) as pool:
        return pool.submit(work).result()
