"""A head file of any published layout in, its layers as float64 arrays out; what is unsafe or unfit is refused by name.

The layout is told from the names and shapes of the tensors, never from the file's name. Pickled files are opened with
torch's `weights_only=True` alone, which builds tensors and plain containers and runs nothing the file asks for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError
from beholder.models.backbones import backbone_of_tower
from beholder.models.registry import REFUSED
from beholder.models.tensors import TensorFile, open_tensors, pack_tensors
from beholder.models.torch_archives import check_tensor, is_script_archive, load_weights, name_of

Activation = Literal["none", "relu"]

HEAD_FORMAT = "beholder-head"
HEAD_FORMAT_VERSION = "1"
MAX_PICKLE_BYTES = 256 << 20
"""A published head has at most 3.7 MB; a pickled file has to be read whole, so larger ones are turned away."""

# Positions of the Linear layers in the Sequential of the improved-aesthetic-predictor, with Dropout between them
# (simple_inference.py) or ReLU and Dropout (train_predictor.py with its ReLU lines), commit 6934dd8.
_LINEAR_POSITIONS = (0, 2, 4, 6, 7)
_RELU_POSITIONS = (0, 3, 6, 9, 11)

_V2_5_REASON, _CANDLE_REASON = (head.reason for head in REFUSED)
Shapes = Mapping[str, tuple[int, ...]]
Arrays = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Layer:
    """One linear layer: y = weight @ x + bias. weight: (out, in) float64; bias: (out,) float64."""

    weight: npt.NDArray[np.float64]
    bias: npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadFile:
    """What a head file holds. score = layers(input_scale * x / |x|).

    Attributes:
        layers: in order; the last has one output.
        activation: between the layers, not after the last: "none" or "relu".
        input_scale: 1, or sqrt(dim) for the simulacra heads.
        layout: a word for the layout it was found in.
        backbone: id of the tower that the file itself carries or names; None when it does not say.
        metadata: the texts of a head in beholder's own format; empty otherwise.
        tensors_sha256: sha256 of the layers as float64; the same weights give the same, in whatever file.
    """

    layers: tuple[Layer, ...]
    activation: Activation
    input_scale: float
    layout: str
    backbone: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    tensors_sha256: str = ""


@dataclass(frozen=True)
class _Layout:
    """How a file's tensors make a head: prefixes of its layers ("layers.0.") in order, and the rest of `HeadFile`."""

    word: str
    prefixes: tuple[str, ...]
    activation: Activation = "none"
    times_sqrt_dim: bool = False
    backbone: str | None = None


def is_safetensors(start: bytes) -> bool:
    """Whether a file that starts with these (at least 9) bytes is meant as safetensors."""
    return len(start) >= 9 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def is_bundle(shapes: Shapes) -> bool:
    """Whether tensors of these names are a CLIP tower (with or without a head)."""
    return any(name.startswith("vision_model.") for name in shapes)


def layers_sha256(layers: tuple[Layer, ...]) -> str:
    """Lower-case hex sha256 of the weights and biases as little-endian float64, layer by layer."""
    digest = hashlib.sha256()
    for layer in layers:
        for array in (layer.weight, layer.bias):
            digest.update(np.ascontiguousarray(array, "<f8").tobytes())
    return digest.hexdigest()


def read_head_file(path: Path) -> HeadFile:
    """Read a local head file of any layout. Raises HeadError, in one line, for anything that is not a usable head."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error
    if is_safetensors(start):
        return read_tensor_head(open_tensors(str(path)))
    _refuse_what_is_no_pickle(path, start)
    arrays = _load_pickled(path)
    shapes = {name: tuple(tensor.shape) for name, tensor in arrays.items()}
    layout = _recognised(shapes, {}, str(path))
    return _assembled(layout, lambda names: {name: _as_float64(arrays[name], name, path) for name in names}, {}, str(path))


def read_tensor_head(file: TensorFile) -> HeadFile:
    """Read the head out of an opened safetensors file, local or remote; only the head's own tensors are fetched."""
    layout = _recognised(file.shapes, file.metadata, file.path)
    metadata = file.metadata if layout.word == HEAD_FORMAT else {}
    return _assembled(layout, file.read, metadata, file.path)


def pack_head(head: HeadFile) -> bytes:
    """A head as a file of beholder's own format. `head.metadata` goes along; the keys that the format sets win."""
    tensors: Arrays = {}
    for number, layer in enumerate(head.layers):
        tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"] = layer.weight, layer.bias
    metadata = {
        **head.metadata,
        "format": HEAD_FORMAT,
        "version": HEAD_FORMAT_VERSION,
        "dim": str(head.layers[0].weight.shape[1]),
        "activation": head.activation,
        "input_scale": repr(float(head.input_scale)),
        "layers_sha256": layers_sha256(head.layers),
    }
    return pack_tensors(tensors, metadata)


def _refuse_what_is_no_pickle(path: Path, start: bytes) -> None:
    """Name the usual wrong files before torch is loaded."""
    if not start:
        raise HeadError(f"{path} is empty; get the file again")
    if start.lstrip().startswith(b"<"):
        raise HeadError(f"{path} is a web page, not a head; the download went wrong, get the file again")
    if start.startswith(b"version https://git-lfs"):
        raise HeadError(f"{path} is a Git LFS pointer, not the file itself; fetch it with: git lfs pull")
    num_bytes = path.stat().st_size
    if num_bytes > MAX_PICKLE_BYTES:
        raise HeadError(f"{path} has {num_bytes} bytes; a head has a few million at most, so this is something else")
    if is_script_archive(path):
        raise HeadError(f"{path} is refused: it is a TorchScript program, not plain weights, and can run code")


def _load_pickled(path: Path) -> dict[str, Any]:
    """Tensors of a `.pth` or `.pt` file by name, without running anything in it."""
    import torch

    found = load_weights(path)
    if not isinstance(found, Mapping):
        raise HeadError(f"{path} holds a {type(found).__name__}, not a state dict of named tensors")
    names = [name_of(name) for name in found]
    strangers = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, torch.Tensor))]
    if strangers or not names:
        raise HeadError(f"{path} is no head that beholder knows: it holds {_listed(names)}")
    return dict(found)


def _listed(names: list[str]) -> str:
    return ", ".join(sorted(names)[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "") if names else "nothing"


def _as_float64(tensor: Any, name: str, path: Path) -> npt.NDArray[np.float64]:
    import torch

    if tensor.dtype not in (torch.float64, torch.float32, torch.float16, torch.bfloat16) or tensor.layout != torch.strided:
        raise HeadError(f"{path}: tensor {name} holds {tensor.dtype}, not floating-point weights")
    check_tensor(tensor, name, path)
    array: npt.NDArray[np.float64] = tensor.detach().to(torch.float64).numpy()
    return array


def _recognised(shapes: Shapes, metadata: Mapping[str, str], where: str) -> _Layout:
    """Tell the layout from the tensors' names. Raises HeadError for layouts that do not fit, and for unknown ones."""
    if metadata.get("format") == HEAD_FORMAT:
        return _own_layout(shapes, metadata, where)
    if "scoring_head.0.weight" in shapes:
        raise HeadError(f"{where} is refused: {_V2_5_REASON}")
    if "layers.0.linear.weight" in shapes:
        raise HeadError(f"{where} is refused: {_CANDLE_REASON}")
    backbone = _tower_backbone(shapes) if is_bundle(shapes) else None
    bundle = "bundle " if is_bundle(shapes) else ""
    head = {name for name in shapes if name.startswith(("layers.", "predictor."))} if bundle else set(shapes)
    if head == {"predictor.weight", "predictor.bias"} and bundle:
        return _Layout("bundle laion-v1", ("predictor.",), backbone=backbone)
    if head == {"weight", "bias"}:
        return _Layout("laion-v1", ("",))
    if head == {"linear.weight", "linear.bias"}:
        return _Layout("simulacra", ("linear.",), times_sqrt_dim=True)
    kinds: tuple[tuple[str, Activation, tuple[int, ...]], ...] = (
        ("mlp-linear", "none", _LINEAR_POSITIONS), ("mlp-relu", "relu", _RELU_POSITIONS),
    )  # fmt: skip
    for word, activation, positions in kinds:
        prefixes = tuple(f"layers.{position}." for position in positions)
        if head == {prefix + part for prefix in prefixes for part in ("weight", "bias")}:
            return _Layout(bundle + word, prefixes, activation, backbone=backbone)
    if bundle and not head:
        raise HeadError(f"{where} is a CLIP model without an aesthetic head")
    raise HeadError(f"{where} is no head that beholder knows: its tensors are {_listed(list(head))}; see docs/heads.md")


def _tower_backbone(shapes: Shapes) -> str | None:
    """The tower's id by its sizes, None when a tensor is missing or the sizes are no OpenAI tower's."""
    patches = shapes.get("vision_model.embeddings.patch_embedding.weight", ())
    positions = shapes.get("vision_model.embeddings.position_embedding.weight", ())
    projection = shapes.get("visual_projection.weight", ())
    if len(patches) != 4 or len(positions) != 2 or len(projection) != 2:
        return None
    return backbone_of_tower(patch=patches[-1], tokens=positions[0], width=positions[1], dim=projection[0])


def _own_layout(shapes: Shapes, metadata: Mapping[str, str], where: str) -> _Layout:
    if metadata.get("version") != HEAD_FORMAT_VERSION:
        raise HeadError(
            f"{where} is a beholder head of format version {metadata.get('version')}; this beholder reads version "
            f"{HEAD_FORMAT_VERSION}; upgrade beholder"
        )
    prefixes = tuple(f"layers.{number}." for number in range(len(shapes) // 2))
    if not prefixes or set(shapes) != {prefix + part for prefix in prefixes for part in ("weight", "bias")}:
        raise HeadError(f"{where} is a damaged beholder head: its tensors are {_listed(list(shapes))}")
    backbone = metadata.get("backbone") or None
    match metadata.get("activation"):
        case "none":
            return _Layout(HEAD_FORMAT, prefixes, "none", backbone=backbone)
        case "relu":
            return _Layout(HEAD_FORMAT, prefixes, "relu", backbone=backbone)
        case other:
            raise HeadError(f"{where} is a damaged beholder head: its activation is {other!r}, not 'none' or 'relu'")


def _assembled(layout: _Layout, read: Callable[[list[str]], Arrays], metadata: Mapping[str, str], where: str) -> HeadFile:
    """Read the layers, and check that they fit each other and hold numbers."""
    arrays = read([prefix + part for prefix in layout.prefixes for part in ("weight", "bias")])
    layers = tuple(Layer(arrays[prefix + "weight"], arrays[prefix + "bias"]) for prefix in layout.prefixes)
    num_in: int | None = None
    for prefix, layer in zip(layout.prefixes, layers, strict=True):
        shape = layer.weight.shape
        if len(shape) != 2 or 0 in shape or layer.bias.shape != shape[:1] or num_in not in (None, shape[1]):
            raise HeadError(f"{where} is damaged: {prefix}weight {shape} and {prefix}bias {layer.bias.shape} do not fit")
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise HeadError(f"{where} is damaged: {prefix}weight or {prefix}bias holds NaN or infinite values")
        num_in = shape[0]
    if num_in != 1:
        raise HeadError(f"{where} gives {num_in} numbers for a picture; a head that beholder can use gives one score")
    digest = layers_sha256(layers)
    if metadata.get("layers_sha256", digest) != digest:
        raise HeadError(f"{where} is damaged: its weights do not have the sha256 it was written with; get the file again")
    dim = layers[0].weight.shape[1]
    if metadata.get("dim", str(dim)) != str(dim):
        raise HeadError(f"{where} is damaged: it says dim {metadata['dim']} and holds {dim}")
    scale = _input_scale(layout, metadata, dim, where)
    return HeadFile(layers, layout.activation, scale, layout.word, layout.backbone, dict(metadata), digest)


def _input_scale(layout: _Layout, metadata: Mapping[str, str], dim: int, where: str) -> float:
    if layout.times_sqrt_dim:
        return float(np.sqrt(dim))
    text = metadata.get("input_scale", "1")
    try:
        scale = float(text)
    except ValueError:
        scale = float("nan")
    if not 0 < scale < float("inf"):
        raise HeadError(f"{where} is a damaged beholder head: its input_scale is {text!r}, not a positive number")
    return scale
