"""Heads and towers whose files lie about sizes, repeat their numbers, or go on behind their end: one line each."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from beholder import load_head
from beholder.errors import HeadError
from beholder.models.clip import random_tensors
from beholder.models.head_layouts import HeadFile, Layer, pack_head, read_head_file
from beholder.models.tensor_files import pack_tensors
from beholder.models.tower_layouts import open_tower_file
from oracles import odd_pickles
from oracles.checkpoints import birder_state, hf_state, write_archive, write_safetensors
from oracles.in_process import command
from oracles.small_towers import SHAPE

DIM = 8
WEIGHTS = {"weight": torch.ones(1, DIM), "bias": torch.zeros(1)}
TENSORS = {"weight": np.ones((1, DIM)), "bias": np.zeros(1)}


def saved(what: Any, **options: Any) -> bytes:
    data = io.BytesIO()
    torch.save(what, data, **options)
    return data.getvalue()


def refused(path: Path, data: bytes, words: str) -> None:
    """Both readers, of heads and of towers, refuse the file in one line."""
    path.write_bytes(data)
    for read in (read_head_file, open_tower_file):
        with pytest.raises(HeadError, match=words) as caught:
            read(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def test_an_archive_that_claims_more_than_the_file_has(tmp_path: Path) -> None:
    whole = saved(WEIGHTS)
    assert zipfile.ZipFile(io.BytesIO(whole)).testzip() is None
    lying = bytearray(whole)
    at = whole.index(b"PK\1\2", whole.index(b"PK\1\2") + 4)
    while b"data/0" not in whole[at : at + 80]:
        at = whole.index(b"PK\1\2", at + 4)
    lying[at + 20 : at + 28] = struct.pack("<II", 4_000_000_000, 4_000_000_000)
    refused(tmp_path / "x.pth", bytes(lying), "claims to hold 4,000,0.* bytes and has")
    lying[at + 20 : at + 24] = whole[at + 20 : at + 24]
    refused(tmp_path / "x.pth", bytes(lying), "has two different sizes")


def test_an_archive_of_packed_numbers(tmp_path: Path) -> None:
    data = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(WEIGHTS))) as source, zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, bytes(32 << 20) if name.endswith("data/0") else source.read(name))
    assert len(data.getvalue()) < 100_000
    refused(
        tmp_path / "x.pth", data.getvalue(), "is refused: its .*data/0' is compressed, and torch stores numbers uncompressed"
    )


def test_a_tensor_that_repeats_its_numbers(tmp_path: Path) -> None:
    """A file of 1 kB whose weights would be 40 GB as float64."""
    path = tmp_path / "x.pth"
    path.write_bytes(saved({"weight": torch.ones(1, 1).expand(1, 5_000_000_000), "bias": torch.zeros(1)}))
    assert path.stat().st_size < 2000
    with pytest.raises(HeadError, match="tensor weight has more numbers than the file holds"):
        read_head_file(path)


@pytest.mark.parametrize("old", [False, True])
def test_bytes_behind_the_weights(old: bool, tmp_path: Path) -> None:
    whole = saved(WEIGHTS, _use_new_zipfile_serialization=not old)
    path = tmp_path / "x.pth"
    path.write_bytes(whole)
    assert read_head_file(path).layers[0].weight.tolist() == [[1.0] * DIM]
    refused(path, whole + b"more", "has bytes after the end of its")


def test_bytes_behind_the_last_tensor(tmp_path: Path) -> None:
    whole = pack_tensors(TENSORS, {})
    path = tmp_path / "x.safetensors"
    path.write_bytes(whole)
    assert load_head(str(path)).dim == DIM
    refused(path, whole + bytes(3), f"has 3 bytes after the {len(whole)} that its header promises")


def header(**changed: Any) -> bytes:
    records = {
        "weight": {"dtype": "F64", "shape": [1, DIM], "data_offsets": [8, 72]},
        "bias": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]},
    }
    records["weight"] |= changed
    return json.dumps(records).encode()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (header(data_offsets=[8, 1e308]), "where whole numbers belong"),
        (header(data_offsets=[8, 72.0]), "where whole numbers belong"),
        (header(data_offsets=[8, 72]).replace(b"72", b"1e999"), "where whole numbers belong"),
        (header(shape=[True, DIM]), "where whole numbers belong"),
        (header(shape="18"), "where whole numbers belong"),
        (header(shape=[0, 10**30], data_offsets=[8, 8]), "damaged|do not fit|after the"),
        (header().replace(b'"bias"', b'"weight"'), "names something twice"),
        (b'{"a":' * 5000, "does not make sense"),
        (b'{"weight": 5}', "does not make sense"),
    ],
)
def test_headers_that_make_no_sense(text: bytes, words: str, tmp_path: Path) -> None:
    refused_head = tmp_path / "x.safetensors"
    refused_head.write_bytes(len(text).to_bytes(8, "little") + text + bytes(72))
    for read in (read_head_file, open_tower_file):
        with pytest.raises(HeadError, match=words if read is read_head_file else "."):
            read(refused_head)


def test_a_pickle_that_holds_itself(tmp_path: Path) -> None:
    loop: dict[str, Any] = {"weight": torch.ones(3)}
    loop["state"] = loop
    path = tmp_path / "x.pt"
    path.write_bytes(saved(loop))
    with pytest.raises(HeadError):
        open_tower_file(path)


def test_a_pickle_that_holds_itself_a_thousand_times(tmp_path: Path) -> None:
    """Each way through it would be looked at: 10^12 of them four levels down."""
    loop: dict[str, Any] = {}
    loop.update({f"part{number}": loop for number in range(1000)})
    path = tmp_path / "x.pt"
    path.write_bytes(saved(loop))
    with pytest.raises(HeadError, match="no head that beholder knows"):
        read_head_file(path)


def test_names_with_line_breaks_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(saved({"weight\n\x1b[31m": torch.ones(1, 2)}))
    with pytest.raises(HeadError) as caught:
        read_head_file(path)
    assert r"its tensors are weight\n\x1b[31m" in str(caught.value)


HEAVY = {
    "memory of the memo": "numbers its results as if there were millions",
    "bytes without end": "asks for bytes without end",
    "doubled bytes": "names the same values again and again",
    "hashed without end": "names the same values again and again",
    "told without end": "calls what is no name",
    "built without end": "is no head|holds no tensors|no checkpoint|no plain tensor|can only build|not a file of plain weights",
    "a key in a set": "names the same values again and again",
    "counted": "names the same values again and again",
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("kind", HEAVY)
def test_a_pickle_that_would_never_end(kind: str, old: bool, tmp_path: Path) -> None:
    """Some hundred bytes that would be hashed or shown for years, or take all memory."""
    harm = dict(odd_pickles.harmful(tmp_path / "canary"))[kind]
    text = odd_pickles.text_of([(b"\x80", b"\2"), *harm, (b".", b"")])
    whole = saved(WEIGHTS, _use_new_zipfile_serialization=not old)
    if old:
        at = sum(len(odd_pickles.text_of(ops)) for ops in first_pickles(whole, 3))
        data = whole[:at] + text + whole[at:]
    else:
        data = odd_pickles.repacked(whole, text)
    refused(tmp_path / "x.pth", data, HEAVY[kind] if kind != "built without end" else ".")


def _named_by_texts(ops: list[odd_pickles.Op], *, split_at: int, is_kept: bool) -> list[odd_pickles.Op]:
    """The same with names as protocol 4 has them: two texts, of which the first ends at a dot; kept under a number or not."""
    found: list[odd_pickles.Op] = []
    for code, argument in ops:
        if code != b"c":
            found.append((code, argument))
            continue
        parts = argument.decode().replace("\n", ".").strip(".").split(".")
        at = min(split_at, len(parts) - 1)
        for part in (parts[:at], parts[at:]):
            found.append(odd_pickles.text(".".join(part).encode()))
            found += [(b"\x94", b""), (b"0", b""), (b"h", bytes([found.count((b"\x94", b""))]))] if is_kept else []
        found.append((b"\x93", b""))
    return found


@pytest.mark.parametrize("is_kept", [False, True])
@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ("bytes without end", "asks for bytes without end"),
        ("doubled bytes", "names the same values again and again"),
        ("a copy", "asks for torch._utils._rebuild_device_tensor_from_cpu_tensor"),
        ("no text", "calls what is no name"),
    ],
)
def test_names_of_two_texts_are_seen(harm: str, told: str, is_kept: bool, tmp_path: Path) -> None:
    """As protocol 4 tells names: `torch` and `_utils.x` is the same name as `torch._utils` and `x`."""
    harms = dict(odd_pickles.harmful(tmp_path / "canary"))
    harms["a copy"] = odd_pickles.called("torch._utils", "_rebuild_device_tensor_from_cpu_tensor", [(b"N", b"")])
    harms["no text"] = harms["mkdir"]
    for split_at in (1, 2):
        named = _named_by_texts(harms[harm], split_at=split_at, is_kept=is_kept)
        if harm == "no text":
            named[0] = (b"N", b"")
        description = odd_pickles.text_of([(b"\x80", b"\4"), *named, (b".", b"")])
        refused(tmp_path / "x.pth", odd_pickles.repacked(saved(WEIGHTS), description), told)


@pytest.mark.slow
def test_a_key_of_tuples_in_tuples(tmp_path: Path) -> None:
    """Python would hash it by 300,000 calls in each other, which no stack has room for: the process would end."""
    deep = [(b"}", b""), (b")", b""), *[(b"\x85", b"")] * 300_000, (b"N", b""), (b"s", b"")]
    description = odd_pickles.text_of([(b"\x80", b"\2"), *deep, (b".", b"")])
    refused(tmp_path / "x.pth", odd_pickles.repacked(saved(WEIGHTS), description), "values are nested without end")


@pytest.mark.slow
def test_a_pickle_is_weighed_in_little_memory(tmp_path: Path) -> None:
    """Tuples of two of the last one, each kept: their sizes alone, in full, would take 225 MB."""
    doubled = [(b")", b""), *[(b"2", b""), (b"\x86", b""), (b"\x94", b"")] * 60_000]
    description = odd_pickles.text_of([(b"\x80", b"\4"), *doubled, (b".", b"")])
    (tmp_path / "x.pth").write_bytes(odd_pickles.repacked(saved(WEIGHTS), description))
    tracemalloc.start()
    try:
        with pytest.raises(HeadError):
            read_head_file(tmp_path / "x.pth")
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def first_pickles(data: bytes, count: int) -> list[list[odd_pickles.Op]]:
    found = []
    for _ in range(count):
        found.append(odd_pickles.operations(data))
        data = data[len(odd_pickles.text_of(found[-1])) :]
    return found


def test_a_description_that_asks_for_all_memory(tmp_path: Path) -> None:
    """The number of a result in a TorchScript archive, whose reader makes room for all up to it: 32 GB."""
    path = write_archive(tmp_path / "x.pt", {"weight": torch.ones(2)})
    text = odd_pickles.text_of([(b"\x80", b"\2"), (b"N", b""), (b"r", struct.pack("<I", 2**31 - 1)), (b".", b"")])
    path.write_bytes(odd_pickles.repacked(path.read_bytes(), text))
    with pytest.raises(HeadError, match="is not a sound TorchScript archive .it numbers its results as if"):
        open_tower_file(path)


@pytest.mark.parametrize("shared", [False, True])
def test_large_and_shared_values_are_no_harm(shared: bool, tmp_path: Path) -> None:
    """Settings beside the weights, as training runs leave them, are read whatever they hold."""
    inner = [list(range(1000))] * 3 if shared else [list(range(1000)) for _ in range(3)]
    extras = {"history": inner, "seen": {1, 2, "a"}, "raw": b"abc", "more": bytearray(b"x" * 300), "size": torch.Size([2, 3])}
    path = tmp_path / "x.pth"
    for old in (False, True):
        path.write_bytes(saved({"state_dict": WEIGHTS, **extras}, _use_new_zipfile_serialization=not old))
        assert read_head_file(path).layers[0].weight.tolist() == [[1.0] * DIM]


@pytest.mark.parametrize(
    "extras",
    [
        {"config": {"norm_layer_eps": torch.ones(3)}}, {"config": {"act_layer_type": torch.ones(3)}},
        {"rgb_stats": {"mean": torch.ones(3)}}, {"signature": {"inputs": [{"data_shape": [1, torch.ones(2)]}]}},
        {"config": [[[[1] * 100] * 100] * 100] * 100},
    ],
)  # fmt: skip
def test_settings_in_a_checkpoint_that_are_none(extras: dict[str, Any], tmp_path: Path) -> None:
    """What is no plain setting says nothing, as if it were not there."""
    path = tmp_path / "vit_l14_pn_quick_gelu_tiny.pt"
    path.write_bytes(saved({"state": birder_state(random_tensors(SHAPE)), **extras}))
    assert open_tower_file(path).hints.activation == "quick_gelu"


def test_a_kept_tower_whose_settings_are_damaged(tmp_path: Path) -> None:
    tensors = {name: tensor.contiguous() for name, tensor in hf_state(random_tensors(SHAPE)).items()}
    for text in ("", "[", "[" * 100_000, "[1]", "null"):
        texts = {"format": "beholder-tower-tensors", "version": "1", "configs": text}
        path = write_safetensors(tmp_path / "x.safetensors", tensors, texts)
        assert open_tower_file(path).hints.activation is None


@pytest.mark.parametrize("text", ["[" * 100_000, '{"weight_map": {"a": "' + "x" * 5000 + '"}}', '{"weight_map": [1]}', "{}"])
def test_an_index_of_shards_that_makes_no_sense(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    with pytest.raises(HeadError, match="is not a sound index of a sharded checkpoint"):
        open_tower_file(path)


def test_notes_of_a_head_that_are_damaged(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for notes in ("[" * 100_000, "5", '{"a": ' * 900 + "1" + "}" * 900):
        whole = HeadFile((Layer(np.ones((1, DIM)), np.zeros(1)),), "none", 1.0, "", None, {"notes": notes})
        path.write_bytes(pack_head(whole))
        assert set(load_head(str(path)).notes) <= {"a"}
        assert "x" in command("models", "info", str(path))


@pytest.mark.parametrize(("weight", "scale", "layers"), [(1e31, 1.0, 1), (1.0, 1e31, 1), (1e20, 1.0, 2), (1.0, 1e31, 2)])
def test_weights_that_give_no_scores(weight: float, scale: float, layers: int, tmp_path: Path) -> None:
    """Finite, and too large for the numbers that scores are: also once layers, or the factor before them, are multiplied."""
    deep = [Layer(np.full((DIM, DIM), weight), np.zeros(DIM))] * (layers - 1)
    last = Layer(np.full((1, DIM), weight), np.zeros(1))
    for activation in ("none", "relu") if scale > 1 else ("none",):
        made = HeadFile((*deep, last), activation, scale, "")
        (tmp_path / "x.safetensors").write_bytes(pack_head(made))
        with pytest.raises(HeadError, match=r"x.safetensors is damaged: .*numbers above 1e\+30"):
            load_head(str(tmp_path / "x.safetensors"))


@pytest.mark.parametrize("letter", [0x110000, 0xFFFFFFFF, 0xD800])
def test_texts_of_letters_that_do_not_exist(letter: int, tmp_path: Path) -> None:
    """Numpy keeps texts as numbers, and makes texts of any of them, which then break whatever looks at them."""
    text = np.array([letter, 97], np.uint32).view("<U2")
    np.savez(tmp_path / "x.npz", weight=np.ones(DIM), bias=0.0, backbone=text)
    with pytest.raises(HeadError, match="x.npz"):
        load_head(str(tmp_path / "x.npz"))
