"""The engine: uint8 pictures to embeddings, with device, precision and batch size chosen and the hardware kept busy.

    engine = Engine(tower, device="auto", precision="auto")
    embeddings = engine.embed(pixels)                 # (N, S, S, 3) uint8 -> (N, D) float32, not normalised

A picture's embedding does not depend, to the bit, on the other pictures of the call, their number or its place among them:
pictures are computed in batches of one size, the last one filled up. It does depend on device, precision and batch size.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from beholder.engine import Precision
from beholder.engine.backends import Backend, Fetch, build_backend, default_batch_size
from beholder.engine.devices import device_name, find_device
from beholder.engine.drift import NUM_CHECK_PICTURES
from beholder.engine.library import repeated_blocks
from beholder.engine.self_check import (
    FIRST_CUDA_BATCH,
    Situation,
    check_rows,
    compiled_fault,
    find_batch_size,
    refuse_drift,
    self_check,
)
from beholder.errors import BeholderError, InputError, text_of
from beholder.models.clip import ClipVisionTower
from beholder.models.library_towers import LibraryModule, LibraryTower, weights_sha256
from beholder.notices import doing, say

if TYPE_CHECKING:
    from beholder.models.heads import Head
    from beholder.models.towers import Tower


@dataclass
class _Batch:
    """At most `size` pictures, handed over as one batch, and what waits for their embeddings."""

    pixels: Tensor
    size: int
    fetch: Fetch


Pending = list[_Batch]
"""Pictures handed to `Engine.submit`, for `Engine.result`."""


class Engine:
    """Runs one tower on one device.

    Attributes:
        device: the torch device.
        precision: what is computed in: fp32, tf32, bf16, fp16, fp8 or int8; never "auto".
        batch_size: pictures computed together. On a GPU it is halved when memory runs out. None until the first call
            where it is found by trying.
        compile_seconds: what compiling took, the first batch and finding its size included.
        check_seconds: what measuring for "auto" took; 0 where what was measured before was remembered.
        dim: length of an embedding.
        image_px: side of the pictures.
    """

    def __init__(
        self,
        tower: ClipVisionTower | LibraryModule | Tower | LibraryTower,
        *,
        device: str = "auto",
        precision: Precision | Literal["auto"] = "auto",
        compile: bool = False,
        batch_size: int | None = None,
        num_threads: int | None = None,
        heads: Sequence[Head] = (),
    ) -> None:
        """Bring the tower to its device and form.

        Args:
            tower: what `load_tower` gives, or a module with float32 weights in the main memory; it is not changed.
            device: auto, cpu, cuda, cuda:1 or mps.
            precision: "auto" is measured (`self_check`): the most exact one, or a faster one whose drift on eight made
                pictures, against float32 on the same device, stays inside 0.02 and that is worth it. Measured once for these
                weights, device and version of torch, then remembered; a head for which the drift is larger gets a more exact
                one.
            compile: have the blocks compiled by `torch.compile` (once for all; on a processor it needs a C++ compiler).
                Where torch cannot compile, or what comes out is something else, the tower is computed as it is
                written, and a line says so.
            batch_size: pictures computed together; None: 2 on a processor's core, found by trying on CUDA.
            num_threads: cores used on a processor; None: as many as torch uses.
            heads: whose scores must stay inside 0.02, too.

        Raises:
            BeholderError: no such device, a precision that it does not have, or fp8 where it moves scores by more than 0.02.
        """
        if batch_size is not None and batch_size < 1:
            raise BeholderError(f"--batch-size {batch_size}: it must be at least 1")
        self.device = find_device(device)
        self.image_px, self.dim = tower.shape.image_px, tower.shape.dim
        self._tower: ClipVisionTower | LibraryModule
        if isinstance(tower, ClipVisionTower | LibraryModule):
            self._tower, self._sha256 = tower, ""
        else:
            self._tower, self._sha256 = tower.module, tower.sha256
        self._compile = compile
        self._num_threads = num_threads
        self._heads = tuple(head for head in heads if head.dim == self.dim)
        self._check: dict[str, Any] | None = None
        self.check_seconds = 0.0
        if precision == "auto":
            self._check = self_check(self._situation(), on_measured=partial(setattr, self, "check_seconds"))
        self.precision: Precision = self._check["chosen"] if self._check else precision  # type: ignore[assignment]
        self.batch_size = batch_size or default_batch_size(self.device, tower.shape)
        self.compile_seconds = 0.0
        self._backend: Backend = self._built(compile=False)
        if self._compile:
            self._have_compiled()
        if precision == "fp8":  # asked for by name; in the form that will compute
            refuse_drift("fp8", self.check()["drift"])

    def _built(self, *, compile: bool) -> Backend:
        return build_backend(self._tower, self.device, self.precision, compile=compile, num_threads=self._num_threads)

    def _have_compiled(self) -> None:
        """Take the compiled form where torch can make it and it gives what the plain one gives; else say so and stay."""
        if self.precision == "int8":  # has a form of its own
            self._compile = False
            return
        began = time.perf_counter()
        self.batch_size = self.batch_size or self._found_batch_size()
        with doing("compiling the tower"):
            why = self._compiled_instead()
        self.compile_seconds = time.perf_counter() - began
        if why:
            self._compile = False
            self._let_go()
            self._backend = self._built(compile=False)
            say(f"{why}: computed as it is written")
            return
        say(f"compiled the tower in {self.compile_seconds:.0f} s")

    def _compiled_instead(self) -> str:
        """Put the compiled form in the plain one's place; why it is not to be trusted, "" where it is.

        Plain form, float32 and compiled form are on the device one after the other, the first two with eight pictures.
        """
        assert self.batch_size is not None
        few = min(self.batch_size, NUM_CHECK_PICTURES)
        try:
            if isinstance(self._tower, LibraryModule):
                repeated_blocks(self._tower)
            exact = usual = check_rows(self._backend, self.image_px, few)
            self._let_go()
            if self.precision != "fp32":
                self._backend = build_backend(self._tower, self.device, "fp32", num_threads=self._num_threads)
                exact = check_rows(self._backend, self.image_px, few)
                self._let_go()
            self._backend = self._built(compile=True)
            return compiled_fault(exact, usual, check_rows(self._backend, self.image_px, self.batch_size))
        except (BeholderError, torch.OutOfMemoryError) as error:
            return text_of(error, None).partition("; leave")[0]

    def _let_go(self) -> None:
        """Free what computes, weights and all, where the next one is to take its place."""
        if hasattr(self, "_backend"):
            self._backend.close()
            del self._backend
        gc.collect()  # a compiled block refers to itself
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def embed(self, pixels: npt.NDArray[np.uint8] | Tensor) -> npt.NDArray[np.float32]:
        """(N, S, S, 3) uint8, height x width x RGB, as `beholder.preprocess` gives them -> (N, D) float32, not normalised.

        N may be 0. Raises InputError for another shape or dtype.
        """
        return self.result(self.submit(pixels))

    def submit(self, pixels: npt.NDArray[np.uint8] | Tensor) -> Pending:
        """Begin with (N, S, S, 3) uint8 pictures; `result` waits for them. Do not change them until then.

        Calls overlap: submit the next pictures before asking for the last ones' result. One thread at a time may use an engine.
        """
        whole = self._checked(pixels)
        batches: Pending = []
        if len(whole) and self.batch_size is None:
            self.batch_size = self._found_batch_size()
        size = self.batch_size or 1  # may be halved on the way; then each of these is cut further
        for start in range(0, len(whole), size):
            batches += self._begun(whole[start : start + size])
        return batches

    def result(self, pending: Pending) -> npt.NDArray[np.float32]:
        """(N, D) float32 of the pictures of one `submit`, in their order."""
        rows = [self._finished(batch) for batch in pending]
        return np.concatenate(rows) if rows else np.empty((0, self.dim), np.float32)

    @property
    def call_size(self) -> int:
        """Pictures to hand over at a time so that nothing idles: whole batches, two for every lane."""
        return (self.batch_size or FIRST_CUDA_BATCH) * self._backend.num_lanes * 2

    def close(self) -> None:
        """Give back threads and buffers."""
        self._backend.close()

    def _checked(self, pixels: npt.NDArray[np.uint8] | Tensor) -> Tensor:
        side = self.image_px
        if isinstance(pixels, Tensor):
            whole = pixels
        else:
            array = np.asarray(pixels)
            if array.dtype != np.uint8:
                raise InputError(f"pictures must be uint8, not {array.dtype}")
            whole = torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())
        if whole.dtype != torch.uint8:
            raise InputError(f"pictures must be uint8, not {whole.dtype}")
        if tuple(whole.shape[1:]) != (side, side, 3):
            raise InputError(f"pictures must be (N, {side}, {side}, 3), not {tuple(whole.shape)}")
        return whole if whole.device.type in ("cpu", self.device.type) else whole.cpu()

    def _begun(self, pixels: Tensor) -> list[_Batch]:
        """Submit at most a batch; in smaller ones where memory does not hold it."""
        size = self.batch_size or 1
        if len(pixels) > size:
            return [batch for start in range(0, len(pixels), size) for batch in self._begun(pixels[start : start + size])]
        try:
            return [_Batch(pixels, size, self._backend.submit(pixels, size))]
        except torch.OutOfMemoryError:
            pass  # outside of the handler the failed batch is no longer referred to, and its memory is free
        self._halve(size)
        return self._begun(pixels)

    def _finished(self, batch: _Batch) -> npt.NDArray[np.float32]:
        try:
            return batch.fetch()
        except torch.OutOfMemoryError:
            pass
        self._halve(batch.size)
        return self.result(self._begun(batch.pixels))

    def _halve(self, size: int) -> None:
        """Go on with half of `size`, or less if that was decided meanwhile. Raises BeholderError where one is too much."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if size == 1:
            raise BeholderError(f"--device {self.device}: no memory for a single picture; choose another device or precision")
        self.batch_size = min(self.batch_size or size, size // 2)

    # What was chosen, and why

    def describe(self) -> dict[str, Any]:
        """A JSON-ready record for stamps. `drift` is null until the self-check was made ("auto" makes it, or `check`)."""
        return {
            "precision": self.precision,
            "device": self.device.type,
            "device_name": device_name(self.device),
            "batch_size": self.batch_size,
            "compiled": self._compile,
            "num_lanes": self._backend.num_lanes,
            "form": self._backend.form_name,
            "torch": str(torch.__version__),
            "drift": None if self._check is None else self._check["drift"].get(self.precision),
            "self_check": self._check,
        }

    def check(self) -> dict[str, Any]:
        """The self-check for the precision in use: {"drift": {precision: score units}, ...}; remembered like that of "auto"."""
        if self._check is None:
            self._check = self_check(self._situation(), [self.precision])
        return self._check

    def _situation(self) -> Situation:
        sha256 = self._sha256 or weights_sha256(self._tower)
        return Situation(self._tower, sha256, self.device, self._compile, self._num_threads, self._heads)

    def _found_batch_size(self) -> int:
        """The batch from which doubling no longer pays, or memory ends; remembered, so that later runs give the same bits."""
        return find_batch_size(self._backend, self.device, self._tower.shape, self.precision)
