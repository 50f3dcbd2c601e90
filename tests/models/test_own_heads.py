"""Heads of one's own, as torch, scikit-learn and numpy save them: they score as what was saved, or are refused in a line."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shlex
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from typer.testing import CliRunner

import beholder
from beholder import Head, HeadError, load_head, save_head
from beholder.cli.models import models_app
from beholder.models import catalog
from beholder.scoring.options import ScoreOptions
from beholder.scoring.score import score

Rows = npt.NDArray[np.float64]
D = 128


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")


def rows_of(dim: int = D, seed: int = 0) -> Rows:
    return np.random.default_rng(seed).standard_normal((50, dim)) * 3


def unit(rows: Rows) -> Rows:
    found: Rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return found


def by_torch(module: nn.Module, rows: Rows) -> Rows:
    """What the module says of rows of length 1, in float64."""
    with torch.no_grad():
        found: Rows = copy.deepcopy(module).double().eval()(torch.from_numpy(unit(rows))).numpy().reshape(len(rows))
    return found


def state(module: nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    return OrderedDict((prefix + name, value.clone()) for name, value in module.state_dict().items())


def sequence(*modules: nn.Module, seed: int = 0) -> nn.Sequential:
    found = nn.Sequential(*modules)
    make = torch.Generator().manual_seed(seed)
    for weight in found.parameters():
        weight.data = torch.randn(weight.shape, generator=make)
    return found


def linear(bias: bool = True) -> nn.Module:
    return sequence(nn.Linear(D, 1, bias=bias))


def mlp() -> nn.Sequential:
    return sequence(nn.Linear(D, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1))


def training_run(module: nn.Module, key: str) -> dict[str, Any]:
    """What a training loop saves, with the state of an optimizer that has made a step."""
    trained = copy.deepcopy(module)
    optimizer = torch.optim.Adam(trained.parameters())
    trained(torch.ones(2, D)).sum().backward()
    optimizer.step()
    return {"epoch": 3, "loss": torch.tensor(0.5), key: module.state_dict(), "optimizer": optimizer.state_dict(), "note": "x"}


def lightning(module: nn.Module) -> dict[str, Any]:
    loops = {"fit_loop": {"state_dict": {}, "epoch_progress": {"current": {"ready": 1}}}}
    return {
        "epoch": 1, "global_step": 9, "pytorch-lightning_version": "2.4.0", "state_dict": state(module, "model.net."),
        "loops": loops, "callbacks": {}, "optimizer_states": [training_run(linear(), "x")["optimizer"]], "lr_schedulers": [],
        "hyper_parameters": {"lr": 0.1, "dim": D},
    }  # fmt: skip


class Named(nn.Module):
    """Layers whose names say nothing of their order but in their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.hidden, self.fc_in = nn.Linear(4, 1), nn.Linear(16, 4), nn.Linear(D, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.out(self.hidden(self.fc_in(x).relu()).relu())
        return found


def through_torch(content: Any, name: str = "h.pt", **how: Any) -> Callable[[Path], Path]:
    """A function that saves `content`; if that is a function, it is called when saving."""

    def write(folder: Path) -> Path:
        torch.save(content() if callable(content) else content, folder / name, **how)
        return folder / name

    return write


def through_safetensors(tensors: dict[str, torch.Tensor]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        safetensors.torch.save_file(tensors, folder / "h.safetensors")
        return folder / "h.safetensors"

    return write


PLAIN, NO_BIAS, DEEP, NAMED = linear(), linear(bias=False), mlp(), Named()
DROPPED = sequence(nn.Dropout(0.2), nn.Linear(D, 1))
FOLDED = sequence(nn.Linear(D, 8), nn.Linear(8, 1))
FUNNEL = sequence(nn.Linear(D, 8), nn.ReLU(), nn.Linear(8, 4), nn.Linear(4, 1))
IDENTITY = sequence(nn.Linear(D, 8), nn.Identity(), nn.Linear(8, 1))
HALF = sequence(nn.Linear(D, 1)).to(torch.bfloat16)
RELU, NONE = {"activation": "relu"}, {"activation": "none"}

TORCH: dict[str, tuple[nn.Module, Callable[[Path], Path], dict[str, Any]]] = {
    "Linear": (PLAIN[0], through_torch(state(PLAIN[0])), {}),
    "attribute of a model": (PLAIN[0], through_torch(state(PLAIN[0], "fc.")), {}),
    "deep attribute": (PLAIN[0], through_torch(state(PLAIN[0], "model.head.")), {}),
    "no bias": (NO_BIAS, through_torch(state(NO_BIAS)), {}),
    "older format": (PLAIN, through_torch(state(PLAIN), _use_new_zipfile_serialization=False), {}),
    "older format called .pkl": (PLAIN, through_torch(state(PLAIN), "h.pkl", _use_new_zipfile_serialization=False), {}),
    "state_dict": (PLAIN, through_torch({"state_dict": state(PLAIN), "epoch": 3}), {}),
    "model": (PLAIN, through_torch(lambda: training_run(PLAIN, "model")), {}),
    "model_state_dict": (PLAIN, through_torch(lambda: training_run(PLAIN, "model_state_dict")), {}),
    "two wrappings": (PLAIN, through_torch({"checkpoint": {"model": state(PLAIN)}, "step": 1}), {}),
    "state": (PLAIN, through_torch({"state": state(PLAIN), "birder_version": "0.8"}), {}),
    "Lightning": (PLAIN, through_torch(lambda: lightning(PLAIN), "h.ckpt"), {}),
    "Dropout before": (DROPPED, through_torch(state(DROPPED, "classifier.")), {}),
    "DataParallel": (PLAIN, through_torch(state(PLAIN, "module.")), {}),
    "layers next to each other": (FOLDED, through_torch(state(FOLDED)), {}),
    "the same, compiled": (FOLDED, through_torch(state(FOLDED, "module._orig_mod.")), {}),
    "Sequential, ReLU told": (DEEP, through_torch(state(DEEP, "head.")), RELU),
    "Sequential, Identity told": (IDENTITY, through_torch(state(IDENTITY)), NONE),
    "two of three next to each other": (FUNNEL, through_torch(state(FUNNEL, "net.")), RELU),
    "order by sizes": (NAMED, through_torch(state(NAMED)), RELU),
    "safetensors": (PLAIN, through_safetensors(state(PLAIN, "head.")), {}),
    "safetensors bfloat16": (HALF, through_safetensors(state(HALF)), {}),
    "safetensors deep": (DEEP, through_safetensors(state(DEEP)), RELU),
    "names of scikit-learn": (
        PLAIN[0], through_torch({"coef_": PLAIN[0].weight.data[0].clone(), "intercept_": PLAIN[0].bias.data.clone()}), {}
    ),
    "short names": (PLAIN[0], through_safetensors({"w": PLAIN[0].weight.data.clone(), "b": PLAIN[0].bias.data.clone()}), {}),
    "float64": (PLAIN, through_torch({name: value.double() for name, value in state(PLAIN).items()}), {}),
    "called linear": (PLAIN[0], through_torch(state(PLAIN[0], "linear.")), {"input_scale": 1}),
}  # fmt: skip


@pytest.mark.parametrize("kind", TORCH)
def test_torch_files_score_as_their_module(kind: str, tmp_path: Path) -> None:
    module, write, told = TORCH[kind]
    head = load_head(write(tmp_path), **told)
    rows = rows_of()
    expected = by_torch(module, rows)
    assert np.abs(head.score(rows) - expected).max() <= 1e-5 * max(1.0, float(np.abs(expected).max()))
    assert (head.name, head.backbone, head.dim) == ("h", None, D)
    again = load_head(tmp_path / next(tmp_path.iterdir()).name, **told)  # what was kept of the first load changes nothing
    assert again.score(rows).tobytes() == head.score(rows).tobytes()
    assert again.doubt == head.doubt
    save_head(head, tmp_path / "saved.safetensors")
    assert load_head(tmp_path / "saved.safetensors").score(rows).tobytes() == head.score(rows).tobytes()


def ridge(dtype: str = "f8") -> Ridge:
    make = np.random.default_rng(4)
    return Ridge(alpha=1e-3).fit(unit(rows_of(seed=5)).astype(dtype), make.normal(5, 1, 50).astype(dtype))


def two_columns() -> LinearRegression:
    make = np.random.default_rng(4)
    return LinearRegression().fit(unit(rows_of(seed=6)), make.normal(5, 1, (50, 1)))


def perceptron() -> MLPRegressor:
    make = np.random.default_rng(4)
    model = MLPRegressor(hidden_layer_sizes=(8, 3), max_iter=3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that three steps are not enough
        return model.fit(unit(rows_of(seed=7)), make.normal(5, 1, 50))


def scaled() -> Any:
    return make_pipeline(StandardScaler(), Ridge(alpha=1e-3)).fit(unit(rows_of(seed=5)), rows_of(seed=9)[:, 0] + 5)


def unscaled(model: Any) -> dict[str, Any]:
    """The recipe of docs/heads.md."""
    w = model[-1].coef_ / model[0].scale_
    return {"coef_": w, "intercept_": model[-1].intercept_ - w @ model[0].mean_}


def named_layers(model: MLPRegressor) -> dict[str, Any]:
    """The recipe of docs/heads.md."""
    layers = zip(model.coefs_, model.intercepts_, strict=True)
    arrays: dict[str, Any] = {"activation": "relu"}
    for number, (weight, bias) in enumerate(layers):
        arrays |= {f"{number}.weight": weight.T, f"{number}.bias": bias}
    return arrays


SKLEARN: dict[str, tuple[Any, Callable[[Any], dict[str, Any]]]] = {
    "Ridge": (ridge(), lambda m: {"coef_": m.coef_, "intercept_": m.intercept_}),
    "Ridge of float32": (ridge("f4"), lambda m: {"coef_": m.coef_, "intercept_": m.intercept_}),
    "weight and bias": (ridge(), lambda m: {"weight": m.coef_, "bias": m.intercept_}),
    "without underscores": (ridge(), lambda m: {"coef": m.coef_, "intercept": np.float32(m.intercept_)}),
    "of two dimensions": (two_columns(), lambda m: {"coef_": m.coef_, "intercept_": m.intercept_}),
    "a column, as Keras has it": (ridge(), lambda m: {"w": m.coef_.reshape(-1, 1), "b": m.intercept_}),
    "StandardScaler and Ridge": (scaled(), unscaled),
    "big-endian": (ridge(), lambda m: {"coef_": m.coef_.astype(">f8"), "intercept_": m.intercept_}),
    "MLPRegressor": (perceptron(), named_layers),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("kind", SKLEARN)
def test_npz_files_score_as_their_model_predicts(kind: str, save: Any, tmp_path: Path) -> None:
    model, arrays = SKLEARN[kind]
    save(tmp_path / "ridge.npz", **arrays(model))
    head, rows = load_head(tmp_path / "ridge.npz"), rows_of(seed=8)
    expected = np.asarray(model.predict(unit(rows)), np.float64).reshape(-1)
    assert np.abs(head.score(rows) - expected).max() < 2e-5
    assert head.name == "ridge"


def test_an_npz_may_name_the_head_and_its_tower_and_leave_the_intercept_out(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).standard_normal(512)
    np.savez(tmp_path / "x.npz", coef_=weight, name="my taste", backbone="ViT-B/32")
    head = load_head(tmp_path / "x.npz")
    assert (head.name, head.backbone, head.bias) == ("my taste", "openai/clip-vit-base-patch32", 0.0)
    np.testing.assert_array_equal(head.weight, weight)
    np.savez(tmp_path / "zero.npz", coef_=weight, intercept_=0)
    assert load_head(tmp_path / "zero.npz").bias == 0.0


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("dim", [512, 640, 768, 1024, 1152])
def test_npy_of_as_many_numbers_as_an_embedding_or_one_more(dim: int, dtype: str, tmp_path: Path) -> None:
    numbers = np.random.default_rng(dim).standard_normal(dim + 1).astype(dtype)
    for name, shape in (("a", (-1,)), ("b", (1, -1)), ("c", (-1, 1))):
        np.save(tmp_path / f"{name}.npy", numbers[:-1].reshape(shape))
        np.save(tmp_path / f"{name}1.npy", numbers.reshape(shape))
        plain, with_bias = load_head(tmp_path / f"{name}.npy"), load_head(tmp_path / f"{name}1.npy")
        np.testing.assert_array_equal(plain.weight, numbers[:-1].astype("f8"))
        np.testing.assert_array_equal(with_bias.weight, numbers[:-1].astype("f8"))
        assert (plain.bias, with_bias.bias) == (0.0, float(numbers[-1]))
    torch.save(torch.from_numpy(numbers.astype("f4")), tmp_path / "t.pt")
    np.testing.assert_array_equal(load_head(tmp_path / "t.pt").weight, numbers[:-1].astype("f4").astype("f8"))
    np.savez(tmp_path / "only.npz", numbers)
    assert load_head(tmp_path / "only.npz").bias == float(numbers[-1])


def refusal(path: Path, **told: Any) -> str:
    with pytest.raises(HeadError) as caught:
        load_head(path, **told)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("prefix", ["", "head."])
def test_what_stands_between_layers_is_asked_for(prefix: str, tmp_path: Path) -> None:
    path = through_torch(state(IDENTITY, prefix))(tmp_path)
    text = refusal(path)
    assert f"between {prefix}0.weight and {prefix}2.weight" in text
    assert f"2 linear layers ({D}-8-1)" in text
    assert f"beholder models save {path} h-head.safetensors --activation relu" in text
    rows = rows_of()
    relu, none = (load_head(path, activation=word).score(rows) for word in ("relu", "none"))
    assert np.abs(none - by_torch(IDENTITY, rows)).max() < 1e-4
    assert np.abs(relu - none).max() > 0.1
    assert "between" in refusal(path)  # what was said once is not kept for a load that says nothing


def test_layers_without_gaps_under_a_prefix_may_be_a_list_with_activations_in_the_code(tmp_path: Path) -> None:
    for prefix in ("layers.", "mlp.fc"):
        assert "nothing in it says what stands between" in refusal(through_torch(state(FOLDED, prefix))(tmp_path))


def test_a_layer_called_linear_may_be_one_of_simulacras(tmp_path: Path) -> None:
    path = through_torch(state(PLAIN[0], "linear."))(tmp_path)
    assert "linear.weight and linear.bias" in refusal(path)
    assert "--input-scale 1 (or sqrt-dim)" in refusal(path)
    plain, long = load_head(path, input_scale=1), load_head(path, input_scale="sqrt-dim")
    np.testing.assert_allclose(long.weight, plain.weight * D**0.5, rtol=1e-15)
    assert long.layout == "simulacra"


OTHERS: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "norm": (state(nn.Sequential(nn.LayerNorm(D), nn.Linear(D, 1))), "0.bias, 0.weight are no linear layer's; keep the head"),
    "batch norm": (state(nn.Sequential(nn.Linear(D, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))), "are no linear layer's"),
    "a tower beside": (state(nn.Linear(D, 1), "head.") | {"visual.conv1.weight": torch.ones(2, 3, 4, 4)}, "conv1.weight is no"),
    "two heads": (state(nn.Linear(D, 1), "a.") | state(nn.Linear(D, 1), "b."), "several could come next"),
    "five outputs": (state(nn.Linear(D, 5), "fc."), "gives 5 numbers|do not fit each other"),
    "lost layer": (state(nn.Linear(D, 8), "a.") | state(nn.Linear(4, 1), "b."), "do not fit each other"),
    "bias alone": ({"fc.bias": torch.ones(1)}, "fc.bias is no linear layer's"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_tensors_that_are_no_head_are_named(kind: str, tmp_path: Path) -> None:
    tensors, words = OTHERS[kind]
    assert re.search(words, refusal(through_torch(tensors)(tmp_path)))
    assert re.search(words, refusal(through_safetensors(tensors)(tmp_path)))


def test_what_is_no_state_dict_is_told_how_to_save_one(tmp_path: Path) -> None:
    for content, words in (
        ([state(PLAIN)], "holds a list, not a state dict"),
        (
            {**state(PLAIN[0]), "dim": D, "tag": "x"},
            "it holds bias, dim, tag, weight, and dim, tag are no tensor; save a state",
        ),
    ):
        text = refusal(through_torch(content)(tmp_path))
        assert words in text
        assert "torch.save(model.state_dict(), 'head.pt')" in text


def test_several_sets_of_weights_are_not_chosen_from(tmp_path: Path) -> None:
    text = refusal(through_torch({"model": state(PLAIN), "ema": state(PLAIN)})(tmp_path))
    assert "several sets of weights (model, ema)" in text
    assert "torch.save(torch.load('h.pt')['model'], 'head.pt')" in text


@pytest.mark.parametrize("told", [{"activation": "gelu"}, {"input_scale": 0}, {"input_scale": "sqrt"}])
def test_what_cannot_be_told(told: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="choose"):
        load_head(through_torch(state(PLAIN))(tmp_path), **told)


def test_what_a_file_tells_is_not_contradicted(tmp_path: Path) -> None:
    deep = load_head(through_torch(state(DEEP))(tmp_path), activation="relu")
    save_head(deep, tmp_path / "deep.safetensors")
    assert "says that its activation is relu, and you say none" in refusal(tmp_path / "deep.safetensors", activation="none")
    assert "leave the input scale out" in refusal(tmp_path / "deep.safetensors", input_scale=2)
    np.savez(tmp_path / "m.npz", **named_layers(perceptron()))
    assert "says activation relu, and you say none" in refusal(tmp_path / "m.npz", activation="none")
    np.savez(tmp_path / "g.npz", **{**named_layers(perceptron()), "activation": "gelu"})
    assert "its activation is 'gelu'" in refusal(tmp_path / "g.npz")


class Marker:
    """Unpickling this makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_of_objects_are_refused_with_the_way_out_and_never_run(tmp_path: Path) -> None:
    joblib.dump(ridge(), tmp_path / "r.joblib")
    joblib.dump(ridge(), tmp_path / "c.joblib", compress=3)
    (tmp_path / "r.pkl").write_bytes(pickle.dumps(ridge()))
    (tmp_path / "renamed.pt").write_bytes(pickle.dumps(ridge()))
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    np.save(tmp_path / "o.npy", np.array([ridge()], object))
    np.savez(tmp_path / "o.npz", coef_=np.array([Marker(tmp_path / "ran")], object), intercept_=0.0)
    torch.save(ridge(), tmp_path / "s.pt")
    torch.save(PLAIN, tmp_path / "m.pt")
    torch.save({"model": state(PLAIN), "loss": np.float64(0.5)}, tmp_path / "n.pt")
    for name in ("r.joblib", "c.joblib", "r.pkl", "renamed.pt", "evil.pkl"):
        text = refusal(tmp_path / name)
        stem = name.split(".")[0]
        assert f"m = joblib.load('{name}'); numpy.savez('{stem}.npz', coef_=m.coef_, intercept_=m.intercept_)" in text
    for name in ("o.npy", "o.npz", "s.pt"):
        assert "numpy.savez('head.npz', coef_=model.coef_, intercept_=model.intercept_)" in refusal(tmp_path / name)
    for name in ("m.pt", "n.pt"):
        assert "torch.save(model.state_dict(), 'weights.pt')" in refusal(tmp_path / name)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "import joblib\nfrom sklearn.linear_model import Ridge\nprint(Ridge())\n", 'print("hello")\n', "hello",
        "0.5, 0.25\n", "0.", "grüße\n" * 2000, "import sklearn.linear_model\n" + "x = 1  # filler\n" * 1000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["ridge.py", "w.pt", "w.pkl"])
def test_a_text_is_said_to_be_one(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    found = refusal(tmp_path / name)
    assert f"{name} is a text file, not a file of plain weights; " in found
    assert "pickle" not in found


def test_pickles_that_are_texts_are_told_from_texts(tmp_path: Path) -> None:
    (tmp_path / "old.pkl").write_bytes(pickle.dumps(ridge(), protocol=0).replace(b"\\x00", b"\\x01"))
    assert "is refused: it is a pickle of objects of scikit-learn" in refusal(tmp_path / "old.pkl")


@pytest.mark.parametrize("noise", [b"e\xff\x00\x01", b"\xff\x00\x01e"])
def test_noise_is_told_in_words(noise: bytes, tmp_path: Path) -> None:
    (tmp_path / "noise.pt").write_bytes(noise * 100)
    assert refusal(tmp_path / "noise.pt").endswith("not a file of plain weights, or is damaged (it is no pickle)")


@pytest.mark.parametrize(
    ("name", "start"), [("w.json", b'{"weight": [1, 2]}'), ("w.csv", b"0.1,0.2\n"), ("w.h5", b"\x89HDF\r\n\x1a\n")]
)
def test_files_of_other_kinds_are_told_what_is_taken(name: str, start: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(start * 20)
    text = refusal(tmp_path / name)
    assert "no kind of head file that beholder knows, .pt, .safetensors, .npz or .npy" in text
    assert "numpy.savez('head.npz', weight=w, bias=b)" in text


def test_a_checkpoint_of_a_whole_model_is_told_to_keep_the_head(tmp_path: Path) -> None:
    with (tmp_path / "whole.ckpt").open("wb") as file:
        file.write(b"PK\x03\x04")
        file.truncate(300 << 20)
    assert "keep the head's own: torch.save(" in refusal(tmp_path / "whole.ckpt")


def test_the_recipe_of_the_message_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = ridge()
    joblib.dump(model, "r.joblib")
    text = refusal(Path("r.joblib"))
    command = shlex.split(text[text.index("python -c") :])
    assert command[:2] == ["python", "-c"]
    exec(command[2])
    rows = rows_of()
    assert np.abs(load_head("r.npz").score(rows) - model.predict(unit(rows))).max() < 1e-5


ARRAYS: dict[str, tuple[dict[str, Any], str]] = {
    "25 numbers": ({"": np.ones(25)}, "25 numbers may be 25 weights, or 24 and the bias; say which: numpy.savez"),
    "a table": ({"": np.ones((3, 64))}, r"shape \(3, 64\)"),
    "whole numbers": ({"": np.ones(64, int)}, "int64, not floating-point"),
    "scaler": ({"coef_": np.ones(64), "intercept_": 1.0, "mean_": np.ones(64)}, "mean_ is no linear layer's"),
    "embeddings": ({"embeddings": np.ones((9, 64), "f4")}, "embeddings is no linear layer's"),
    "twice": ({"coef_": np.ones(64), "weight": np.ones(64), "bias": 1.0}, "holds weight twice"),
    "NaN": ({"coef_": np.full(64, np.nan), "intercept_": 1.0}, "NaN or infinite"),
    "two outputs": ({"coef_": np.ones((2, 64)), "intercept_": np.ones(2)}, "gives 2 numbers"),
    "misfit": ({"coef_": np.ones((1, 64)), "intercept_": np.ones(3)}, "do not fit"),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_arrays_that_are_no_head_are_refused(kind: str, tmp_path: Path) -> None:
    arrays, words = ARRAYS[kind]
    path = tmp_path / ("h.npy" if "" in arrays else "h.npz")
    if "" in arrays:
        np.save(path, arrays[""])
    else:
        np.savez(path, **arrays)
    with pytest.raises(HeadError, match=words):
        load_head(path)
    refusal(path)


def test_damaged_numpy_files_are_one_line(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones(768))
    np.savez_compressed(tmp_path / "a.npz", coef_=np.ones(768), intercept_=1.0)
    draw, refused = np.random.default_rng(0), list[str]()
    for name in ("a.npy", "a.npz"):
        good = (tmp_path / name).read_bytes()
        for _ in range(60):
            data = bytearray(good)
            for at in draw.integers(0, len(data), 3):
                data[at] = draw.integers(256)
            (tmp_path / name).write_bytes(data[: draw.integers(1, len(data))] if draw.random() < 0.5 else data)
            try:
                load_head(tmp_path / name)
            except HeadError as error:
                refused.append(str(error))
    assert len(refused) > 60
    assert not any("\n" in text for text in refused)
    np.lib.format.write_array_header_1_0(
        (tmp_path / "huge.npy").open("wb"), {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)}
    )
    assert "promises 8,796,093,022,208 bytes" in refusal(tmp_path / "huge.npy")


def test_a_head_made_in_memory(tmp_path: Path) -> None:
    model, rows = ridge(), rows_of()
    expected = model.predict(unit(rows))
    for weight, bias in (
        (model.coef_, model.intercept_), (model.coef_.reshape(1, -1), np.array([model.intercept_])),
        (torch.from_numpy(model.coef_), torch.tensor(model.intercept_)), (model.coef_.tolist(), float(model.intercept_)),
        (nn.Parameter(torch.from_numpy(model.coef_[np.newaxis])), nn.Parameter(torch.tensor([model.intercept_]))),
    ):  # fmt: skip
        head = Head.affine(weight, bias, name="mine", backbone="my/tower")
        assert np.abs(head.score(rows) - expected).max() < 1e-5
        assert (head.name, head.backbone, head.doubt, head.is_affine) == ("mine", "my/tower", "", True)
    save_head(head, tmp_path / "mine.safetensors")
    found = beholder.load_head(tmp_path / "mine.safetensors")
    assert (found.name, found.backbone, found.weight.tobytes()) == ("mine", "my/tower", head.weight.tobytes())
    assert Head.affine(np.ones(768), backbone="ViT-L/14").backbone == "openai/clip-vit-large-patch14"
    assert Head.affine([1, 2], 3).score(np.array([[3.0, 4.0]]))[0] == np.float32(3 + 11 / 5)
    given = np.ones(4)
    kept = Head.affine(given)
    given[:] = 9
    assert kept.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    ("weight", "bias", "words"),
    [
        (np.ones((2, 64)), 1.0, r"weight has shape \(2, 64\)"), (np.ones(0), 1.0, "weight has shape"),
        (3.0, 1.0, "weight has shape"), (np.ones(64), [1.0, 2.0], r"bias has shape \(2,\)"), (["a"], 1.0, "weight holds <U1"),
        (np.ones(64), np.nan, "bias holds NaN"), ([[1.0], [1.0, 2.0]], 1.0, "weight is no array"),
        (np.ones(768), 0.0, "weight has 768 numbers, and openai/.*-patch32 gives 512"),
    ],
)  # fmt: skip
def test_a_head_that_cannot_be_made(weight: Any, bias: Any, words: str) -> None:
    with pytest.raises(HeadError, match=words):
        Head.affine(weight, bias, backbone="ViT-B/32")


def test_what_nothing_says_of_a_head_is_said_calmly(tmp_path: Path, shared_models: Path) -> None:
    head = load_head(through_torch(state(PLAIN, "fc."))(tmp_path))
    assert head.doubt == (
        "nothing says which tower it was trained on, or whether the embeddings it was trained on were normalised; "
        "it is given normalised ones (beholder models save records both)"
    )
    assert load_head(tmp_path / "h.pt", backbone="my/tower").doubt.startswith("nothing says whether the embeddings")
    assert load_head(tmp_path / "h.pt", backbone="my/tower", input_scale=1).doubt == ""
    assert load_head(shared_models / "sa_0_4_vit_l_14_linear.pth").doubt == ""
    np.save(tmp_path / "e.npy", rows_of().astype(np.float32))
    options = ScoreOptions(sources=(str(tmp_path / "e.npy"),), out=str(tmp_path / "s.parquet"), heads=(str(tmp_path / "h.pt"),))
    summary = score(options)
    assert summary.head_notes == [head.doubt]
    assert json.loads(json.dumps(summary.to_json()))["scores"]["aesthetic_score"]["note"] == head.doubt


run_cli = CliRunner()


def run(*args: str) -> str:
    result = run_cli.invoke(models_app, list(args))
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_models_info_save_and_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    through_torch(state(DEEP))(Path())
    np.savez("ridge.npz", coef_=ridge().coef_, intercept_=ridge().intercept_)
    found = json.loads(run("info", "ridge.npz", "--json"))
    assert (found["name"], found["dim"], found["is_affine"], found["bias"]) == ("ridge", D, True, float(ridge().intercept_))
    assert found["not_known"].startswith("nothing says which tower")
    refused = run_cli.invoke(models_app, ["info", "h.pt"])
    assert "--activation relu" in str(refused.exception)
    line = str(refused.exception).split("Identity: ")[1].split(" (in Python")[0]
    run(*line.removeprefix("beholder models ").split(), "--name", "deep one", "--backbone", "my/tower", "--input-scale", "1")
    saved, rows = load_head("h-head.safetensors"), rows_of()
    assert np.abs(saved.score(rows) - by_torch(DEEP, rows)).max() < 1e-3
    assert (saved.name, saved.backbone, saved.doubt) == ("deep one", "my/tower", "")
    assert "is there already" in str(run_cli.invoke(models_app, ["save", "ridge.npz", "h-head.safetensors"]).exception)
    assert "is written as .safetensors" in str(run_cli.invoke(models_app, ["save", "ridge.npz", "h.bin"]).exception)

    run("export", "to-go", "ridge.npz", "h-head.safetensors")
    manifest = json.loads(Path("to-go/manifest.json").read_text())
    assert [(record["name"], record["file"], record["backbone"]) for record in manifest["files"]] == [
        ("ridge", "ridge.safetensors", None), ("deep-one", "deep-one.safetensors", "my/tower")
    ]  # fmt: skip
    for record in manifest["files"]:
        assert load_head(f"to-go/{record['file']}").sha256 == record["sha256"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path / "to-go"))
    for name in ("deep-one", "deep-one.safetensors"):
        assert load_head(name).score(rows).tobytes() == saved.score(rows).tobytes()
    assert run_cli.invoke(models_app, ["export", str(tmp_path / "to-go"), str(tmp_path / "ridge.npz")]).exit_code == 0


def test_the_files_that_people_have(shared_cases: Path, shared_models: Path) -> None:
    folder, rows = shared_cases / "20_own_heads", rows_of(768)
    for name, prefix in (("mylinear.pt", ""), ("myfc.pt", "fc."), ("ckpt.pt", "")):
        kept = torch.load(folder / name, weights_only=True)
        kept = kept.get("state_dict", kept)
        expected = unit(rows) @ kept[f"{prefix}weight"][0].double().numpy() + float(kept[f"{prefix}bias"])
        assert np.abs(load_head(folder / name).score(rows) - expected).max() < 1e-5
    with np.load(folder / "ridge.npz") as arrays:
        expected = unit(rows) @ arrays["weight"].reshape(-1) + float(arrays["bias"].reshape(-1)[0])
    assert np.abs(load_head(folder / "ridge.npz").score(rows) - expected).max() < 1e-5
    assert "--activation relu" in refusal(folder / "myseq.pt")
    kept = torch.load(folder / "myseq.pt", weights_only=True)
    hidden = unit(rows) @ kept["0.weight"].double().numpy().T + kept["0.bias"].double().numpy()
    for activation, inside in (("none", hidden), ("relu", np.maximum(hidden, 0))):
        expected = inside @ kept["2.weight"][0].double().numpy() + float(kept["2.bias"])
        assert np.abs(load_head(folder / "myseq.pt", activation=activation).score(rows) - expected).max() < 1e-5
    assert "numpy.savez('ridge.npz', coef_=m.coef_, intercept_=m.intercept_)" in refusal(folder / "ridge.joblib")
    # A published head that was renamed is still itself.
    assert catalog.by_sha256(load_head(shared_models / "sac_public_2022_06_29_vit_l_14_linear.pth").sha256) is not None
