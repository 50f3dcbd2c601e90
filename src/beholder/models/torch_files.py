"""Files that torch wrote: what they hold, without running anything in them and without believing any size unchecked.

Pickles are opened with torch's `weights_only=True`. A TorchScript archive is a zip: `<name>/data.pkl` describes the module
tree, `<name>/data/<n>` hold the tensors' bytes, `<name>/code/` is the program
(https://pytorch.org/docs/stable/jit.html#saving-modules). `torch.jit.load` would compile that program, and torch's
`weights_only` loader turns these files away; so the description is read here, by an unpickler that knows tensors only.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import HeadError, damaged, reason_of

if TYPE_CHECKING:
    import torch

_ZIP, _ZIP_END, _ZIP_END_BYTES = b"PK\3\4", b"PK\5\6", 22
_MAX_TEXT_BYTES = 64 << 20
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_MAX_CODE_BYTES = 16 << 20
"""Largest packed member of an archive: programs of TorchScript, which torch packs; it stores numbers as they are."""
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


def _is_archive(path: Path) -> bool:
    """Whether torch would open the file as a zip; older files are bare pickles."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _check_archive(path: Path) -> None:
    """Refuse an archive that claims to hold more than the file does, or is not all of the file. Raises HeadError, OSError."""

    def refused(why: str) -> HeadError:
        return HeadError(f"{path} is not a file of plain weights, or is damaged ({why}); get the file again")

    with damaged(refused), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    num_bytes = path.stat().st_size
    held = 0
    for info in members:
        is_packed = info.compress_type != zipfile.ZIP_STORED
        if is_packed and info.file_size > _MAX_CODE_BYTES:
            raise HeadError(f"{path} is refused: its {info.filename!r} is packed, and torch stores numbers as they are")
        if not is_packed and info.file_size != info.compress_size:
            raise HeadError(f"{path} is damaged: {info.filename!r} has two different sizes; get the file again")
        held += info.compress_size
    if held > num_bytes:
        raise HeadError(f"{path} is damaged: it claims to hold {held:,} bytes and has {num_bytes:,}; get the file again")
    with path.open("rb") as file:
        file.seek(num_bytes - _ZIP_END_BYTES)
        if not file.read(_ZIP_END_BYTES).startswith(_ZIP_END):
            raise HeadError(f"{path} has bytes after the end of its archive; get the file again")


def refuse_text(path: Path) -> None:
    """Raise HeadError for a text: a program, a table, a note. Old pickles are texts, too, and pass. Raises OSError."""
    with path.open("rb") as file:
        start = file.read(4096)
        if not start or not _is_text(start):
            return
        file.seek(0)
        if path.stat().st_size <= _MAX_TEXT_BYTES:
            with contextlib.suppress(Exception), Path(os.devnull).open("w", encoding="utf-8") as nowhere:
                pickletools.dis(file, nowhere)  # raises what it likes where this is no pickle; nothing is run
                if not file.read(1):
                    return
    raise HeadError(f"{path} is a text file, not a file of plain weights; name the file that holds them")


def _is_text(start: bytes) -> bool:
    """Whether a file that starts like this is text in UTF-8."""
    if _CONTROL.search(start):
        return False
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return True


def load_weights(path: Path, *, mapped: bool = False) -> Any:
    """What a `.pth` or `.pt` file holds: tensors and plain containers only. Raises HeadError, and OSError.

    `mapped`: tensors of an archive stay in the file until they are used.
    """
    import torch

    is_archive = _is_archive(path)
    refuse_text(path)
    if is_archive:
        _check_archive(path)
    with path.open("rb") as file:
        source: Any = str(path) if mapped and is_archive else file
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch remarks on pickle protocols; what matters is raised
                found = torch.load(source, map_location="cpu", weights_only=True, mmap=source is not file or None)
        except Exception as error:  # torch raises many kinds on damaged or hostile files, with no common parent
            raise _refused(path, error) from None
        if not is_archive and file.read(1):
            raise HeadError(f"{path} has bytes after the end of its weights; get the file again")
    return found


def check_tensor(tensor: torch.Tensor, name: str, path: Path) -> None:
    """Refuse a tensor that names its numbers more than once: it could be of any size. Raises HeadError."""
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise HeadError(f"{path}: tensor {name} is not a plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise HeadError(f"{path}: tensor {name} has more numbers than the file holds of it; save it with .contiguous()")


def check_floats(tensor: torch.Tensor, name: str, where: str | Path) -> None:
    """Refuse a tensor of other numbers than weights are made of. Raises HeadError."""
    import torch

    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) or tensor.layout != torch.strided:
        raise HeadError(f"{where}: tensor {name} holds {tensor.dtype}, not floating-point weights")


def name_of(key: object) -> str:
    """A key of what was loaded, for messages."""
    return key if isinstance(key, str) else f"a {type(key).__name__}"


def _way_out(wanted: str) -> str:
    """How whoever has the pickled objects saves their weights alone."""
    if wanted.startswith("sklearn."):
        return "save its numbers alone: numpy.savez('head.npz', coef_=model.coef_, intercept_=model.intercept_)"
    if wanted.startswith("numpy."):
        return (
            "it holds numpy's objects; save its tensors alone, torch.save(model.state_dict(), 'weights.pt'), "
            "or its arrays: numpy.savez('head.npz', weight=w, bias=b)"
        )
    return "save its state dict alone, where it was made or is trusted: torch.save(model.state_dict(), 'weights.pt')"


def _refused(path: Path, error: Exception) -> HeadError:
    text = " ".join(str(error).split())
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        return HeadError(
            f"{path} is refused: it is a pickle that asks to run {wanted.group(1)}, not plain weights; "
            f"{_way_out(wanted.group(1))}"
        )
    first = re.split(r"(?<=[a-z])\. | Check the documentation", text.split("WeightsUnpickler error: ")[-1], maxsplit=1)[0]
    if re.fullmatch(r"(Unsupported operand )?\d+|pop from empty list|.*index out of range", first):
        first = "it is no pickle"
    return HeadError(f"{path} is not a file of plain weights, or is damaged ({first[:200] or reason_of(error)})")


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
    if _is_archive(path):
        _check_archive(path)
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
    if sum(info.file_size for info in texts) > _MAX_CODE_BYTES:
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
