"""Files of weights, heads' and towers': which kind a file is, and the tensors in safetensors, `.npy`, `.npz` and torch's files.

Nothing in a file is run, and no size that it claims is believed unchecked. Of safetensors
(https://github.com/huggingface/safetensors#format: 8 bytes little-endian length, that many bytes of JSON, then the tensors'
bytes), local or by URL, only the header and the asked-for tensors are read; bfloat16, which NumPy has not, is understood. They
are written here because the same tensors must give the same bytes, and so the same sha256, every time.

Pickles are opened with torch's `weights_only=True`. A TorchScript archive is a zip: `<name>/data.pkl` describes the module
tree, `<name>/data/<n>` hold the tensors' bytes, `<name>/code/` is the program
(https://pytorch.org/docs/stable/jit.html#saving-modules). `torch.jit.load` would compile that program, and torch's
`weights_only` loader turns these files away; so the description is read here, by an unpickler that knows tensors only.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError, InputError, damaged, reason_of, text_of
from beholder.io import locations, storage
from beholder.models.pickles import check_pickle

if TYPE_CHECKING:
    import torch

Kind = Literal["safetensors", "npy", "npz", "torchscript", "torch archive", "other"]
Shapes = Mapping[str, tuple[int, ...]]

_MAX_HEADER_BYTES = 16 << 20
"""Published models have under 1 MB; a header of this size takes about 1 GB to take apart."""
_MAX_HEAD_BYTES = 256 << 20
"""Of all layers of a head, unpacked; a published one has 3.7 MB."""
_MAX_SPAN_BYTES = 16 << 20
_ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1,
    "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
}  # fmt: skip
_FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def look_at(path: Path) -> tuple[Kind, bytes]:
    """Which kind a local file of weights seems to be, and its first 4096 bytes. Raises HeadError where it cannot be read."""
    try:
        with path.open("rb") as file:
            start = file.read(4096)
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error
    if len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return "safetensors", start
    if not start.startswith(b"PK\3\4"):
        return "npy" if start.startswith(b"\x93NUMPY") else "other", start
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # a damaged zip can raise nearly anything; who reads archives of torch says what is wrong
        return "torch archive", start
    if names and all(name.endswith(".npy") for name in names):
        return "npz", start
    return "torchscript" if any("/code/" in name for name in names) else "torch archive", start


def refuse_no_weights(path: Path, start: bytes, what: str) -> None:
    """Raise HeadError for files that come instead of the wanted one (`what`: "a head", say), told by how they start."""
    if not start:
        raise HeadError(f"{path} is empty; get the file again")
    if start.lstrip().startswith(b"<"):
        raise HeadError(f"{path} is a web page, not {what}; the download went wrong, get the file again")
    if start.startswith(b"version https://git-lfs"):
        raise HeadError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def listed(names: Sequence[str]) -> str:
    """Up to four names, and how many more there are, for messages."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies: its dtype word, its shape, and its bytes [start, stop) in the file."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def read_exactly(path: str, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of `path`. Raises HeadError when it is shorter or cannot be read.

    A web server may ignore the range and send everything; the part is then cut out here.
    """
    try:
        data = storage.read_range(path, start, stop)
    except InputError as error:
        raise HeadError(str(error)) from error
    if len(data) > stop - start:
        data = data[start:stop]
    if len(data) < stop - start:
        raise HeadError(f"{path} is cut short: bytes {start} to {stop} are not all there; get the file again")
    return data


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file.

    Attributes:
        path: local path or URL.
        tensors: what it holds, by name.
        metadata: the header's free texts.
        num_bytes: size that the header promises for the whole file.
    """

    path: str
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    num_bytes: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor, by name."""
        return {name: info.shape for name, info in self.tensors.items()}

    def read(self, names: Iterable[str]) -> dict[str, npt.NDArray[np.float64]]:
        """The named tensors of a head as float64, exactly; neighbours of up to 16 MiB are read at once.

        Raises HeadError for tensors that are too large, or no floats.
        """
        wanted = sorted(names, key=lambda name: self.tensors[name].start)
        num_bytes = sum(self.tensors[name].stop - self.tensors[name].start for name in wanted)
        if num_bytes > _MAX_HEAD_BYTES:
            raise HeadError(f"{self.path}: its layers have {num_bytes:,} bytes; a head has a few million at most")
        runs: list[list[str]] = []
        for name in wanted:
            if not runs or self.tensors[name].stop - self.tensors[runs[-1][0]].start > _MAX_SPAN_BYTES:
                runs.append([])
            runs[-1].append(name)
        found: dict[str, npt.NDArray[np.float64]] = {}
        for run in runs:
            first, stop = self.tensors[run[0]].start, max(self.tensors[name].stop for name in run)
            data = read_exactly(self.path, first, stop)
            for name in run:
                info = self.tensors[name]
                found[name] = self._decoded(name, data[info.start - first : info.stop - first])
        return found

    def _decoded(self, name: str, data: bytes) -> npt.NDArray[np.float64]:
        info = self.tensors[name]
        if info.dtype not in (*_FLOATS, "BF16"):
            raise HeadError(f"{self.path}: tensor {name} holds {info.dtype}, not floating-point weights")
        with damaged(lambda why: HeadError(f"{self.path} is damaged: tensor {name}: {why}")):
            if info.dtype == "BF16":
                upper_halves = np.frombuffer(data, "<u2").astype(np.uint32) << 16
                return upper_halves.view(np.float32).astype(np.float64).reshape(info.shape)
            return np.frombuffer(data, _FLOATS[info.dtype]).astype(np.float64).reshape(info.shape)


def open_tensors(path: str) -> TensorFile:
    """Read the header of the safetensors file at `path`, a local path or a URL.

    Raises HeadError when it cannot be reached, is no safetensors file, or is shorter than it promises.
    """
    header_bytes = int.from_bytes(read_exactly(path, 0, 8), "little")
    if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
        raise HeadError(f"{path} is not a safetensors file: it does not begin with the length of a header")
    text, data_start = read_exactly(path, 8, 8 + header_bytes), 8 + header_bytes
    try:
        header = json.loads(text, object_pairs_hook=_each_once)
        metadata = header.pop("__metadata__", {})
        if not all(isinstance(text, str) for text in (*metadata, *metadata.values())):
            raise ValueError("metadata that is not text")
        tensors = {name: _tensor_info(name, record, data_start) for name, record in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = reason_of(error)
        raise HeadError(f"{path} is not a sound safetensors file: its header does not make sense ({reason})") from None
    end = max((info.stop for info in tensors.values()), default=data_start)
    found = locations.local_path(path).stat().st_size if locations.is_local(path) else end
    if found < end:
        raise HeadError(f"{path} is cut short: its header promises {end} bytes; get the file again")
    if found > end:
        raise HeadError(f"{path} has {found - end} bytes after the {end} that its header promises; get the file again")
    return TensorFile(path, tensors, dict(metadata), end)


def _tensor_info(name: str, record: Any, data_start: int) -> TensorInfo:
    start, stop = _whole_numbers(record["data_offsets"])
    shape, dtype = _whole_numbers(record["shape"]), record["dtype"]
    is_as_long = dtype not in _ITEM_BYTES or stop - start == math.prod(shape) * _ITEM_BYTES[dtype]
    if min((0, *shape)) < 0 or not 0 <= start <= stop or not is_as_long:
        raise ValueError(f"tensor {name} and its bytes do not agree")
    return TensorInfo(dtype, shape, data_start + start, data_start + stop)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names something twice")
    return found


def _whole_numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(value) is int for value in values):
        raise ValueError(f"{str(values)[:50]} where whole numbers belong")
    return tuple(values)


def pack_header(tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> bytes:
    """The header of a safetensors file with these tensors, one behind the other in this order wherever they lie now."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, info in tensors.items():
        stop = at + info.stop - info.start
        header[name] = {"dtype": info.dtype, "shape": list(info.shape), "data_offsets": [at, stop]}
        at = stop
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pack_tensors(tensors: Mapping[str, npt.NDArray[np.float64]], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of float64 tensors, in the order of their names; the same input gives the same bytes."""
    arrays = {name: np.ascontiguousarray(tensors[name], "<f8") for name in sorted(tensors)}
    infos = {name: TensorInfo("F64", array.shape, 0, array.nbytes) for name, array in arrays.items()}
    return pack_header(infos, dict(sorted(metadata.items()))) + b"".join(array.tobytes() for array in arrays.values())


def read_npy(path: Path) -> npt.NDArray[Any]:
    """The array of a `.npy` file. Raises HeadError, and OSError."""
    num_bytes = path.stat().st_size
    if num_bytes > _MAX_HEAD_BYTES:
        raise HeadError(f"{path} has {num_bytes:,} bytes; a head has a few million at most, so this is something else")
    return _array(path.read_bytes(), str(path))


def read_npz(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an `.npz` archive by name. Raises HeadError, and OSError."""
    arrays: dict[str, npt.NDArray[Any]] = {}
    with damaged(lambda why: HeadError(f"{path} is damaged: {why}; write it again")), zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        num_bytes = sum(info.file_size for info in infos)
        if num_bytes > _MAX_HEAD_BYTES:
            raise HeadError(f"{path} unpacks to {num_bytes:,} bytes; a head has a few million at most")
        for info in infos:
            name = info.filename.removesuffix(".npy")
            if name in arrays:
                raise HeadError(f"{path} has two arrays called {name}; save it again under two names")
            with archive.open(info) as member:
                arrays[name] = _array(member.read(info.file_size + 1), f"{path}[{name}]")
    return arrays


def _array(data: bytes, where: str) -> npt.NDArray[Any]:
    """The array of an `.npy` file's bytes; its header is believed only as far as there are bytes, and objects are refused."""
    stream = io.BytesIO(data)
    with damaged(lambda why: HeadError(f"{where} is damaged: {why}; write it again")), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and Python remark on odd headers; what matters is raised
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, is_fortran, dtype = read(stream)
        if dtype.hasobject:
            raise HeadError(
                f"{where} is refused: it holds Python objects, which could run code; save plain numbers, "
                "for example numpy.savez('head.npz', coef_=model.coef_, intercept_=model.intercept_)"
            )
        num_bytes = math.prod(shape) * dtype.itemsize
        found = len(data) - stream.tell()
        if min((0, *shape)) < 0 or found != num_bytes:
            raise HeadError(f"{where} is damaged: its header promises {num_bytes:,} bytes of numbers, and it has {found:,}")
        if not num_bytes:
            return np.empty(shape, dtype)
        return np.frombuffer(data, dtype, offset=stream.tell()).reshape(shape, order="F" if is_fortran else "C")


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
            raise HeadError(f"{path} is refused: its {info.filename!r} is compressed, and torch stores numbers uncompressed")
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
            _check_pickles(path, file, is_archive=is_archive)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch remarks on pickle protocols; what matters is raised
                found = torch.load(source, map_location="cpu", weights_only=True, mmap=source is not file or None)
        except Exception as error:  # torch raises many kinds on damaged or hostile files, with no common parent
            raise _refused(path, error) from None
        if not is_archive and file.read(1):
            raise HeadError(f"{path} has bytes after the end of its weights; get the file again")
    return found


_OLD_PICKLES = 5
"""That a file of torch's older format begins with: a number, a version, sizes of the system's numbers, the object, storages."""


def _check_pickles(path: Path, file: IO[bytes], *, is_archive: bool) -> None:
    """Refuse pickles that would take memory or time without end; `file` is at its start then as before.

    Raises `pickles.HeavyPickleError`, and what a damaged file makes the libraries raise.
    """
    if is_archive:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if info.filename.rsplit("/", 1)[-1].lower() == "data.pkl":  # torch's reader of zips takes any case
                    with archive.open(info) as member:
                        check_pickle(member)
        return
    for _ in range(_OLD_PICKLES):
        check_pickle(file)
        if not file.read(1):
            break
        file.seek(-1, os.SEEK_CUR)
    file.seek(0)


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
    text = text_of(error, None)
    wanted = re.search(r"GLOBAL ([\w.]+)", text)
    if wanted:
        return HeadError(
            f"{path} is refused: it is a pickle that asks to run {wanted.group(1)}, not plain weights; "
            f"{_way_out(wanted.group(1))}"
        )
    first = re.split(r"(?<=[a-z])\. | Check the documentation", text.split("WeightsUnpickler error: ")[-1], maxsplit=1)[0]
    if re.fullmatch(
        r"(Unsupported operand )?\d+|pop from empty list|.*index out of range|at position \d+, opcode .* unknown", first
    ):
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
            data = archive.read(description)
            check_pickle(io.BytesIO(data))
            root = _Unpickler(data, description.removesuffix(".pkl")).load()
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
