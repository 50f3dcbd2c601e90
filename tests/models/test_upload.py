"""Heads put on a hub of our own: what is sent, what comes back under its name there, and what goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import ModelCard

from beholder import Head, load_head, save_head
from beholder.errors import HeadError, InputError, OutputError
from beholder.kernels.scoring import Affine
from beholder.models.upload import push_head
from oracles.hub import Hub
from oracles.program import beholder as program

HEAD = Head(name="mine", math=Affine(np.array([0.5, -0.25, 2.0]), 5.0), backbone="openai/clip-vit-base-patch32")


@pytest.fixture
def hub(web: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """A hub to which the one who is logged in here may write, and caches of its own."""
    monkeypatch.setenv("HF_TOKEN", web.token)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return web


@pytest.fixture
def head(tmp_path: Path) -> str:
    """mine.safetensors, with a card."""
    save_head(Head(name="mine", math=HEAD.math), tmp_path / "mine.safetensors")
    (tmp_path / "mine.md").write_text(
        "---\ntags:\n- aesthetics\nlibrary_name: beholder\n---\n# mine\n\nbeholder score photos/ --head ./mine.safetensors\n"
    )
    return str(tmp_path / "mine.safetensors")


def card(head: str) -> str:
    return head.replace(".safetensors", ".md")


def test_a_head_that_was_uploaded_is_loaded_by_its_name_there(hub: Hub, head: str) -> None:
    sent = push_head(head, card(head), "me/taste")
    assert sent.url is not None
    assert sent.url.startswith(f"{hub.url}/me/taste/commit/")
    assert set(sent.files) == {"model.safetensors", "README.md"}
    assert hub.made == {"me/taste": False}
    loaded = load_head("me/taste")
    np.testing.assert_array_equal(loaded.weight, HEAD.weight)
    assert loaded.bias == 5.0
    assert "--head me/taste" in ModelCard(sent.files["README.md"].decode()).text


def test_a_repository_that_is_made_may_be_private_and_one_that_is_there_is_taken(hub: Hub, head: str) -> None:
    push_head(head, card(head), "me/taste", is_private=True)
    assert hub.made == {"me/taste": True}
    assert push_head(head, card(head), "me/taste").url is not None
    assert hub.made == {"me/taste": True}


def test_a_public_repository_takes_nothing_that_is_to_be_private(hub: Hub, head: str) -> None:
    push_head(head, card(head), "me/taste")
    before = [line for line in hub.log if line[0] == "POST"]
    with pytest.raises(HeadError, match="me/taste is there already, and public, which --private would not change"):
        push_head(head, card(head), "me/taste", is_private=True)
    ran = program("models", "push", head, "me/taste", "--private", "--overwrite")
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) == 1
    assert [line for line in hub.log if line[0] == "POST"] == before


def test_a_private_repository_that_is_there_takes_what_is_to_be_private(hub: Hub, head: str) -> None:
    push_head(head, card(head), "me/taste", is_private=True)
    assert push_head(head, card(head), "me/taste", is_private=True).url is not None


@pytest.mark.parametrize("text", ["---\nlibrary_name: transformers\n---\n# theirs\n", "# theirs\n", None])
def test_a_model_of_somebody_else_is_not_replaced(hub: Hub, head: str, text: str | None) -> None:
    hub.made["me/theirs"] = False
    hub.add_hub_file("me/theirs", "model.safetensors" if text is None else "README.md", (text or "weights").encode())
    with pytest.raises(HeadError, match="me/theirs holds a model that was not made with beholder"):
        push_head(head, card(head), "me/theirs")
    assert [line for line in hub.log if line[0] == "POST"] == []
    ran = program("models", "push", head, "me/theirs", "--overwrite")
    assert ran.returncode == 0, ran.stderr
    np.testing.assert_array_equal(load_head("me/theirs").weight, HEAD.weight)


def test_a_repository_without_a_model_is_taken(hub: Hub, head: str) -> None:
    hub.made["me/empty"] = False
    hub.add_hub_file("me/empty", ".gitattributes", b"*.safetensors filter=lfs")
    assert push_head(head, card(head), "me/empty").url is not None


def test_weights_go_as_a_large_file_where_the_hub_asks_for_that(hub: Hub, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)  # of the client, which reads it when imported
    hub.large_files = (".safetensors",)
    push_head(head, card(head), "me/taste")
    assert [len(data) for data in hub.large.values()] == [Path(head).stat().st_size]
    np.testing.assert_array_equal(load_head("me/taste").weight, HEAD.weight)


def test_a_dry_run_sends_nothing(hub: Hub, head: str) -> None:
    ran = program("models", "push", head, "me/taste", "--private", "--dry-run")
    assert ran.returncode == 0
    assert "nothing was uploaded" in ran.stdout
    assert f"model.safetensors ({Path(head).stat().st_size:,} bytes)" in ran.stdout
    assert "would be private" in ran.stdout
    assert not hub.log


@pytest.mark.parametrize("name", ["taste", "", "a/b/c", "me/taste@main", "me/../x", "me/--x", "./me"])
def test_what_is_no_repository_is_said(hub: Hub, head: str, name: str) -> None:
    with pytest.raises(InputError, match="is no repository of the hub"):
        push_head(head, card(head), name)
    assert not hub.log


def test_who_may_not_write_is_told(hub: Hub, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    with pytest.raises(HeadError, match=r"cannot upload to me/taste: the hub answered with HTTP status 401.*hf auth whoami"):
        push_head(head, card(head), "me/taste")


def test_a_hub_that_is_not_there(hub: Hub, head: str, dead_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    with pytest.raises(HeadError, match="cannot upload to me/taste: .* cannot be reached"):
        push_head(head, card(head), "me/taste")


def test_offline_is_said(hub: Hub, head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_OFFLINE", "1")
    with pytest.raises(HeadError, match="offline mode is on"):
        push_head(head, card(head), "me/taste")
    assert push_head(head, card(head), "me/taste", dry_run=True).url is None


def test_a_head_without_a_card_and_what_is_no_head(hub: Hub, head: str, tmp_path: Path) -> None:
    Path(card(head)).unlink()
    with pytest.raises(OutputError, match="has no model card"):
        push_head(head, card(head), "me/taste")
    (tmp_path / "x.safetensors").write_bytes(b"no head")
    with pytest.raises(HeadError):
        push_head(str(tmp_path / "x.safetensors"), card(head), "me/taste")
    with pytest.raises(HeadError, match="models save"):
        push_head(str(tmp_path / "x.pth"), card(head), "me/taste")
    assert not hub.log
