"""A tower whose repeated block torch compiles, once for all of them, so in seconds; on CUDA its batches are replayed as graphs.

Inside a block inductor joins what stands between the products (norms, activation, residual sums, rounding for fp8) into a few
kernels. What is not repeated (patch embedding, our own towers' last block, which computes one token) stays as it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from beholder.errors import BeholderError, text_of
from beholder.notices import say

_WARM_UPS = 3
"""Runs before a graph is taken, as torch asks for: libraries choose their kernels in the first."""
_MOST_FORMS = 256
"""Of one block: sizes of batches times precisions times towers of one process. From 8 on torch would, by itself, compute as it
is written, with other last digits and nothing said."""


def cannot_compile(error: BaseException) -> BeholderError | None:
    """What the compiler's failure means to the user; None for any other error. Its errors have no common parent."""
    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return None
    text = text_of(error, None).split(" Set TORCHDYNAMO_")[0][:200]
    return BeholderError(f"--compile: torch could not compile the tower ({text}); leave --compile out")


def memory_error(error: BaseException) -> torch.OutOfMemoryError | None:
    """That memory ran out, where this is behind an error: ending a broken capture raises one of its own over it."""
    seen: list[BaseException] = []
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, torch.OutOfMemoryError):
            return one
        if one is not None and one not in seen:
            seen.append(one)
            waiting += [one.__context__, one.__cause__]
    return None


class CompiledTower:
    """Computes as the tower it is given, some of whose blocks it compiles at the first batch of a size.

    Attributes:
        seconds: what first batches of their size took, in all.
    """

    def __init__(self, tower: Callable[[Tensor], Tensor], blocks: Iterable[nn.Module]) -> None:
        """Compile these blocks of the tower, which must be nobody else's."""
        self._tower = tower
        self._sizes: set[tuple[int, ...]] = set()
        self.seconds = 0.0
        for block in blocks:
            block.compile(dynamic=False)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(size, S, S, 3) uint8 -> (size, D) float32. Raises BeholderError where torch cannot compile."""
        began = time.perf_counter()
        is_first = tuple(pixels.shape) not in self._sizes
        try:
            found: Tensor = self._first(pixels) if is_first else self._tower(pixels)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            known = cannot_compile(error)
            if known is None:
                raise
            raise known from error
        if is_first:
            self._sizes.add(tuple(pixels.shape))
            self.seconds += time.perf_counter() - began
        return found

    def _first(self, pixels: Tensor) -> Tensor:
        """A batch of a size that its blocks may have to be compiled for; torch's own limit stays the program's."""
        from torch._dynamo import config  # a second of imports, for this alone

        with config.patch(cache_size_limit=_MOST_FORMS, accumulated_cache_size_limit=64 * _MOST_FORMS):
            return self._tower(pixels)


class Captured:
    """Replays the kernels of one batch as a CUDA graph: the processor starts one instead of hundreds.

    A graph is taken at the first batch of a size, on the stream that is current; another size takes its place. Where none can
    be taken, a line says so, and batches are computed as they come.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        self._compute = compute
        self._graph: torch.cuda.CUDAGraph | None = None
        self._pixels: Tensor | None = None
        self._found: Tensor | None = None
        self._is_off = False

    def __call__(self, pixels: Tensor) -> Tensor:
        """(size, S, S, 3) uint8 on the device -> (size, D) float32 on the device."""
        if self._is_off:
            return self._compute(pixels)
        if self._pixels is None or self._pixels.shape != pixels.shape:
            self._take(pixels)
            if self._is_off:
                return self._compute(pixels)
        assert self._graph is not None
        assert self._pixels is not None
        assert self._found is not None
        self._pixels.copy_(pixels)
        self._graph.replay()
        return self._found.clone()  # the next batch writes to the same place

    def release(self) -> None:
        """Free the graph and the memory it holds; the next batch takes it anew."""
        self._graph = self._pixels = self._found = None

    def _take(self, pixels: Tensor) -> None:
        """Take the graph of batches of this shape."""
        self.release()
        still = pixels.clone()
        for _ in range(_WARM_UPS):
            self._compute(still)
        torch.cuda.current_stream(pixels.device).synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(pixels.device), capture_error_mode="thread_local"):
                found = self._compute(still)
        except RuntimeError as error:
            if (known := memory_error(error)) is not None:
                raise torch.OutOfMemoryError(str(known)) from None
            self._is_off = True
            say(f"batches run without a CUDA graph ({text_of(error)})")
            return
        self._graph, self._pixels, self._found = graph, still, found
