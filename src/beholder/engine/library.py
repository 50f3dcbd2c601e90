"""Towers of other libraries on a device: float32 as the library has it, or 16 bits where torch's autocast puts them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from beholder.engine import Precision
from beholder.engine.compiled import cannot_compile
from beholder.errors import BeholderError, text_of
from beholder.models.library_towers import LibraryModule

_NARROWED = (nn.Linear, nn.Conv2d)
"""Modules of exactly these classes keep their weights in 16 bits; autocast would narrow them for every batch anew."""


class OnDevice:
    """Computes embeddings in one precision: a `backends.Compute`."""

    def __init__(self, module: LibraryModule, device: torch.device, dtype: torch.dtype, precision: Precision) -> None:
        self._device, self._dtype, self._precision = device, dtype, precision
        self._module = _copied(module, device, dtype)

    def __call__(self, pixels: Tensor) -> Tensor:
        """(B, S, S, 3) uint8 on the device -> (B, D) float32 there. Raises BeholderError where the network cannot do it."""
        if self._dtype == torch.float32:
            found: Tensor = self._module(pixels)
            return found
        normalised = self._module.normalised(pixels)
        try:
            with torch.autocast(self._device.type, self._dtype):
                return self._module.features(normalised)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, NotImplementedError) as error:
            if cannot_compile(error) is not None:
                raise
            what = f"--precision {self._precision}: {self._module.shape.name} cannot be computed in it"
            raise BeholderError(f"{what} ({text_of(error)}); choose fp32") from error

    def blocks(self) -> list[nn.Module]:
        """The network's repeated blocks. Raises BeholderError: see `repeated_blocks`."""
        return repeated_blocks(self._module)


def repeated_blocks(module: LibraryModule) -> list[nn.Module]:
    """A network's repeated blocks. Raises BeholderError where it has none, so nothing that is compiled once for many."""
    found = _repeated(module.network)
    if not found:
        raise BeholderError(f"--compile: {module.shape.name} has no repeated blocks to compile; leave --compile out")
    return found


def _repeated(module: nn.Module) -> list[nn.Module]:
    """The parts of a network that stand in rows of equals (of a class, with tensors of the same shapes), of outermost rows."""
    parts = list(module.children())
    is_row = isinstance(module, nn.ModuleList | nn.Sequential) and len(parts) > 1
    if is_row and any(parts[0].children()) and len({_make_of(part) for part in parts}) == 1:
        return parts
    return [block for part in parts for block in _repeated(part)]


def _make_of(module: nn.Module) -> object:
    return type(module), tuple((name, tensor.shape) for name, tensor in module.state_dict().items())


def _copied(module: LibraryModule, device: torch.device, dtype: torch.dtype) -> LibraryModule:
    """The module on `device`; tensors that already are as wanted are shared, not copied."""
    shared: dict[int, object] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        moved = tensor.detach().to(device)
        shared[id(tensor)] = nn.Parameter(moved, requires_grad=False) if isinstance(tensor, nn.Parameter) else moved
    found = copy.deepcopy(module, shared)
    if dtype != torch.float32:
        for part in found.modules():
            if type(part) in _NARROWED:
                part.to(dtype)
    return found.eval()
