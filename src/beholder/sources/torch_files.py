"""Reader of files that torch.save wrote (a tensor, or a dict with one and names); nothing in them is run."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from beholder import columns
from beholder.errors import HeadError, InputError
from beholder.io import locations, remote, storage
from beholder.sources.labels import refuse_columns, select_labels
from beholder.sources.npy import check_array
from beholder.sources.reader import Block, Part, ReadOptions

if TYPE_CHECKING:
    import torch

_PREFERRED = ("embeddings", "embedding", "img_emb", "image_embeddings", "image_embeds", "image_features", "features")
_USUAL = {"samples": columns.SAMPLE, "names": columns.SAMPLE, "paths": "path", "files": "path", "ids": "id", "keys": "key"}
"""What lists of names are called -> the columns that they are."""
_WEIGHTS = ("weight", "bias", "state_dict", "model", "optimizer")
_MAPPED_BYTES = 1 << 30
"""Tensors of larger files stay in the file until they are used."""


class TorchReader:
    """Reads `.pt` and `.pth` files: a 2-D float tensor; a dict with one, and lists of names; or a dict of name -> 1-D tensor.

    Opened with weights_only: tensors and plain containers, nothing else.
    """

    def inspect(self, path: str, name: str, options: ReadOptions) -> Part:
        """Open it and choose the embeddings. Raises InputError."""
        num_bytes = storage.size(path)
        with _opened(path, num_bytes) as found:
            rows, labels = _choose(found, options, path)
            dtype = "float32" if str(rows.dtype) == "torch.bfloat16" else str(rows.dtype).removeprefix("torch.")
            check_array(tuple(rows.shape), np.dtype(dtype), path)
        detail = {"labels": labels.schema}
        if not labels.num_columns:
            refuse_columns(Part(path, name, "torch", rows.shape[0], rows.shape[1], dtype, num_bytes), options)
        return Part(path, name, "torch", rows.shape[0], rows.shape[1], dtype, num_bytes, cuts=(), detail=detail)

    def blocks(self, part: Part, start: int, stop: int | None, options: ReadOptions) -> Iterator[Block]:
        """Rows [start, stop) in blocks of at most `options.block_bytes`."""
        stop = part.num_rows if stop is None else stop
        assert stop is not None
        step = max(1, options.block_bytes // (part.dim * np.dtype(part.dtype).itemsize))
        with _opened(part.path, part.num_bytes) as found:
            rows, labels = _choose(found, options, part.path)
            if tuple(rows.shape) != (part.num_rows, part.dim):
                raise InputError(f"{part.path} was changed since the run was planned; run the same command again")
            for low in range(start, stop, step):
                high = min(stop, low + step)
                yield Block(_as_array(rows[low:high]), select_labels(labels.slice(low, high - low), part, low, high, options))


@contextlib.contextmanager
def _opened(path: str, num_bytes: int) -> Iterator[Any]:
    """What the file holds; a remote one is fetched first."""
    from beholder.models.tensor_files import load_weights

    with contextlib.ExitStack() as stack:
        local = locations.local_path(path) if locations.is_local(path) else None
        if local is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="beholder-torch-"))
            local = Path(folder) / path.rsplit("/", 1)[-1].split("?", 1)[0]
            with remote.read_errors(path), storage.open_binary(path) as source, local.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 22)
        with remote.read_errors(path):
            try:
                found = load_weights(local, mapped=num_bytes > _MAPPED_BYTES)
            except HeadError as error:
                text = str(error).replace(str(local), path)
                raise InputError(text.replace("plain weights", "plain tensors").split("; ask its maker", 1)[0]) from None
        yield found


def _choose(found: Any, options: ReadOptions, path: str) -> tuple[torch.Tensor, pa.Table]:
    """The embeddings, (N, D), and the labels of their rows. Raises InputError."""
    import torch

    if isinstance(found, torch.Tensor):
        return _checked(found, "", path), pa.table({})
    if isinstance(found, list | tuple) and found and all(isinstance(item, torch.Tensor) for item in found):
        return _stacked(list(found), path), pa.table({})
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"{path} holds a {type(found).__name__}, not a tensor of embeddings; save it with torch.save(X, ...)")
    tensors = {key: value for key, value in found.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if options.embedding_column is not None:
        if options.embedding_column not in tensors:
            raise InputError(f"{path} has no tensor {options.embedding_column!r}; it has: {_listed(found)}")
        chosen = options.embedding_column
    elif any(isinstance(key, str) and key.rsplit(".", 1)[-1] in _WEIGHTS for key in found):
        raise InputError(f"{path} holds the weights of a model, not embeddings ({_listed(found)}); a head is given with --head")
    elif len(tensors) == len(found) and all(value.ndim == 1 for value in tensors.values()):
        return _stacked(list(tensors.values()), path), pa.table({columns.SAMPLE: pa.array(list(tensors), pa.large_string())})
    else:
        chosen = _only(tensors, found, path)
    rows = _checked(tensors[chosen], f"[{chosen}]", path)
    return rows, _labels({key: value for key, value in found.items() if key != chosen}, len(rows))


def _only(tensors: Mapping[str, torch.Tensor], found: Mapping[Any, Any], path: str) -> str:
    matrices = [key for key, value in tensors.items() if value.ndim == 2 and value.is_floating_point()]
    preferred = [key for key in _PREFERRED if key in matrices] or matrices
    if len(preferred) == 1 or (preferred and preferred is not matrices):
        return preferred[0]
    raise InputError(f"{path}: which tensor holds the embeddings? Name it with --embedding-column; it has: {_listed(found)}")


def _listed(found: Mapping[Any, Any]) -> str:
    shown = []
    for key, value in list(found.items())[:8]:
        shape = getattr(value, "shape", None)
        what = f"{tuple(shape)} {str(value.dtype).removeprefix('torch.')}" if shape is not None else type(value).__name__
        shown.append(f"{key} {what}" if isinstance(key, str) else f"a {type(key).__name__}")
    return ", ".join(shown) + (f", ... ({len(found)} in all)" if len(found) > len(shown) else "")


def _checked(rows: torch.Tensor, key: str, path: str) -> torch.Tensor:
    """The tensor, if its numbers are all in the file. Raises InputError."""
    from beholder.models.tensor_files import check_tensor

    try:
        check_tensor(rows, key or "of embeddings", Path(path))
    except HeadError as error:
        raise InputError(str(error)) from None
    if not rows.is_floating_point():
        check_array(tuple(rows.shape), np.dtype(str(rows.dtype).removeprefix("torch.")), f"{path}{key}")
    return rows.detach()


def _stacked(rows: Sequence[torch.Tensor], path: str) -> torch.Tensor:
    """1-D tensors as the rows of one. Raises InputError."""
    import torch

    checked = [_checked(row, f" number {number}", path) for number, row in enumerate(rows)]
    if any(row.ndim != 1 or row.shape != checked[0].shape or row.dtype != checked[0].dtype for row in checked):
        raise InputError(f"{path} holds {len(rows)} tensors of different shapes; save one tensor of shape (rows, dimensions)")
    return torch.stack(checked)


def _labels(others: Mapping[Any, Any], num_rows: int) -> pa.Table:
    """Lists of text or numbers, and 1-D tensors of numbers, with a value for each row, as columns."""
    import torch

    found: dict[str, Any] = {}
    for key, value in others.items():
        if isinstance(value, torch.Tensor) and value.ndim == 1 and value.dtype != torch.bfloat16:
            value = value.tolist() if value.numel() <= value.untyped_storage().nbytes() else []
        if not isinstance(key, str) or not isinstance(value, list | tuple) or len(value) != num_rows:
            continue
        kinds = {type(item) for item in value if item is not None}
        if kinds <= {str} or kinds <= {bool} or kinds <= {int} or kinds <= {int, float}:
            with contextlib.suppress(pa.ArrowException, UnicodeEncodeError, OverflowError):
                usual = _USUAL.get(key, key)
                found[key if usual in found or usual in others else usual] = pa.array(value)
    return pa.table(found)


def _as_array(rows: torch.Tensor) -> npt.NDArray[Any]:
    """(N, D), contiguous; bfloat16 becomes float32."""
    import torch

    rows = rows.float() if rows.dtype == torch.bfloat16 else rows
    array: npt.NDArray[Any] = rows.contiguous().numpy()
    return array
