"""A file that torch wrote in, what it holds out; nothing in it is run, and no size that it claims is believed unchecked."""

from __future__ import annotations

import codecs
import os
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from beholder.errors import HeadError, damaged, reason_of

if TYPE_CHECKING:
    import torch

_ZIP, _ZIP_END, _ZIP_END_BYTES = b"PK\3\4", b"PK\5\6", 22
_TEXT_BYTES = 4096
_MOST_TEXT_BYTES = 64 << 20
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
MAX_CODE_BYTES = 16 << 20
"""Largest packed member of an archive: programs of TorchScript, which torch packs; it stores numbers as they are."""


def is_archive(path: Path) -> bool:
    """Whether torch would open the file as a zip; older files are bare pickles."""
    with path.open("rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def is_script_archive(path: Path) -> bool:
    """Whether the file is a zip with a TorchScript program in it. Raises HeadError for a damaged zip, OSError."""
    return is_archive(path) and any("/code/" in info.filename for info in _members(path))


def check_archive(path: Path) -> None:
    """Refuse a zip that claims to hold more than the file does, or is not all of the file. Raises HeadError, OSError."""
    if not is_archive(path):
        return
    num_bytes = path.stat().st_size
    held = 0
    for info in _members(path):
        is_packed = info.compress_type != zipfile.ZIP_STORED
        if is_packed and info.file_size > MAX_CODE_BYTES:
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
        start = file.read(_TEXT_BYTES)
        if not start or not _is_text(start):
            return
        file.seek(0)
        if path.stat().st_size <= _MOST_TEXT_BYTES and _is_pickle(file):
            return
    raise HeadError(f"{path} is a text file, not a file of plain weights; name the file that holds them")


def _is_pickle(file: BinaryIO) -> bool:
    """Whether all of a file is instructions of one pickle; a text may well begin as one does. Nothing is run."""
    try:
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            pickletools.dis(file, nowhere)
    except Exception:  # of many kinds, with no common parent
        return False
    return not file.read(1)


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

    refuse_text(path)
    check_archive(path)
    with path.open("rb") as file:
        source: Any = str(path) if mapped and is_archive(path) else file
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch remarks on pickle protocols; what matters is raised
                found = torch.load(source, map_location="cpu", weights_only=True, mmap=source is not file or None)
        except Exception as error:  # torch raises many kinds on damaged or hostile files, with no common parent
            raise _refused(path, error) from None
        if not is_archive(path) and file.read(1):
            raise HeadError(f"{path} has bytes after the end of its weights; get the file again")
    return found


def check_tensor(tensor: torch.Tensor, name: str, path: Path) -> None:
    """Refuse a tensor that names its numbers more than once: it could be of any size. Raises HeadError."""
    import torch

    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        raise HeadError(f"{path}: tensor {name} is not a plain tensor of numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise HeadError(f"{path}: tensor {name} has more numbers than the file holds of it; save it with .contiguous()")


def name_of(key: object) -> str:
    """A key of what was loaded, for messages."""
    return key if isinstance(key, str) else f"a {type(key).__name__}"


def _members(path: Path) -> list[zipfile.ZipInfo]:
    def refused(why: str) -> HeadError:
        return HeadError(f"{path} is not a file of plain weights, or is damaged ({why}); get the file again")

    with damaged(refused), zipfile.ZipFile(path) as archive:
        return archive.infolist()


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
