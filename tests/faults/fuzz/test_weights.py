"""Mutated files of weights: heads and towers in every layout are loaded, or refused in one line; no pickle is ever run."""

from __future__ import annotations

import functools
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from beholder import load_head
from beholder.models.clip import random_tensors
from beholder.models.head_layouts import HeadFile, Layer, pack_head
from beholder.models.tower_layouts import open_tower_file
from oracles import checkpoints as made
from oracles import odd_json, odd_pickles
from oracles.fuzzing import Target, check
from oracles.small_towers import SHAPE
from oracles.tiers import mostly_slow

DIM = 8
ROW = np.linspace(-1, 1, DIM, dtype=np.float32)
MLP = torch.nn.Sequential(torch.nn.Linear(DIM, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1)).state_dict()
HEADS: tuple[Mapping[str, Any], ...] = (
    {"weight": torch.ones(1, DIM), "bias": torch.zeros(1)},
    {
        "state_dict": {"head.weight": torch.ones(1, DIM).half(), "head.bias": torch.zeros(1)},
        "epoch": 3,
        "optimizer": {"a": [1]},
    },
    {f"module.{name}": value for name, value in MLP.items()},
    {"fc.weight": torch.nn.Parameter(torch.ones(DIM)), "fc.bias": torch.tensor(0.5, dtype=torch.bfloat16)},
)
NAMES = ("weight", "bias", "head", "state_dict", "layers.0.weight", "vision_model.x", "predictor.weight", "model", "state")
SHAPES = ([], [0], [1], [-1], [1, DIM], [DIM, 1], [10**30, 0], [2**63], [1] * 70, [True], "18", [1.0], None, [4, 4])
OFFSETS = ([0, 0], [0, 32], [32, 0], [-8, 8], [0, 2**63], [8, 8], [0, 10**40], [0], [0, 8, 16], "0", None)


def head(path: Path) -> Hashable:
    """The head at `path`, with all that it can be asked. What it says is finite and its numbers are those of its layers."""
    found = load_head(path)
    assert not _canary().exists(), "a pickle was run"
    json.dumps(found.describe(), allow_nan=False)
    assert all(np.isfinite(part).all() for layer in found.layers for part in (layer.weight, layer.bias))
    if found.dim == DIM:
        assert np.isfinite(found.score(ROW)) or any(np.abs(layer.weight).max() > 1e30 for layer in found.layers)
    return found.layout, found.is_affine, len(found.layers), found.backbone


def tower(path: Path) -> Hashable:
    """The tower at `path`, all of its tensors read."""
    opened = open_tower_file(path)
    assert not _canary().exists(), "a pickle was run"
    for name, tensor in opened.tensors().items():
        assert torch.isfinite(tensor).all(), name
    return opened.layout, opened.hints.activation, opened.hints.num_heads, opened.shape


def tower_beside(weights: Callable[[Path], object], path: Path) -> Hashable:
    """The tower in a folder that has this file beside its weights."""
    folder = path.parent.parent / "beside"
    if not folder.exists():
        folder.mkdir()
        weights(folder)
    (folder / path.name).write_bytes(path.read_bytes())
    return tower(folder)


def _canary() -> Path:
    return Path(tempfile.gettempdir()).parent / "canary"


def torch_file(what: object, *, old: bool = False) -> bytes:
    """What torch.save writes."""
    data = io.BytesIO()
    torch.save(what, data, _use_new_zipfile_serialization=not old)
    return data.getvalue()


def in_description(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Operations of the pickle in a zip of torch's, changed; seldom its bytes."""
    pickle = odd_pickles.description_of(data)
    return odd_pickles.repacked(data, _changed_pickle(pickle, rng) if rng.random() < 0.85 else change(pickle))


def in_old_pickles(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """Operations of one of the five pickles that a file of torch's older format begins with."""
    pieces, at = [], 0
    for _ in range(5):
        ops = odd_pickles.operations(data[at:])
        pieces.append(odd_pickles.text_of(ops))
        at += len(pieces[-1])
    chosen = rng.choice((2, 3, 3, 3, 4))
    pieces[chosen] = _changed_pickle(pieces[chosen], rng)
    return b"".join(pieces) + data[at:]


def _changed_pickle(pickle: bytes, rng: random.Random) -> bytes:
    ops = odd_pickles.operations(pickle)
    if rng.random() < 0.3:
        _, harm = rng.choice(list(odd_pickles.harmful(_canary())))
        start = next((place for place, (code, _) in enumerate(ops) if code == b"("), 0)
        key = [odd_pickles.text(rng.choice((b"weight", b"x", b"state_dict")))] if rng.random() < 0.8 else []
        ops = [*ops[: start + 1], *key, *harm, *ops[start + 1 :]]
        return odd_pickles.text_of(ops if rng.random() < 0.7 else [(b"\x80", b"\2"), *harm, (b".", b"")])
    return odd_pickles.text_of(odd_pickles.changed(ops, rng))


def in_header(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The JSON of a safetensors file changed as a tree, its length right."""
    size = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + size])
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice(list(tree))
        match rng.randrange(6):
            case 0:
                tree[rng.choice(NAMES)] = tree.pop(name)
            case 1 if name != "__metadata__":
                tree[name]["shape"] = rng.choice(SHAPES)
            case 2 if name != "__metadata__":
                tree[name]["data_offsets"] = rng.choice(OFFSETS)
            case 3 if name != "__metadata__":
                tree[name]["dtype"] = rng.choice(
                    ("F64", "F16", "BF16", "I8", "U64", "F8_E4M3", "BOOL", "", "x", None, ["F32"], 4)
                )
            case _:
                tree = odd_json.changed(tree, rng)
        if not isinstance(tree, dict) or not tree:
            break
    text = odd_json.text_of(tree).encode("utf-8", "replace")
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def in_metadata(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The texts in the header of a safetensors file: those that are JSON as trees, others by odd texts."""
    size = int.from_bytes(data[:8], "little")
    tree = json.loads(data[8 : 8 + size])
    texts = tree["__metadata__"]
    name = rng.choice(list(texts))
    try:
        value = json.loads(texts[name])
        texts[name] = odd_json.text_of(odd_json.changed(value, rng))
    except (ValueError, RecursionError):
        texts[name] = rng.choice(("", "nan", "-1", "0", "1e999", "relu", "none", "\ud800", "x" * 1000, "2", "é\n"))
    text = json.dumps(tree).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def in_json(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """The whole file is JSON."""
    return odd_json.document(json.loads(data), rng)


def in_member(data: bytes, change: Callable[[bytes], bytes], rng: random.Random) -> bytes:
    """A member of a zip changed, or given another name, with right checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(out, "w") as target:
        chosen = rng.choice(source.namelist())
        for name in source.namelist():
            text = source.read(name)
            is_it = name == chosen
            target.writestr(
                rng.choice((name, name, name, "x", name + "x", "../" + name)) if is_it else name,
                change(text) if is_it else text,
            )
    return out.getvalue()


def safe(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """A safetensors file."""
    return save(
        {name: tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, dict(metadata or {"format": "pt"})
    )


def own_heads() -> Sequence[bytes]:
    """Heads in our own format: an affine one, and one with ReLU, with texts about them."""
    notes = {
        "name": "mine",
        "backbone": "openai/clip-vit-base-patch32",
        "notes": json.dumps({"trained": '{"a": 1.5}', "b": "x"}),
    }
    affine = HeadFile((Layer(np.ones((1, DIM)), np.zeros(1)),), "none", 1.0, "", None, notes)
    deep = HeadFile((Layer(np.ones((4, DIM)), np.zeros(4)), Layer(np.ones((1, 4)), np.zeros(1))), "relu", 2.0, "", None, notes)
    return pack_head(affine), pack_head(deep)


def npz(**arrays: Any) -> bytes:
    """An archive of numpy's."""
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def npy(array: Any) -> bytes:
    """An array."""
    data = io.BytesIO()
    np.save(data, array)
    return data.getvalue()


@functools.cache
def tensors() -> Mapping[str, torch.Tensor]:
    """A small tower's."""
    return random_tensors(SHAPE, seed=9)


def script() -> bytes:
    """A TorchScript archive with a tower."""
    with tempfile.TemporaryDirectory() as folder:
        return made.write_archive(Path(folder) / "x.pt", made.openai_state(tensors()) | made.text_state()).read_bytes()


def pickled_towers() -> Sequence[bytes]:
    """Towers as torch.save leaves them: OpenAI's names, a training run's, birder's with its texts."""
    openai = {name: tensor.half() for name, tensor in made.openai_state(tensors()).items()}
    birder = {"state": made.birder_state(tensors()), **made.birder_extras(SHAPE)}
    return torch_file(openai), torch_file({"epoch": 3, "state_dict": openai}), torch_file(birder)


def safe_towers() -> Sequence[bytes]:
    """Towers in safetensors: OpenAI's names, Hugging Face's, birder's with its texts, one kept by us."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in made.birder_extras(SHAPE).items()}
    kept = {"format": "beholder-tower-tensors", "version": "1", "name": "x/y", "data_sha256": "0" * 64,
            "configs": json.dumps({"config.json": made.hf_config(SHAPE)})}  # fmt: skip
    return (
        safe(made.openai_state(tensors())), safe(made.hf_state(tensors())), safe(made.birder_state(tensors()), texts),
        safe(made.hf_state(tensors()), kept),
    )  # fmt: skip


def hugging_face(folder: Path) -> None:
    """The weights of a folder whose configuration is fed."""
    (folder / "model.safetensors").write_bytes(safe(made.hf_state(tensors())))
    (folder / "config.json").write_text(json.dumps(made.hf_config(SHAPE)))


def open_clip(folder: Path) -> None:
    """The same of open_clip."""
    (folder / "open_clip_model.safetensors").write_bytes(safe(made.openai_state(tensors())))


def timm(folder: Path) -> None:
    """The same of timm."""
    (folder / "model.safetensors").write_bytes(safe(made.timm_state(tensors())))


def sharded(folder: Path) -> None:
    """Two shards, without their index."""
    state = made.hf_state(tensors())
    names = sorted(state)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        (folder / f"model-{number:05d}-of-00002.safetensors").write_bytes(safe({name: state[name] for name in part}))
    (folder / "config.json").write_text(json.dumps(made.hf_config(SHAPE)))


def index() -> bytes:
    """The index of the two shards."""
    names = sorted(made.hf_state(tensors()))
    files = {name: f"model-{number % 2 + 1:05d}-of-00002.safetensors" for number, name in enumerate(names)}
    return json.dumps({"metadata": {"total_size": 1}, "weight_map": files}).encode()


def _json_seed(value: object) -> Callable[[], Sequence[bytes]]:
    return lambda: [json.dumps(value).encode()]


_LIMITS: dict[str, Any] = {"limit_s": 5.0, "most_bytes": 256 << 20}
_OPEN_CLIP = {"model_cfg": {"embed_dim": 32, "quick_gelu": True, "vision_cfg": {"width": 64, "head_width": 32, "layers": 2}},
              "preprocess_cfg": {"mean": made.CLIP_MEAN, "std": made.CLIP_STD}}  # fmt: skip
_BESIDE: dict[str, Any] = {"insides": (in_json,), "names_file": False, "count": 40, **_LIMITS}

TARGETS = {
    "head of torch": Target(head, lambda: [torch_file(one) for one in HEADS[:2]] + [torch_file(HEADS[3])], "x.pth",
                            insides=(in_description, in_description, in_member), count=13, **_LIMITS),
    "head of old torch": Target(head, lambda: [torch_file(one, old=True) for one in HEADS[:2]], "x.pth",
                                insides=(in_old_pickles,), count=10, **_LIMITS),
    "head in safetensors": Target(head, lambda: [safe(HEADS[0]), safe(HEADS[3]), *own_heads()], "x.safetensors",
                                  insides=(in_header, in_metadata), count=13, **_LIMITS),
    "head in npz": Target(head, lambda: [npz(weight=np.ones((1, DIM)), bias=np.zeros(1)), npz(coef_=np.ones(DIM),
        intercept_=0.0),
                                         npz(w=np.ones(DIM), b=1, backbone=np.array("ViT-B/32"))], "x.npz",
                          insides=(in_member,), **_LIMITS),
    "head in npy": Target(head, lambda: [npy(np.ones(64)), npy(np.ones((1, 65), "f2"))], "x.npy", **_LIMITS),
    "tower of torch": Target(tower, pickled_towers, "x.pt", insides=(in_description, in_description, in_member), **_LIMITS),
    "tower of old torch": Target(tower, lambda: [torch_file(made.openai_state(tensors()), old=True)], "x.pt",
                                 insides=(in_old_pickles,), **_LIMITS),
    "tower in safetensors": Target(tower, safe_towers, "x.safetensors", insides=(in_header, in_metadata, in_metadata),
                                   **_LIMITS),
    "tower in TorchScript": Target(tower, lambda: [script()], "x.pt", insides=(in_description, in_description, in_member),
                                   count=10, **_LIMITS),
    "config.json of transformers": Target(functools.partial(tower_beside, hugging_face), _json_seed(made.hf_config(SHAPE)),
                                          "config.json", **_BESIDE),
    "preprocessor_config.json": Target(functools.partial(tower_beside, hugging_face),
                                       _json_seed({"image_mean": made.CLIP_MEAN, "image_std": made.CLIP_STD, "size": 224}),
                                       "preprocessor_config.json", **_BESIDE),
    "open_clip_config.json": Target(functools.partial(tower_beside, open_clip), _json_seed(_OPEN_CLIP), "open_clip_config.json",
                                    **_BESIDE),
    "config.json of timm": Target(functools.partial(tower_beside, timm),
                                  _json_seed(made.timm_config("vit_tiny_clip_quickgelu_28")), "config.json", **_BESIDE),
    "index of shards": Target(functools.partial(tower_beside, sharded), lambda: [index()], "model.safetensors.index.json",
                              **_BESIDE),
}  # fmt: skip


@pytest.mark.parametrize("name", mostly_slow(TARGETS))
def test_mutated_weights_are_loaded_or_refused(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path, count=TARGETS[name].count)


@pytest.mark.soak
@pytest.mark.parametrize("name", TARGETS)
def test_mutated_weights_for_a_minute(name: str, tmp_path: Path) -> None:
    check(__file__, name, tmp_path)
