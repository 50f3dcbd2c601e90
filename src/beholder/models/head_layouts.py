"""Heads in files of weights: every published layout and one's own linear layers, as float64; all else is refused by name.

The layout is recognised by the tensors' names and shapes, never by the file's name. What no file says (what stands between
two linear layers) is asked for, never guessed.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
import shlex
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from beholder.errors import HeadError
from beholder.io import locations, storage
from beholder.models.backbones import backbone_of_tower
from beholder.models.catalog import REFUSED, by_sha256
from beholder.models.tensor_files import (
    Kind,
    Shapes,
    TensorFile,
    check_floats,
    check_tensor,
    listed,
    load_weights,
    look_at,
    name_of,
    open_tensors,
    pack_tensors,
    read_npy,
    read_npz,
    refuse_no_weights,
    refuse_text,
)

Activation = Literal["none", "relu"]
ACTIVATIONS: tuple[Activation, ...] = ("none", "relu")
InputScale = float | Literal["sqrt-dim"]

HEAD_FORMAT = "beholder-head"
HEAD_FORMAT_VERSION = "1"
MAX_PICKLE_BYTES = 256 << 20
"""A published head has at most 3.7 MB; a pickled file has to be read whole, so larger ones are turned away."""

# Positions of the Linear layers in the Sequential of the improved-aesthetic-predictor, with Dropout between them
# (simple_inference.py) or ReLU and Dropout (train_predictor.py with its ReLU lines), commit 6934dd8.
LINEAR_POSITIONS = (0, 2, 4, 6, 7)
RELU_POSITIONS = (0, 3, 6, 9, 11)
HIDDEN_WIDTHS = (1024, 128, 64, 16)

LINEAR, PLAIN = "linear", "laion-v1"
"""The layouts of layers of whose use nothing tells: one's own, and a single `torch.nn.Linear`, as LAION's first heads."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
_LAYER = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<part>weight|bias)")
_NUMBERED = re.compile(r"(?P<before>.*?)(?P<number>\d+)\.")
_OTHER_NAMES = {"coef_": "weight", "coef": "weight", "weights": "weight", "w": "weight",
                "intercept_": "bias", "intercept": "bias", "b": "bias"}  # fmt: skip
"""What scikit-learn and people call the numbers of a layer."""
_TEXTS = ("name", "backbone", "activation")
"""Arrays of text that an `.npz` may hold beside the numbers."""
_TEXTS_SHA256 = "texts_sha256"
_SIZES_OF = 64
"""Published embeddings have a multiple of 64 numbers (512, 640, 768, 1024, 1152, ...): so D and D + 1 numbers differ."""
_OWN_LAYERS = "keep the head's own: torch.save({k: v for k, v in state.items() if k.startswith('head.')}, 'head.pt')"
_AS_STATE_DICT = "torch.save(model.state_dict(), 'head.pt')"
_AS_NPZ = "numpy.savez('head.npz', weight=w, bias=b) makes a file that says so"
_FROM_SKLEARN = (
    'python -c "import joblib, numpy; m = joblib.load({old!r}); numpy.savez({new!r}, coef_=m.coef_, intercept_=m.intercept_)"'
)
_OTHER_SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".yaml", ".yml", ".h5", ".hdf5", ".keras", ".onnx", ".parquet")
_LEGACY_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19"
"""The number that files of torch's older format begin with, after the pickle's protocol."""

_V2_5_REASON, _CANDLE_REASON = (head.reason for head in REFUSED)
_V2_5_DIM = 1152
LARGEST = 1e30
"""Of a head's weights; scores by larger ones would be no numbers any more."""
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


@dataclass(frozen=True, kw_only=True)
class HeadUsage:
    """How a head is used, as the caller says it where its file does not; what the file tells may not be contradicted.

    Attributes:
        activation: what stands between its linear layers: "relu", or "none" (nothing, or Dropout or Identity).
        input_scale: what it multiplies an embedding of length 1 with first: a positive number, or "sqrt-dim".
    """

    activation: Activation | None = None
    input_scale: InputScale | None = None

    def __post_init__(self) -> None:
        """Raises HeadError for other words."""
        if self.activation not in (None, *ACTIVATIONS):
            raise HeadError(f"activation {self.activation!r}: choose relu or none; a head with another one cannot be used")
        scale = self.input_scale
        if scale is not None and scale != "sqrt-dim" and not (isinstance(scale, int | float) and 0 < scale < float("inf")):
            raise HeadError(f"input scale {scale!r}: choose a positive number, or sqrt-dim")


NOT_SAID = HeadUsage()


@dataclass(frozen=True)
class _Layout:
    """How a file's tensors make a head: prefixes of its layers ("layers.0.") in order, and the rest of `HeadFile`.

    Attributes:
        joined: numbers of layers that stand directly behind the one before, so that both are one.
        input_scale: 1, another number, or "sqrt-dim".
    """

    word: str
    prefixes: tuple[str, ...]
    activation: Activation = "none"
    input_scale: InputScale = 1.0
    backbone: str | None = None
    joined: frozenset[int] = frozenset()

    def names(self, there: Container[str]) -> list[str]:
        """The tensors of the layers, of those that are `there`: a layer may have no bias."""
        return [prefix + part for prefix in self.prefixes for part in ("weight", "bias") if prefix + part in there]


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


def texts_sha256(texts: Mapping[str, str]) -> str:
    """Lower-case hex sha256 of the texts in a head's header as JSON (keys sorted, no blanks, ASCII), without itself."""
    plain = {name: text for name, text in texts.items() if name != _TEXTS_SHA256}
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_head_file(path: Path, said: HeadUsage = NOT_SAID) -> HeadFile:
    """Read a local head file of any layout. Raises HeadError, in one line, for anything that is not a usable head."""
    kind, start = look_at(path)
    if kind == "safetensors":
        return read_tensor_head(open_tensors(str(path)), said)
    return read_array_head(path, kind, start, said)


def read_array_head(path: Path, kind: Kind, start: bytes, said: HeadUsage = NOT_SAID) -> HeadFile:
    """Read a local head file that is not safetensors; `kind` and `start` as `look_at` gives them."""
    try:
        if kind == "npy":
            return _of_arrays({"": read_npy(path)}, {}, said, str(path))
        if kind == "npz":
            return _of_archive(read_npz(path), said, str(path))
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror or error}") from error
    _refuse_what_is_no_pickle(path, kind, start)
    tensors = _load_pickled(path)
    if "" in tensors:
        return _of_arrays({"": _as_float64(tensors[""], "", path)}, {}, said, str(path))

    def read(names: Iterable[str]) -> Arrays:
        return {name: _as_float64(tensors[name], name, path) for name in names}

    return _head_of({name: tuple(tensor.shape) for name, tensor in tensors.items()}, read, {}, said, str(path))


def read_tensor_head(file: TensorFile, said: HeadUsage = NOT_SAID) -> HeadFile:
    """Read the head out of an opened safetensors file, local or remote; only the head's own tensors are fetched."""
    texts = file.metadata
    if _TEXTS_SHA256 in texts and texts[_TEXTS_SHA256] != texts_sha256(texts):
        raise HeadError(f"{file.path} is damaged: its header is not what was written (sha256); get the file again")
    return _head_of(file.shapes, file.read, file.metadata, said, file.path)


def _head_of(
    shapes: Shapes, read: Callable[[Iterable[str]], Arrays], metadata: Mapping[str, str], said: HeadUsage, where: str
) -> HeadFile:
    """The head among tensors of these names and shapes; only its own are read."""
    names = _usual_names(shapes, where)
    layout = _recognised({usual: shapes[name] for usual, name in names.items()}, metadata, said, where)
    own = {usual: names[usual] for usual in layout.names(names)}
    found = read(own.values())
    arrays = {usual: found[name] for usual, name in own.items()}
    return _assembled(layout, arrays, metadata if layout.word == HEAD_FORMAT else {}, where)


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
    return pack_tensors(tensors, {**metadata, _TEXTS_SHA256: texts_sha256(metadata)})


def _refuse_what_is_no_pickle(path: Path, kind: Kind, start: bytes) -> None:
    """Name the usual wrong files before torch is loaded."""
    refuse_no_weights(path, start, "a head")
    suffix = path.suffix.lower()
    if start.startswith(b"\x89HDF") or (suffix in _OTHER_SUFFIXES and not start.startswith((b"PK", b"\x80"))):
        raise HeadError(f"{path} is no kind of head file that beholder knows, .pt, .safetensors, .npz or .npy; {_AS_NPZ}")
    refuse_text(path)
    is_torch = start.startswith(b"PK") or _LEGACY_TORCH in start[:16]
    of_sklearn = b"sklearn." in start
    if not is_torch and (of_sklearn or suffix in (".joblib", ".pkl", ".pickle")):
        what = "objects of scikit-learn" if of_sklearn else "Python objects"
        recipe = _FROM_SKLEARN.format(old=path.name, new=f"{path.stem}.npz")
        raise HeadError(
            f"{path} is refused: it is a pickle of {what}, which can run code; where you trust it, "
            f"save its numbers alone and use {path.stem}.npz: {recipe}"
        )
    num_bytes = path.stat().st_size
    if num_bytes > MAX_PICKLE_BYTES:
        raise HeadError(
            f"{path} has {num_bytes} bytes; a head has a few million at most, so this is something else, or more; {_OWN_LAYERS}"
        )
    if kind == "torchscript":
        raise HeadError(
            f"{path} is refused: it is a TorchScript program, not plain weights, and can run code; "
            "save its state dict alone, where it was made or is trusted: torch.save(model.state_dict(), 'weights.pt')"
        )


def _load_pickled(path: Path) -> dict[str, Any]:
    """Tensors of a `.pth` or `.pt` file by name, without running anything in it; a single tensor is named ""."""
    import torch

    found = load_weights(path)
    if isinstance(found, torch.Tensor):
        return {"": found}
    if not isinstance(found, Mapping):
        what = type(found).__name__
        raise HeadError(f"{path} holds a {what}, not a state dict of named tensors; save that: {_AS_STATE_DICT}")
    level: list[tuple[str, Any]] = [("", found)]
    inside: list[tuple[str, Any]] = []
    seen: set[int] = set()  # a pickle can hold itself, many times
    for _ in range(4):  # a checkpoint of a training run keeps its weights under "state_dict", "model", ...
        inside = [(name, value) for name, value in level if _is_state_dict(value)]
        if inside:
            break
        below: list[tuple[str, Any]] = []
        for name, value in level:
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                below += [(f"{name}.{name_of(key)}" if name else name_of(key), item) for key, item in value.items()]
        level = below
    if len(inside) > 1:
        first = inside[0][0]
        raise HeadError(
            f"{path} holds several sets of weights ({', '.join(name for name, _ in inside)}); save the one that is meant: "
            f"torch.save(torch.load({path.name!r})[{first!r}], 'head.pt')"
        )
    if not inside:
        strange = [name_of(name) for name, value in found.items() if not isinstance(value, torch.Tensor)]
        raise HeadError(
            f"{path} is no head that beholder knows: it holds {listed(sorted(map(name_of, found)))}"
            + (f", and {listed(sorted(strange))} {_is(strange)} no tensor" if strange else "")
            + f"; save a state dict alone: {_AS_STATE_DICT}"
        )
    return dict(inside[0][1])


def _is_state_dict(found: Any) -> bool:
    import torch

    return (
        isinstance(found, Mapping)
        and bool(found)
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in found.items())
    )


def _of_archive(arrays: Mapping[str, npt.NDArray[Any]], said: HeadUsage, where: str) -> HeadFile:
    """The head in the arrays of an `.npz`: `weight` and `bias`, as anybody calls them, under any prefix, and texts."""
    texts = {name: str(arrays[name].reshape(-1)[0]) for name in _TEXTS if name in arrays and _is_text(arrays[name])}
    numbers = {name: array for name, array in arrays.items() if name not in texts}
    if list(numbers) == ["arr_0"]:
        return _of_arrays({"": numbers["arr_0"]}, texts, said, where)
    return _of_arrays({usual: numbers[name] for usual, name in _usual_names(numbers, where).items()}, texts, said, where)


def _usual_names(names: Iterable[str], where: str) -> dict[str, str]:
    """The name that torch has for each tensor -> its own. Raises HeadError where two have the same."""
    found: dict[str, str] = {}
    for name in names:
        prefix, dot, last = name.rpartition(".")
        usual = prefix + dot + _OTHER_NAMES.get(last, last)
        if usual in found:
            raise HeadError(f"{where} holds {usual} twice, as {found[usual]} and as {name}; keep one of them")
        found[usual] = name
    return found


def _is_text(array: npt.NDArray[Any]) -> bool:
    """Whether it is one text: of the numbers that numpy takes for letters, any may stand in a damaged file."""
    if array.dtype.kind != "U" or array.size != 1:
        return False
    letters = np.frombuffer(array.tobytes(), array.dtype.byteorder + "u4")
    return bool(((letters < 0xD800) | ((letters > 0xDFFF) & (letters < 0x110000))).all())


def _of_arrays(arrays: Mapping[str, npt.NDArray[Any]], texts: Mapping[str, str], said: HeadUsage, where: str) -> HeadFile:
    """The head in arrays of numpy's, whose names are those of torch's layers; one without a name is D or D + 1 numbers."""
    values: Arrays = {}
    for name, array in arrays.items():
        # An intercept of 0 may be a whole number; a table of them is something else.
        kind = array.dtype.newbyteorder("=")
        is_number = kind in (np.float16, np.float32, np.float64) or (kind.kind in "iu" and array.size == 1)
        if not is_number:
            raise HeadError(f"{where}: {name or 'the array'} holds {array.dtype}, not floating-point weights")
        values[name] = array.astype(np.float64)
    if list(values) == [""]:
        values = _weight_and_bias(values[""], where)
    for name, array in values.items():
        bias = values.get(name.removesuffix("weight") + "bias")
        if name.endswith("weight") and bias is None and array.ndim == 1:
            values[name] = array[np.newaxis]
        if name.endswith("weight") and array.ndim == 2 and array.shape[1] == 1 and (bias is None or bias.size == 1):
            values[name] = array.T  # a column, as Keras keeps a layer
    activation = texts.get("activation")
    if activation is not None and activation not in ACTIVATIONS:
        raise HeadError(f"{where}: its activation is {activation!r}; a head with another one than none or relu cannot be used")
    if activation is not None and said.activation not in (None, activation):
        raise HeadError(
            f"{where} says activation {activation}, and you say {said.activation}; leave that out, or mend the file"
        )
    said = HeadUsage(activation=activation or said.activation, input_scale=said.input_scale)
    head = _head_of({name: array.shape for name, array in values.items()}, lambda _: values, {}, said, where)
    return replace(head, backbone=texts.get("backbone") or None, metadata={"name": texts["name"]} if texts.get("name") else {})


def _weight_and_bias(numbers: npt.NDArray[np.float64], where: str) -> Arrays:
    """D numbers are a weight, D + 1 a weight and then the bias. Raises HeadError where the count does not tell which."""
    count = numbers.size
    if count < 2 or max(numbers.shape, default=0) != count:
        raise HeadError(f"{where} is no head that beholder knows: it holds numbers of shape {numbers.shape}; {_AS_NPZ}")
    flat = numbers.reshape(-1)
    if count % _SIZES_OF == 0:
        return {"weight": flat[np.newaxis], "bias": np.zeros(1)}
    if count % _SIZES_OF == 1:
        return {"weight": flat[np.newaxis, :-1], "bias": flat[-1:]}
    raise HeadError(
        f"{where} is no head that beholder knows: its {count} numbers may be {count} weights, or {count - 1} and the bias; "
        "say which: numpy.savez('head.npz', weight=w, bias=0.0), or weight=w[:-1], bias=w[-1]"
    )


def _is(names: list[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _as_float64(tensor: Any, name: str, path: Path) -> npt.NDArray[np.float64]:
    import torch

    check_floats(tensor, name, path)
    check_tensor(tensor, name, path)
    array: npt.NDArray[np.float64] = tensor.detach().to(torch.float64).numpy()
    return array


def _recognised(shapes: Shapes, metadata: Mapping[str, str], said: HeadUsage, where: str) -> _Layout:
    """Tell the layout from the tensors' names. Raises HeadError for layouts that do not fit, and for what nothing tells."""
    layout = _own_layout(shapes, metadata, where) if metadata.get("format") == HEAD_FORMAT else _published(shapes, said, where)
    if layout is None:
        return _linear_layers(shapes, said, where)
    if said.activation not in (None, layout.activation) and len(layout.prefixes) > 1:
        raise HeadError(
            f"{where} says that its activation is {layout.activation}, and you say {said.activation}; leave that out"
        )
    if said.input_scale in (None, layout.input_scale) and (said.input_scale is None or layout.word != HEAD_FORMAT):
        return layout
    if layout.word != PLAIN:
        raise HeadError(f"{where} says what it multiplies embeddings with; leave the input scale out")
    return replace(layout, input_scale=said.input_scale or 1.0)


def _published(shapes: Shapes, said: HeadUsage, where: str) -> _Layout | None:
    """The layout of a published head, None for any other. Raises HeadError for those that are refused."""
    if shapes.get("scoring_head.0.weight", (0,))[-1] == _V2_5_DIM:
        raise HeadError(f"{where} is refused: {_V2_5_REASON}")
    if {"layers.0.linear.weight", "layers.6.linear.weight"} <= set(shapes):
        raise HeadError(f"{where} is refused: {_CANDLE_REASON}")
    backbone = _tower_backbone(shapes) if is_bundle(shapes) else None
    bundle = "bundle " if is_bundle(shapes) else ""
    head = {name for name in shapes if name.startswith(("layers.", "predictor."))} if bundle else set(shapes)
    if head == {"predictor.weight", "predictor.bias"} and bundle:
        return _Layout("bundle laion-v1", ("predictor.",), backbone=backbone)
    if head == {"weight", "bias"} and len(shapes["weight"]) == 2:
        return _Layout(PLAIN, ("",))
    if head == {"linear.weight", "linear.bias"} and _is_simulacra(shapes, said, where):
        return _Layout("simulacra", ("linear.",), input_scale="sqrt-dim")
    kinds: tuple[tuple[str, Activation, tuple[int, ...]], ...] = (
        ("mlp-linear", "none", LINEAR_POSITIONS), ("mlp-relu", "relu", RELU_POSITIONS),
    )  # fmt: skip
    before = min(head, default="").partition("layers.")[0]
    for word, activation, positions in kinds:
        prefixes = tuple(f"{before}layers.{position}." for position in positions)
        widths = tuple(shapes.get(f"{prefix}weight", (0,))[0] for prefix in prefixes[:-1])
        if head == {prefix + part for prefix in prefixes for part in ("weight", "bias")} and widths == HIDDEN_WIDTHS:
            return _Layout(bundle + word, prefixes, activation, backbone=backbone)
    if bundle and not head:
        raise HeadError(f"{where} is a CLIP model without an aesthetic head")
    if bundle:
        raise HeadError(
            f"{where} is no head that beholder knows: beside a CLIP model it holds {listed(sorted(head))}; {_OWN_LAYERS}"
        )
    return None


def _is_simulacra(shapes: Shapes, said: HeadUsage, where: str) -> bool:
    """Whether a layer called "linear" is a head of simulacra's, which multiplies embeddings with sqrt(dim) first.

    Raises HeadError where neither the file's sha256 nor the caller tells: any layer may be called so.
    """
    path = locations.local_path(where) if locations.is_local(where) else None
    entry = by_sha256(storage.sha256_of(path)) if path is not None and path.is_file() else None
    if entry is not None:
        return entry.normalisation == "l2, times sqrt(dim)"
    if said.input_scale is not None:
        return said.input_scale == "sqrt-dim"
    raise HeadError(
        f"{where}: its tensors are called linear.weight and linear.bias, as those of the simulacra heads, which take "
        f"embeddings of length sqrt({shapes['linear.weight'][-1]}), and as those of any layer called linear; "
        f"say which, once: {_save_line(where, '--input-scale 1')} (or sqrt-dim)"
    )


def _save_line(where: str, flags: str) -> str:
    """The command that makes of a file a head that tells everything."""
    name = where.rsplit("/", 1)[-1]
    return f"beholder models save {shlex.quote(where)} {shlex.quote(name.rsplit('.', 1)[0] + '-head.safetensors')} {flags}"


def _linear_layers(shapes: Shapes, said: HeadUsage, where: str) -> _Layout:
    """The layout of one's own linear layers, in their order. Raises HeadError for anything else, and for what nothing tells."""
    layers: dict[str, set[str]] = {}
    strange = []
    for name, shape in shapes.items():
        match = _LAYER.fullmatch(name)
        dims = {"weight": (1, 2), "bias": (0, 1)}[match["part"]] if match else ()
        if match is None or len(shape) not in dims:
            strange.append(name)
        else:
            layers.setdefault(match["prefix"], set()).add(match["part"])
    # A weight of one dimension is a row where its bias is a single number; else it is that of a norm.
    for prefix, parts in layers.items():
        flat = len(shapes.get(f"{prefix}weight", ())) == 1
        if "weight" not in parts or (flat and math.prod(shapes.get(f"{prefix}bias", (0,))) != 1):
            strange += [prefix + part for part in sorted(parts)]
    if strange or not layers:
        raise HeadError(
            f"{where} is no head that beholder knows: its tensors are {listed(sorted(shapes))}, "
            f"and {listed(sorted(strange))} {_is(strange)} no linear layer's; {_OWN_LAYERS}"
        )
    sizes = {prefix: _sizes(shapes[f"{prefix}weight"]) for prefix in layers}
    prefixes = _in_order(list(layers), sizes, where)
    for before, after in itertools.pairwise(prefixes):
        if sizes[before][0] != sizes[after][1]:
            raise HeadError(f"{where}: {before}weight {sizes[before]} and {after}weight {sizes[after]} do not fit each other")
    scale = said.input_scale or 1.0
    if len(prefixes) == 1:
        return _Layout(LINEAR, prefixes, input_scale=scale)
    activation, joined = _between(prefixes, shapes, said, where)
    return _Layout(LINEAR, prefixes, activation, input_scale=scale, joined=joined)


def _sizes(shape: tuple[int, ...]) -> tuple[int, int]:
    """(outputs, inputs) of a weight."""
    return (1, shape[0]) if len(shape) == 1 else (shape[0], shape[1])


def _in_order(prefixes: list[str], sizes: Mapping[str, tuple[int, int]], where: str) -> tuple[str, ...]:
    """The layers in the order in which they are run: by their numbers, else as their sizes fit. Raises HeadError."""
    places = {prefix: place for prefix in prefixes if (place := _numbered(prefix)) is not None}
    if len(places) == len(prefixes) and len({before for before, _ in places.values()}) == 1:
        return tuple(sorted(prefixes, key=lambda prefix: places[prefix][1]))
    rest, ordered, wanted = list(prefixes), list[str](), 1
    while rest:
        fitting = [prefix for prefix in rest if sizes[prefix][0] == wanted]
        if len(fitting) != 1:
            why = "several could come next to each other" if fitting else "they do not fit each other"
            listed = ", ".join(f"{prefix}weight ({sizes[prefix][0]}, {sizes[prefix][1]})" for prefix in prefixes)
            raise HeadError(
                f"{where}: nothing says the order of its layers, {why}: {listed}; save them as one torch.nn.Sequential"
            )
        ordered.insert(0, fitting[0])
        rest.remove(fitting[0])
        wanted = sizes[fitting[0]][1]
    return tuple(ordered)


def _without_wrappers(prefix: str) -> str:
    while prefix.startswith(_WRAPPERS):
        prefix = prefix[prefix.index(".") + 1 :]
    return prefix


def _numbered(prefix: str) -> tuple[str, int] | None:
    """("head.", 2) of "head.2."; also of "fc2."."""
    match = _NUMBERED.fullmatch(prefix)
    return (match["before"], int(match["number"])) if match else None


def _between(prefixes: tuple[str, ...], shapes: Shapes, said: HeadUsage, where: str) -> tuple[Activation, frozenset[int]]:
    """What stands between the layers, and which stand directly behind the one before. Raises HeadError where nothing tells.

    Modules of a Sequential are numbered, so a gap holds a module without weights: an activation, or Dropout. Numbers without
    any gap may be those of a ModuleList as well, whose activations are in the code; those without a prefix are taken for a
    Sequential, saved by itself.
    """
    places = [place for prefix in prefixes if (place := _numbered(prefix)) is not None]
    is_sequence = len(places) == len(prefixes) and len({before for before, _ in places}) == 1
    is_sequence = is_sequence and (places[0][0] == "" or places[0][0].endswith("."))
    steps = [after - before for (_, before), (_, after) in itertools.pairwise(places)] if is_sequence else []
    joined: frozenset[int] = frozenset()
    if any(step > 1 for step in steps):
        joined = frozenset(number for number, step in enumerate(steps, 1) if step == 1)
    elif steps and said.activation is None and _without_wrappers(places[0][0]) == "":
        return "none", joined
    if said.activation is None:
        dims = [_sizes(shapes[f"{prefix}weight"]) for prefix in prefixes]
        sizes = "-".join(str(size) for size in (*(num_in for _, num_in in dims), dims[-1][0]))
        first = next(number for number in range(1, len(prefixes)) if number not in joined)
        raise HeadError(
            f"{where} has {len(prefixes)} linear layers ({sizes}), and nothing in it says what stands between "
            f"{prefixes[first - 1]}weight and {prefixes[first]}weight; say it once, relu, or none for nothing but Dropout or "
            f"Identity: {_save_line(where, '--activation relu')} (in Python load_head(..., activation='relu')); "
            "other activations cannot be used"
        )
    return said.activation, joined


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
        raise HeadError(f"{where} is a damaged beholder head: its tensors are {listed(sorted(shapes))}")
    activation = metadata.get("activation")
    if activation not in ("none", "relu"):
        raise HeadError(f"{where} is a damaged beholder head: its activation is {activation!r}, not 'none' or 'relu'")
    return _Layout(HEAD_FORMAT, prefixes, "relu" if activation == "relu" else "none", backbone=metadata.get("backbone") or None)


def _layer(arrays: Arrays, prefix: str) -> Layer:
    """A layer; one without a bias has a bias of zeros, and a weight of one dimension is its only row."""
    weight = arrays[prefix + "weight"]
    if weight.ndim == 1:
        weight = weight[np.newaxis]
    bias = arrays.get(prefix + "bias")
    if bias is None:
        bias = np.zeros(weight.shape[:1])
    return Layer(weight, bias.reshape(1) if bias.ndim == 0 else bias)


def _joined(layers: tuple[Layer, ...], joined: frozenset[int]) -> tuple[Layer, ...]:
    """Layers with nothing between them as one."""
    found: list[Layer] = []
    for number, layer in enumerate(layers):
        if number in joined:
            before = found.pop()
            layer = Layer(layer.weight @ before.weight, layer.weight @ before.bias + layer.bias)
        found.append(layer)
    return tuple(found)


def _assembled(layout: _Layout, arrays: Arrays, metadata: Mapping[str, str], where: str) -> HeadFile:
    """Check that the layers fit each other and hold numbers."""
    layers = tuple(_layer(arrays, prefix) for prefix in layout.prefixes)
    num_in: int | None = None
    for prefix, layer in zip(layout.prefixes, layers, strict=True):
        shape = layer.weight.shape
        if len(shape) != 2 or 0 in shape or layer.bias.shape != shape[:1] or num_in not in (None, shape[1]):
            raise HeadError(f"{where} is damaged: {prefix}weight {shape} and {prefix}bias {layer.bias.shape} do not fit")
        if not (np.isfinite(layer.weight).all() and np.isfinite(layer.bias).all()):
            raise HeadError(f"{where} is damaged: {prefix}weight or {prefix}bias holds NaN or infinite values")
        if max(np.abs(layer.weight).max(), np.abs(layer.bias).max()) > LARGEST:
            raise HeadError(f"{where} is damaged: {prefix}weight or {prefix}bias holds numbers above {LARGEST:g}")
        num_in = shape[0]
    if num_in != 1:
        raise HeadError(f"{where} gives {num_in} numbers for a picture; a head that beholder can use gives one score")
    layers = _joined(layers, layout.joined)
    digest = layers_sha256(layers)
    if metadata.get("layers_sha256", digest) != digest:
        raise HeadError(f"{where} is damaged: its weights do not have the sha256 it was written with; get the file again")
    dim = layers[0].weight.shape[1]
    if metadata.get("dim", str(dim)) != str(dim):
        raise HeadError(f"{where} is damaged: it says dim {metadata['dim']} and holds {dim}")
    scale = _input_scale(layout, metadata, dim, where)
    return HeadFile(layers, layout.activation, scale, layout.word, layout.backbone, dict(metadata), digest)


def _input_scale(layout: _Layout, metadata: Mapping[str, str], dim: int, where: str) -> float:
    if layout.input_scale == "sqrt-dim":
        return float(np.sqrt(dim))
    text = metadata.get("input_scale", str(layout.input_scale))
    try:
        scale = float(text)
    except ValueError:
        scale = float("nan")
    if not 0 < scale < float("inf"):
        raise HeadError(f"{where} is a damaged beholder head: its input_scale is {text!r}, not a positive number")
    return scale
