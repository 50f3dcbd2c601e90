"""A TorchScript archive in, its tensors out, without running anything in it: no code is compiled and no class of it is made.

The archive is a zip: `<name>/data.pkl` describes the module tree, `<name>/data/<n>` hold the tensors' bytes, `<name>/code/`
is the program (https://pytorch.org/docs/stable/jit.html#saving-modules). `torch.jit.load` would compile that program, and
torch's `weights_only` loader turns these files away; so the description is read here, by an unpickler that knows tensors only.
"""

from __future__ import annotations

import io
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import HeadError, damaged, reason_of
from beholder.models.torch_archives import MAX_CODE_BYTES, check_archive

if TYPE_CHECKING:
    import torch

_STORAGES = {
    "DoubleStorage": ("float64", 8), "FloatStorage": ("float32", 4), "HalfStorage": ("float16", 2),
    "BFloat16Storage": ("bfloat16", 2), "LongStorage": ("int64", 8), "IntStorage": ("int32", 4), "ShortStorage": ("int16", 2),
    "CharStorage": ("int8", 1), "ByteStorage": ("uint8", 1), "BoolStorage": ("bool", 1),
}  # fmt: skip
_MAX_DESCRIPTION_BYTES = 64 << 20
_MAX_DEPTH = 64
_MAX_ATTRIBUTES = 200_000
"""Met on the walk through the modules, shared ones each time; OpenAI's ViT-L/14 with its text tower has a few thousand."""
_MAX_NAME_CHARS = 1000


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: the archive's member, and its place in it in numbers of its dtype (strides may repeat or skip)."""

    member: str
    dtype: str
    item_bytes: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True)
class ScriptArchive:
    """The tensors of an archive by their names in the module's state dict, and the program's text (for recognition only)."""

    path: Path
    tensors: dict[str, StoredTensor]
    code: str

    def read(self, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """The named tensors, in their own dtypes; checked against the archive's checksums. Raises HeadError."""
        members: dict[str, bytearray] = {}  # tensors may share one
        found: dict[str, torch.Tensor] = {}
        refused = damaged(lambda why: HeadError(f"{self.path} is damaged: {why}; get the file again"))
        with refused, zipfile.ZipFile(self.path) as archive:
            for name in names:
                stored = self.tensors[name]
                if stored.member not in members:
                    members[stored.member] = bytearray(archive.read(stored.member))
                found[name] = _tensor(members[stored.member], stored)
        return found


def open_script(path: Path) -> ScriptArchive:
    """Read the description of the archive at `path`. Raises HeadError when it is damaged or asks for anything but tensors."""
    check_archive(path)
    try:
        with zipfile.ZipFile(path) as archive:
            description = next(
                (name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl")), None
            )
            if description is None or archive.getinfo(description).file_size > _MAX_DESCRIPTION_BYTES:
                raise HeadError(f"{path} is not a sound TorchScript archive: it has no description of its tensors")
            root = _Unpickler(archive.read(description), description.removesuffix(".pkl")).load()
            code = _code(archive)
    except HeadError:
        raise
    except _ForbiddenError as error:
        raise HeadError(f"{path} is refused: it asks to run {error}, and a TorchScript archive of weights does not") from None
    except Exception as error:  # a damaged or hostile pickle can raise nearly anything
        raise HeadError(f"{path} is not a sound TorchScript archive ({reason_of(error)}); get the file again") from None
    return ScriptArchive(path, _tensors_of(root, path), code)


def _code(archive: zipfile.ZipFile) -> str:
    texts = [info for info in archive.infolist() if "/code/" in info.filename and info.filename.endswith(".py")]
    if sum(info.file_size for info in texts) > MAX_CODE_BYTES:
        return ""
    return "\n".join(archive.read(info).decode("utf-8", "replace") for info in texts)


class _ForbiddenError(Exception):
    """The pickle names something that is neither a tensor nor a plain container."""


class _Module:
    """What stands for a module of the archive: its attributes, and nothing that can be called."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: object) -> None:
        """Take the attributes; a module that keeps its state in another way (a list, say) has no tensors by name."""
        if isinstance(state, dict):
            self.attributes = {str(name): value for name, value in state.items()}


class _Unpickler(pickle.Unpickler):
    """Makes modules' attributes, `StoredTensor`s and plain containers; everything else is `_ForbiddenError`."""

    def __init__(self, data: bytes, folder: str) -> None:
        super().__init__(io.BytesIO(data))
        self.folder = folder

    def find_class(self, module: str, name: str) -> Any:
        """The harmless stand-in for what the pickle names."""
        if module.split(".", 1)[0] == "__torch__":
            return _Module
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in _STORAGES:
            return name
        if module == "torch.jit._pickle" and name.startswith(("build_", "restore_type_tag")):
            return _first
        raise _ForbiddenError(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        """("storage", kind, number, device, items) -> (member, dtype, bytes of an item)."""
        word, kind, number, *_ = pid
        if word != "storage" or kind not in _STORAGES:
            raise ValueError(f"an unknown kind of storage: {kind}")
        return (f"{self.folder}/{number}", *_STORAGES[kind])


def _rebuilt(
    storage: tuple[str, str, int], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> StoredTensor:
    member, dtype, item_bytes = storage
    shape, strides = tuple(int(length) for length in size), tuple(int(step) for step in stride)
    if len(shape) != len(strides) or min((0, int(offset), *shape, *strides)) < 0:
        raise ValueError("a tensor whose shape makes no sense")
    return StoredTensor(member, dtype, item_bytes, int(offset), shape, strides)


def _first(value: Any, *_: Any) -> Any:
    return value


def _tensors_of(root: Any, path: Path) -> dict[str, StoredTensor]:
    """Walk the modules as `state_dict` does: one that is shared gives its tensors under each of its names.

    Raises HeadError for modules nested without end, or shared so often that they would never be walked through.
    """
    found: dict[str, StoredTensor] = {}
    num_met = 0
    stack = [(root, "", 0)] if isinstance(root, _Module) else []
    while stack:
        module, prefix, depth = stack.pop()
        num_met += len(module.attributes)
        if depth > _MAX_DEPTH or num_met > _MAX_ATTRIBUTES:
            raise HeadError(f"{path} is not a sound TorchScript archive: its modules are nested without end")
        for name, value in module.attributes.items():
            if isinstance(value, StoredTensor | _Module) and len(prefix) + len(name) > _MAX_NAME_CHARS:
                raise HeadError(f"{path} is not a sound TorchScript archive: a name in it is longer than any model's")
            if isinstance(value, StoredTensor):
                found[prefix + name] = value
            elif isinstance(value, _Module):
                stack.append((value, f"{prefix}{name}.", depth + 1))
    return found


def _tensor(data: bytearray, stored: StoredTensor) -> torch.Tensor:
    import torch

    last = stored.offset + sum((length - 1) * step for length, step in zip(stored.shape, stored.strides, strict=True))
    if math.prod(stored.shape) and (last + 1) * stored.item_bytes > len(data):
        raise ValueError(f"{stored.member} is shorter than its tensor")
    if math.prod(stored.shape) * stored.item_bytes > len(data):
        raise ValueError(f"{stored.member} has fewer numbers than its tensor, which would repeat them")
    flat = torch.frombuffer(data, dtype=getattr(torch, stored.dtype))
    return flat.as_strided(stored.shape, stored.strides, stored.offset)
