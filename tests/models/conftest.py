"""A hub on this machine, dead addresses, and a small tower as the hub has it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from beholder.models.clip import random_tensors
from oracles import checkpoints as made
from oracles.hub import Hub
from oracles.small_towers import SHAPE
from oracles.web import running


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A fresh server, which is also the hub."""
    with running(Hub()) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.fixture
def dead_url() -> str:
    """The address of a server that was shut down: connections are refused."""
    with running(Hub()) as server:
        return server.url


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """The image tower of sizes SHAPE, in beholder's own names."""
    return random_tensors(SHAPE, seed=9)


@pytest.fixture
def hf_folder(tmp_path: Path, tensors: dict[str, Tensor]) -> Path:
    """A whole CLIPModel as transformers saves it; the text tower is as large as the image tower."""
    folder = tmp_path / "clip"
    folder.mkdir()
    text = {"text_model.big": torch.zeros(600_000), "text_model.a.position_ids": torch.arange(77)}
    made.write_safetensors(folder / "model.safetensors", made.hf_state(tensors) | made.hf_text_state() | text)
    made.write_json(folder / "config.json", made.hf_config(SHAPE))
    return folder
