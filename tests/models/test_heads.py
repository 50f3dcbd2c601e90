"""Heads by name, path and backbone: published numbers, saving, keeping converted heads, no torch the second time."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch

import beholder
from beholder.errors import HeadError
from beholder.io.user_folders import cache_folder
from beholder.kernels.scoring import Affine, Perceptron
from beholder.models import catalog
from beholder.models.heads import Head, load_head, save_head, score_on_device

L14 = "openai/clip-vit-large-patch14"
RATINGS = (0, 5, 9)

# formats.md, table 2 (16 digits cut to 4): scores of LAION's mean embeddings of its rating bands 0, 5 and 9.
GOLDEN = {
    "sac+logos+ava1-l14-linearMSE": (1.6555, 4.7010, 5.7468),
    "ava+logos-l14-linearMSE": (4.5126, 4.8433, 5.2664),
    "ava+logos-l14-reluMSE": (4.3717, 4.0178, 4.3083),
    "sa_0_4_vit_l_14_linear": (-2.4579, 6.4701, 11.3044),
    "sac_public_2022_06_29_vit_l_14_linear": (-3.4739, 3.6085, 6.2497),
}
# Norm of the folded weight (before the simulacra heads' factor sqrt(dim)) and bias, as far as published.
NORMS = {
    "sac+logos+ava1-l14-linearMSE": (17.9956, 5.2366),
    "ava+logos-l14-linearMSE": (12.4592, 5.2981),
    "sa_0_4_vit_l_14_linear": (28.44, 3.529),
    "sa_0_4_vit_b_32_linear": (27.57, 3.421),
    "sa_0_4_vit_b_16_linear": (28.20, 3.151),
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")


@pytest.fixture
def models(shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BEHOLDER_MODELS", str(shared_models))
    return shared_models


@pytest.fixture
def reference(shared_reference: Path) -> npt.NDArray[np.float32]:
    """(3, 768) float32."""
    files = [shared_reference / f"laion_vit_l_14_rating{rating}.npy" for rating in RATINGS]
    return np.concatenate([np.load(file).reshape(1, 768) for file in files])


def slow_scores(entry: catalog.HeadEntry, path: Path, rows: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Layer after layer as the published code does it, in float64; nothing folded, nothing of beholder's."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    x = torch.from_numpy(rows.astype(np.float64))
    x = x / x.norm(dim=1, keepdim=True)
    if entry.normalisation == "l2, times sqrt(dim)":
        x = x * rows.shape[1] ** 0.5
    names = [name for name in state if name.endswith("weight")]
    for name in names:
        x = x @ state[name].double().T + state[name.replace("weight", "bias")].double()
        if not entry.is_affine and name != names[-1]:
            x = x.relu()
    found: npt.NDArray[np.float64] = x[:, 0].numpy()
    return found


def rows_of(dim: int, num_rows: int = 7, seed: int = 0, dtype: str = "f4") -> npt.NDArray[Any]:
    return (np.random.default_rng(seed).normal(size=(num_rows, dim)) * 3).astype(dtype)


def small(kind: str = "affine", dim: int = 24) -> Head:
    make = np.random.default_rng(11)
    if kind == "affine":
        return Head(name="mine", math=Affine(make.normal(size=dim) * 4, 5.25))
    widths = (dim, 9, 5, 1)
    weights = tuple(make.normal(size=(out, num_in)) for num_in, out in itertools.pairwise(widths))
    return Head(name="mine", math=Perceptron(weights, tuple(make.normal(size=out) for out in widths[1:])))


@pytest.mark.parametrize("name", GOLDEN)
def test_published_scores(name: str, models: Path, reference: npt.NDArray[np.float32]) -> None:
    scores = load_head(name).score(reference)
    assert scores.dtype == np.float32
    assert [round(float(score), 4) for score in scores] == list(GOLDEN[name])


@pytest.mark.parametrize("entry", catalog.HEADS, ids=lambda entry: entry.name)
def test_every_head_scores_as_the_slow_reference_does(entry: catalog.HeadEntry, models: Path) -> None:
    head = load_head(entry.name)
    rows = rows_of(entry.dim, 200)
    expected = slow_scores(entry, models / entry.files[0], rows)
    assert np.abs(head.score(rows) - expected).max() <= 1e-5
    # torch adds float32 in the order of the processor's own BLAS; these rows make some heads say 40, not 10.
    of_the_scale = max(1.0, float(np.abs(expected).max()) / 10)
    assert np.abs(head.as_module()(torch.from_numpy(rows)).numpy() - expected).max() <= 1e-5 * of_the_scale
    on_device = score_on_device(head, torch.from_numpy(rows)).numpy()
    assert (np.abs(on_device - expected) <= 0.5 * np.spacing(np.abs(on_device)) + 1e-9).all()


@pytest.mark.parametrize("name", GOLDEN)
def test_reference_rows_to_1e_5_of_the_slow_reference(name: str, models: Path, reference: npt.NDArray[np.float32]) -> None:
    entry = catalog.find(name)
    assert entry is not None
    expected = slow_scores(entry, models / entry.files[0], reference)
    assert np.abs(load_head(name).score(reference) - expected).max() <= 1e-5


@pytest.mark.parametrize("entry", catalog.HEADS, ids=lambda entry: entry.name)
def test_every_head_is_described_rightly(entry: catalog.HeadEntry, models: Path) -> None:
    head = load_head(entry.name)
    assert (head.name, head.dim, head.is_affine, head.sha256) == (entry.name, entry.dim, entry.is_affine, entry.sha256)
    assert (head.backbone, head.licence, head.source) == (entry.backbone, entry.licence, entry.sources[0].url)
    record = json.loads(json.dumps(head.describe()))
    assert record["sha256"] == entry.sha256
    assert record["backbone"] == entry.backbone
    if entry.name in NORMS:
        norm, bias = NORMS[entry.name]
        digits = len(str(norm).split(".")[1])
        assert round(float(np.linalg.norm(head.weight)), digits) == norm
        assert round(head.bias, len(str(bias).split(".")[1])) == bias
        assert record["weight_norm"] == float(np.linalg.norm(head.weight))
    if not entry.is_affine:
        assert "weight_norm" not in record
        for part in ("weight", "bias"):
            with pytest.raises(HeadError, match="no single weight vector"):
                getattr(head, part)


def test_a_renamed_file_keeps_what_is_known_about_it(models: Path, tmp_path: Path) -> None:
    path = tmp_path / "something else.bin"
    shutil.copy(models / "sa_0_4_vit_b_16_linear.pth", path)
    for spec in (path, str(path), f"file://{path}"):
        head = load_head(spec)
        assert (head.name, head.licence, head.backbone) == ("sa_0_4_vit_b_16_linear", "MIT", "openai/clip-vit-base-patch16")


def test_vdc_name_in_the_models_folder(shared_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(shared_models / "sac+logos+ava1-l14-linearMSE.pth", tmp_path / "openai-clip_aesthetic-predictor.pt")
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path))
    assert load_head().name == "sac+logos+ava1-l14-linearMSE"


@pytest.mark.parametrize("kind", ["affine", "relu"])
def test_a_saved_head_comes_back_to_the_bit(kind: str, tmp_path: Path) -> None:
    head = Head(
        name="my taste", math=small(kind).math, backbone="ViT-L/14", licence="CC0-1.0", scale_note="1 to 5",
        notes={"rows": "1000", "author": "ü"},
    )  # fmt: skip
    path = tmp_path / "deep" / "taste.safetensors"
    digest = save_head(head, path)
    found = load_head(path)
    assert found.sha256 == digest
    assert (found.name, found.licence, found.scale_note, dict(found.notes)) == (
        "my taste",
        "CC0-1.0",
        "1 to 5",
        dict(head.notes),
    )
    assert found.backbone == L14
    assert found.source == str(path)
    assert found.source_sha256 is None
    for mine, its in zip(head.layers, found.layers, strict=True):
        assert mine.weight.tobytes() == its.weight.tobytes()
        assert mine.bias.tobytes() == its.bias.tobytes()
    assert found.is_affine == (kind == "affine")
    assert save_head(found, tmp_path / "again.safetensors") == save_head(found, tmp_path / "third.safetensors")


def test_saving_a_public_head_keeps_where_it_came_from(models: Path, tmp_path: Path) -> None:
    head = load_head("simulacra-l_14")
    save_head(head, tmp_path / "s.safetensors")
    found = load_head(tmp_path / "s.safetensors")
    assert found.source_sha256 == head.sha256
    assert found.weight.tobytes() == head.weight.tobytes()
    assert (found.name, found.licence, found.source, found.layout) == (head.name, "MIT", head.source, "simulacra")


def test_saving_and_loading_by_url() -> None:
    head = small()
    digest = save_head(head, "memory://bucket/mine.safetensors")
    found = load_head("memory://bucket/mine.safetensors", offline=False)
    assert found.sha256 == digest
    assert found.source == "memory://bucket/mine.safetensors"
    assert found.weight.tobytes() == head.weight.tobytes()


def in_another_process(code: str) -> str:
    script = f"import sys\nimport numpy as np\nfrom beholder.models.heads import load_head\n{code}"
    source = str(Path(beholder.__file__).parents[1])
    script = f"import sys; sys.path.insert(0, {source!r})\n{script}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_the_second_load_needs_no_torch_and_gives_the_same_bits(models: Path) -> None:
    name = "ava+logos-l14-reluMSE"
    code = (
        f"head = load_head({name!r})\nimport hashlib\n"
        "bits = b''.join(layer.weight.tobytes() + layer.bias.tobytes() for layer in head.layers)\n"
        "scores = head.score(np.ones((2, 768), np.float32))\n"
        "print('torch' in sys.modules, hashlib.sha256(bits).hexdigest(), scores.tobytes().hex(), head.describe())"
    )
    first, second = in_another_process(code), in_another_process(code)
    assert first.startswith("True ")
    assert second.startswith("False ")
    assert first.split(" ", 1)[1] == second.split(" ", 1)[1]


@pytest.mark.soak
def test_an_unknown_head_is_kept_converted_too(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 8), "bias": torch.zeros(1)}, tmp_path / "own.pth")
    code = (
        f"head = load_head({str(tmp_path / 'own.pth')!r}); print('torch' in sys.modules, head.name, head.layout, head.source)"
    )
    first, second = in_another_process(code), in_another_process(code)
    assert first.split(" ", 1) == ["True", f"own laion-v1 {tmp_path / 'own.pth'}"]
    (tmp_path / "own.pth").rename(tmp_path / "moved.pth")
    third = in_another_process(code.replace("own.pth", "moved.pth"))
    assert second == first.replace("True", "False")
    assert third == f"False moved laion-v1 {tmp_path / 'moved.pth'}"


def test_a_damaged_conversion_is_made_anew(models: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load_head("laion-v1").weight
    (kept,) = (cache_folder() / "heads").glob("*.safetensors")
    data = bytearray(kept.read_bytes())
    data[-1] ^= 1
    kept.write_bytes(bytes(data))
    assert load_head("laion-v1").weight.tobytes() == before.tobytes()
    assert "made anew" in caplog.text
    caplog.clear()
    load_head("laion-v1")
    assert caplog.text == ""


def test_a_cache_that_cannot_be_written_does_no_harm(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("BEHOLDER_CACHE", str(tmp_path / "file" / "cache"))
    assert load_head("laion-v1").bias == pytest.approx(3.529, abs=1e-3)


@pytest.mark.parametrize("name", ["ViT-L/14", L14, "vit_l14_pn_quick_gelu_openai-clip"])
def test_the_right_backbone_is_accepted(name: str, models: Path) -> None:
    assert load_head("laion-v2", backbone=name).backbone == L14


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ViT-L/14@336px", f"scores embeddings of {L14}, and these are of ViT-L/14@336px; its scores would mean nothing"),
        ("ViT-B/32", "scores embeddings of length 768, and openai/clip-vit-base-patch32 gives 512"),
        ("ViT-L-14/openai", "is not known to be the same tower"),
    ],
)
def test_another_backbone_is_refused(name: str, words: str, models: Path) -> None:
    with pytest.raises(HeadError, match=words):
        load_head("laion-v2", backbone=name)


def test_a_head_of_unknown_backbone_takes_the_one_it_is_given(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(1, 768), "bias": torch.zeros(1)}, tmp_path / "own.pth")
    assert load_head(tmp_path / "own.pth").backbone is None
    assert load_head(tmp_path / "own.pth", backbone="ViT-L/14").backbone == L14
    assert load_head(tmp_path / "own.pth", backbone="my/tower").backbone == "my/tower"
    with pytest.raises(HeadError, match="of length 768, and openai/clip-vit-base-patch16 gives 512"):
        load_head(tmp_path / "own.pth", backbone="ViT-B/16")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("sac+logos+ava-l14-linearMSE", r"there is no head .* did you mean sac\+logos\+ava1-l14-linearMSE"),
        ("qqqqqq", "see: beholder models list"),
        ("./nowhere.pth", "no file is there"),
        ("/nowhere/at/all.safetensors", "no file is there"),
        ("aesthetic_predictor_v2_5.pth", "is refused: .*SigLIP"),
        ("", "there is no head"),
        ("some/repository", "offline"),
        ("ttj/sac-logos-ava1-l14-linearMSE", "offline"),
        ("http://127.0.0.1:9/x.pth", "offline"),
        ("http://127.0.0.1:9/x.safetensors", "offline"),
    ],
)
def test_heads_that_cannot_be_had(spec: str, words: str) -> None:
    with pytest.raises(HeadError, match=words) as caught:
        load_head(spec)
    assert "\n" not in str(caught.value)


def test_a_folder_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="a folder"):
        load_head(tmp_path)
    with pytest.raises(HeadError, match="not there"):
        load_head(tmp_path / "none")


def test_a_refused_file_is_known_by_its_sha256_or_its_tensors(tmp_path: Path) -> None:
    tensors = {f"scoring_head.{i}.weight": torch.ones(1, 1152, dtype=torch.bfloat16) for i in (0, 2)}
    torch.save(tensors, tmp_path / "x.pth")
    with pytest.raises(HeadError, match="AGPL"):
        load_head(tmp_path / "x.pth")


def test_a_bundle_is_read_without_its_tower(tmp_path: Path) -> None:
    """A file of 1.2 GB on paper, with a hole where the tower would be; only the head's bytes are real."""
    head = {"predictor.weight": torch.randn(1, 768), "predictor.bias": torch.randn(1)}
    small_file = safetensors.torch.save(head)
    length = int.from_bytes(small_file[:8], "little")
    records = json.loads(small_file[8 : 8 + length])
    start = max(record["data_offsets"][1] for record in records.values())
    sizes = {
        "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
        "vision_model.embeddings.position_embedding.weight": (257, 1024),
        "visual_projection.weight": (768, 1024),
        "vision_model.encoder.layers.0.all_else": (300_000_000,),
    }
    for name, shape in sizes.items():
        stop = start + 4 * math.prod(shape)
        records[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(records).encode()
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text + small_file[8 + length :])
        file.truncate(8 + len(text) + start)
    assert (tmp_path / "model.safetensors").stat().st_size > 1_200_000_000
    found = load_head(tmp_path / "model.safetensors")
    assert found.backbone == L14
    assert found.sha256_of == "weights"
    assert found.layout == "bundle laion-v1"
    np.testing.assert_array_equal(found.weight, head["predictor.weight"][0].double().numpy())
    assert found.bias == float(head["predictor.bias"])
