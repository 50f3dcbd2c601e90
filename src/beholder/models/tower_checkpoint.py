"""A checkpoint of CLIP's image tower in any published layout in; its sizes, its activation, and canonical tensors out.

Opening reads headers only, wherever the format has one. safetensors files are mapped into memory, and of a whole CLIP model the
text tower is never read. Pickles are opened with torch's `weights_only=True`, TorchScript archives with `torchscript.py`:
nothing in a file is ever run. The layout is told from the tensors' names, never from the file's name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from beholder.errors import HeadError
from beholder.models.backbones import TowerShape
from beholder.models.head_checkpoint import is_safetensors
from beholder.models.tensors import TensorFile, open_tensors
from beholder.models.torch_archives import check_tensor, is_script_archive, load_weights
from beholder.models.torchscript import open_script
from beholder.models.tower_hints import CONFIG_FILES, TowerHints, read_hints
from beholder.models.tower_layouts import Shapes, TowerLayout, canonical_shapes, recognise

if TYPE_CHECKING:
    import torch

TOWER_FORMAT = "beholder-tower-tensors"
"""`format` in the header of a file that beholder wrote with the vision tensors of a remote model (tower_fetch.py)."""

WEIGHT_FILES = (
    "model.safetensors", "model.safetensors.index.json", "open_clip_model.safetensors", "pytorch_model.bin",
    "open_clip_pytorch_model.bin",
)  # fmt: skip
"""What is looked for in a folder or a hub repository, in this order; then birder's `<name>.pt` and `.safetensors`."""

_MAX_CONFIG_BYTES = 1 << 20
_MAX_DEPTH = 8
"""Of state dicts inside of checkpoints; a pickle can hold itself."""
_Read = Callable[[Iterable[str]], "dict[str, torch.Tensor]"]


@dataclass(frozen=True)
class TowerFile:
    """An opened checkpoint: all checks of names, shapes and configuration are done, the tensors are not read yet.

    Attributes:
        path: the file, the folder's index file, or a URL.
        layout: a word for the layout it was found in.
        shape: the tower's sizes.
        hints: what is known about its activation.
        metadata: the texts of a file that beholder wrote itself; empty otherwise.
    """

    path: str
    layout: str
    shape: TowerShape
    hints: TowerHints
    metadata: Mapping[str, str]
    _parts: TowerLayout
    _read: _Read

    @property
    def names(self) -> list[str]:
        """The tensors of the file that make the tower."""
        return self._parts.names

    def tensors(self) -> dict[str, torch.Tensor]:
        """The canonical tensors as float32 on the CPU (`tower_layouts.canonical_shapes`). Raises HeadError for NaN.

        Tensors that are float32 in a safetensors file are not copied: they stay in the file until they are used.
        """
        import torch

        sizes = {**canonical_shapes(self.shape), "projection.bias": (self.shape.dim,)}
        sources = self._read(self.names)
        found: dict[str, torch.Tensor] = {}
        for name, part in self._parts.parts.items():
            pieces = [sources[source] for source in part.names]
            for source, piece in zip(part.names, pieces, strict=True):
                _check_numbers(piece, source, self.path)
            tensor = torch.cat([piece.float() for piece in pieces]) if len(pieces) > 1 else pieces[0].float()
            tensor = tensor.t().contiguous() if part.is_transposed else tensor
            found[name] = tensor.reshape(sizes[name])
        return found


def open_tower_file(path: Path, *, known_as: str = "") -> TowerFile:
    """Open a local checkpoint: a file, or a folder as Hugging Face, open_clip, timm or birder lay it out.

    `known_as` is the name it was published under, where that is not the name of the file. Raises HeadError, in one line.
    """
    file = _in_folder(path) if path.is_dir() else path
    configs = read_configs(file.parent)
    name = known_as or file.name
    if file.name.endswith(".index.json"):
        return tower_of_tensors(_shards(file), configs, name, str(file), _mapped(shard_files(file)))
    start = _start_of(file)
    if is_safetensors(start):
        opened = open_tensors(str(file))
        return tower_of_tensors(opened, configs, name, str(file), _mapped(dict.fromkeys(opened.tensors, file)))
    _refuse_what_is_no_checkpoint(file, start)
    if is_script_archive(file):
        archive = open_script(file)
        shapes = {name: stored.shape for name, stored in archive.tensors.items()}
        return _tower(shapes, configs, {"code": archive.code}, name, str(file), archive.read, {}, "torchscript")
    tensors, metadata = _load_pickled(file)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return _tower(shapes, configs, metadata, name, str(file), lambda names: _checked(tensors, names, file), {})


def tower_of_tensors(
    opened: TensorFile, configs: Mapping[str, Any], name: str, where: str, read: _Read | None = None
) -> TowerFile:
    """The tower among the tensors of a safetensors file, of which only the header is known; without `read` it stays so."""
    own = dict(opened.metadata) if opened.metadata.get("format") == TOWER_FORMAT else {}
    if own:
        configs, name = json.loads(own.get("configs", "{}")), own.get("name", name)
    metadata = {key: _parsed(text) for key, text in opened.metadata.items()}
    return _tower(opened.shapes, configs, metadata, name, where, read or _unreadable(where), own)


def read_configs(folder: Path) -> dict[str, Any]:
    """The parsed `CONFIG_FILES` of a folder; what is missing or no JSON is left out."""
    found: dict[str, Any] = {}
    for name in CONFIG_FILES:
        try:
            if (folder / name).stat().st_size <= _MAX_CONFIG_BYTES:
                found[name] = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
    return found


def _tower(
    shapes: Shapes, configs: Mapping[str, Any], metadata: Mapping[str, Any], name: str, where: str, read: _Read,
    own: Mapping[str, str], word: str = "",
) -> TowerFile:  # fmt: skip
    first = recognise(shapes, where)
    configs = {key: config for key, config in configs.items() if _is_about(config, first)}
    hints = read_hints(first.word, configs, metadata, name, where)
    layout = recognise(shapes, where, num_heads=hints.num_heads) if hints.num_heads else first
    _check_signature(metadata.get("signature"), layout.shape, where)
    return TowerFile(where, f"{layout.word} {word}".strip(), layout.shape, hints, own, layout, read)


def _is_about(config: Any, layout: TowerLayout) -> bool:
    """Whether a Hugging Face configuration is about a tower of these sizes, and not about another file of the folder."""
    vision = config.get("vision_config", config) if isinstance(config, dict) else None
    if not isinstance(vision, dict):
        return False
    shape = layout.shape
    stated = {"hidden_size": shape.width, "patch_size": shape.patch_px, "image_size": shape.image_px}
    is_clip = "model_type" in config
    return not is_clip or all(vision.get(key, size) == size for key, size in stated.items())


def _check_signature(signature: Any, shape: TowerShape, where: str) -> None:
    """Compare birder's `signature` with the tensors."""
    if not isinstance(signature, dict):
        return
    try:
        pixels = list(signature["inputs"][0]["data_shape"])[1:]
        dim = list(signature["outputs"][0]["data_shape"])[-1]
    except (KeyError, IndexError, TypeError):
        return
    if pixels != [3, shape.image_px, shape.image_px] or dim != shape.dim:
        raise HeadError(
            f"{where} is damaged: its signature says {pixels} pixels and {dim} numbers out, its tensors "
            f"{[3, shape.image_px, shape.image_px]} and {shape.dim}"
        )


def _check_numbers(tensor: torch.Tensor, name: str, where: str) -> None:
    import torch

    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) or tensor.layout != torch.strided:
        raise HeadError(f"{where}: tensor {name} holds {tensor.dtype}, not floating-point weights")
    if not torch.isfinite(tensor.sum(dtype=torch.float32)) and not torch.isfinite(tensor).all():
        raise HeadError(f"{where} is damaged: {name} holds NaN or infinite values")


def _in_folder(folder: Path) -> Path:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    others = sorted(path for path in folder.iterdir() if path.suffix in (".pt", ".safetensors", ".bin") and path.is_file())
    if len(others) == 1:
        return others[0]
    what = "several files of weights; give the one you mean" if others else f"no weights ({', '.join(WEIGHT_FILES)}, ...)"
    raise HeadError(f"{folder} holds {what}")


def _start_of(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(64)
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error


def _refuse_what_is_no_checkpoint(path: Path, start: bytes) -> None:
    if not start:
        raise HeadError(f"{path} is empty; get the file again")
    if start.lstrip().startswith(b"<"):
        raise HeadError(f"{path} is a web page, not a checkpoint; the download went wrong, get the file again")
    if start.startswith(b"version https://git-lfs"):
        raise HeadError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def shard_files(index: Path) -> dict[str, Path]:
    """Tensor name -> file, of a sharded Hugging Face checkpoint."""
    try:
        weights = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        found = {str(name): index.parent / Path(str(file)).name for name, file in weights.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise HeadError(
            f"{index} is not a sound index of a sharded checkpoint ({' '.join(str(error).split())[:100]})"
        ) from None
    missing = sorted({path.name for path in found.values() if not path.is_file()})
    if missing:
        raise HeadError(f"{index.parent} is not complete: {', '.join(missing)} of {index.name} are missing")
    return found


def _shards(index: Path) -> TensorFile:
    """The headers of all shards as one."""
    files = shard_files(index)
    opened = {path: open_tensors(str(path)) for path in set(files.values())}
    lost = sorted(name for name, path in files.items() if name not in opened[path].tensors)
    if lost:
        raise HeadError(f"{index} is not sound: {lost[0]} is not in {files[lost[0]].name}")
    return TensorFile(str(index), {name: opened[path].tensors[name] for name, path in files.items()}, {}, 0)


def _mapped(files: Mapping[str, Path]) -> _Read:
    """Reads tensors of local safetensors files as maps of the files."""

    def read(names: Iterable[str]) -> dict[str, torch.Tensor]:
        from safetensors import SafetensorError, safe_open

        wanted = list(names)
        found: dict[str, torch.Tensor] = {}
        for path in sorted({files[name] for name in wanted}):
            try:
                with safe_open(str(path), framework="pt", device="cpu") as opened:
                    found |= {name: opened.get_tensor(name) for name in wanted if files[name] == path}
            except (SafetensorError, OSError, RuntimeError, ValueError) as error:
                raise HeadError(f"{path} is damaged: {' '.join(str(error).split())[:150]}; get the file again") from None
        return found

    return read


def _unreadable(where: str) -> _Read:
    def read(names: Iterable[str]) -> dict[str, torch.Tensor]:
        raise HeadError(f"{where} was only looked at, its tensors were not fetched")

    return read


def _parsed(text: str) -> Any:
    """A text of a safetensors header: birder keeps JSON there."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _checked(tensors: Mapping[str, torch.Tensor], names: Iterable[str], path: Path) -> dict[str, torch.Tensor]:
    found = {name: tensors[name] for name in names}
    for name, tensor in found.items():
        check_tensor(tensor, name, path)
    return found


def _load_pickled(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a pickled checkpoint by name, and what else it carries, without running anything in it."""
    import torch

    found = load_weights(path, mapped=True)
    metadata: dict[str, Any] = {}
    for _ in range(_MAX_DEPTH):
        inner = (
            next((key for key in ("state", "state_dict", "model") if isinstance(found.get(key), Mapping)), None)
            if isinstance(found, Mapping)
            else None
        )
        if inner is None:
            break
        metadata |= {key: value for key, value in found.items() if key != inner and isinstance(key, str)}
        found = found[inner]
    if not isinstance(found, Mapping):
        raise HeadError(f"{path} holds a {type(found).__name__}, not a state dict of named tensors")
    tensors = {
        name: value.detach() for name, value in found.items() if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise HeadError(f"{path} holds no tensors by name, so it is no checkpoint of a tower")
    return tensors, metadata
