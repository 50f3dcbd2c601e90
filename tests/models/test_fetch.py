"""Heads fetched from a hub, plain URLs, mirrors and folders; and everything that can go wrong on the way."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from beholder.errors import HeadError
from beholder.io import user_folders, writing
from beholder.models import catalog, download
from beholder.models.catalog import HeadEntry, Source
from beholder.models.heads import load_head
from oracles.hub import Hub

HTML = b"<!DOCTYPE html><html><body>Sign in to the proxy</body></html>"
REPO, FILE = "someone/heads", "tiny.pt"


def head_bytes(tmp_path: Path, seed: int = 0, dim: int = 8) -> bytes:
    make = torch.Generator().manual_seed(seed)
    torch.save({"weight": torch.randn(1, dim, generator=make), "bias": torch.zeros(1)}, tmp_path / "made.pth")
    return (tmp_path / "made.pth").read_bytes()


@pytest.fixture
def body(tmp_path: Path) -> bytes:
    return head_bytes(tmp_path)


def entry_of(body: bytes, *sources: Source) -> HeadEntry:
    return HeadEntry(
        name="tiny", aliases=("tiny-alias",), files=("tiny.pth", "tiny-other.pt"), sources=sources,
        sha256=hashlib.sha256(body).hexdigest(), num_bytes=len(body), licence="MIT",
        backbone="openai/clip-vit-base-patch32", dim=8, scale_note="",
    )  # fmt: skip


ON_HUB = Source(repo=REPO, file=FILE)


def plain(web: Hub) -> Source:
    return Source(plain_url=f"{web.url}/plain/tiny.pth")


def hub_files() -> list[Path]:
    return [path for path in Path(str(download.hub_cache_folder())).rglob("*") if path.is_file() and "blobs" in path.parts]


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


def test_from_the_hub_once_and_then_from_its_cache(web: Hub, body: bytes) -> None:
    web.add_hub_file(REPO, FILE, body)
    entry = entry_of(body, ON_HUB)
    path = download.fetch_entry(entry)
    assert path.read_bytes() == body
    asked = [(method, path) for method, path in web.log if not path.startswith("/api/agent")]
    assert ("GET", f"/{REPO}/resolve/main/{FILE}") in asked
    assert {path.split("/resolve/")[0] for _, path in asked} == {f"/{REPO}"}
    web.log.clear()
    assert download.fetch_entry(entry) == path
    assert download.fetch_entry(entry, offline=True) == path
    assert web.log == []


def test_the_default_head_by_name_from_the_hub(web: Hub, shared_models: Path) -> None:
    data = (shared_models / "sac+logos+ava1-l14-linearMSE.pth").read_bytes()
    web.add_hub_file("birder-project/aesthetic-predictor", "openai-clip_aesthetic-predictor.pt", data)
    assert load_head().name == catalog.DEFAULT_HEAD
    web.log.clear()
    assert load_head("laion-v2").bias == pytest.approx(5.2366, abs=1e-4)
    assert web.log == []


def test_the_next_source_is_asked_when_the_hub_has_not_the_file(web: Hub, body: bytes) -> None:
    page = web.add("/plain/tiny.pth", body)
    entry = entry_of(body, ON_HUB, plain(web))
    path = download.fetch_entry(entry)
    assert path == user_folders.cache_folder() / "models" / "tiny.pth"
    assert path.read_bytes() == page.body
    web.log.clear()
    assert download.fetch_entry(entry) == path
    assert web.log == []


def test_a_cut_connection_to_the_hub_is_taken_up_again(web: Hub, body: bytes) -> None:
    web.add_hub_file(REPO, FILE, body, cut_after=500, cuts_left=1)
    assert download.fetch_entry(entry_of(body, ON_HUB)).read_bytes() == body


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ({"body": HTML}, r"expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}; it is a web page .* was not kept"),
        ({"status": 500}, "HTTP status 500"),
        ({"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}}, "the repository has no such file"),
        ({"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}}, "no such revision"),
        ({"status": 401, "headers": {"X-Error-Code": "RepoNotFound"}}, "no such repository, or it is private"),
        ({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "accept its terms"),
        ({"headers": {}}, "does not answer as a Hugging Face hub does"),
    ],
)
def test_hub_failures(web: Hub, body: bytes, page: dict[str, Any], words: str) -> None:
    served = web.add_hub_file(REPO, FILE, page.pop("body", body))
    for name, value in page.items():
        setattr(served, name, value)
    with pytest.raises(HeadError, match=words) as caught:
        download.fetch_entry(entry_of(body, ON_HUB))
    one_line(caught.value)
    assert hub_files() == []
    assert not (user_folders.cache_folder() / "models").exists()


def test_the_hub_out_of_reach(dead_url: str, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", dead_url)
    entry = entry_of(body, ON_HUB, Source(plain_url=f"{dead_url}/tiny.pth"))
    started = time.monotonic()
    with pytest.raises(HeadError) as caught:
        download.fetch_entry(entry)
    assert time.monotonic() - started < 10, "the client's own retries take half a minute"
    text = one_line(caught.value)
    assert text.startswith("cannot get tiny: ")
    assert f"{dead_url} cannot be reached (ConnectError" in text
    assert f"cannot get {dead_url}/tiny.pth: " in text
    assert "beholder models export DIR" in text
    assert "BEHOLDER_MODELS" in text


@pytest.mark.parametrize("variable", ["BEHOLDER_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(web: Hub, body: bytes, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    web.add_hub_file(REPO, FILE, body)
    monkeypatch.setenv(variable, "1")
    with pytest.raises(HeadError, match=r"offline mode is on.*BEHOLDER_MODELS=DIR"):
        download.fetch_entry(entry_of(body, ON_HUB, plain(web)))
    monkeypatch.delenv(variable)
    with pytest.raises(HeadError, match="offline mode is on"):
        download.fetch_entry(entry_of(body, ON_HUB), offline=True)
    assert web.log == []


def test_offline_false_overrides_the_environment(web: Hub, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    web.add_hub_file(REPO, FILE, body)
    monkeypatch.setenv("BEHOLDER_OFFLINE", "true")
    assert download.fetch_entry(entry_of(body, ON_HUB), offline=False).read_bytes() == body


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ({"body": HTML}, r"/plain/tiny.pth is not tiny: expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}; it is a web page"),
        ({"status": 500}, "HTTP status 500"),
        ({"status": 403}, "HTTP status 403"),
        ({"status": 404}, "does not exist there"),
        ({"cut_after": 200}, "broke off before the end"),
    ],
)
def test_plain_url_failures_leave_nothing_behind(web: Hub, body: bytes, page: dict[str, Any], words: str) -> None:
    web.add("/plain/tiny.pth", **{"body": body, **page})
    with pytest.raises(HeadError, match=words) as caught:
        download.fetch_entry(entry_of(body, plain(web)))
    one_line(caught.value)
    assert list((user_folders.cache_folder() / "models").iterdir()) == []


def test_a_file_that_is_too_short_says_so(web: Hub, body: bytes) -> None:
    web.add("/plain/tiny.pth", body[:-10])
    with pytest.raises(HeadError, match=f"it has {len(body) - 10} bytes instead of {len(body)}; it was not kept"):
        download.fetch_entry(entry_of(body, plain(web)))


def test_a_damaged_file_in_the_cache_is_fetched_anew(web: Hub, body: bytes) -> None:
    web.add("/plain/tiny.pth", body)
    entry = entry_of(body, plain(web))
    path = download.fetch_entry(entry)
    path.write_bytes(HTML)
    assert download.fetch_entry(entry).read_bytes() == body
    path.write_bytes(HTML)
    with pytest.raises(HeadError, match="offline"):
        download.fetch_entry(entry, offline=True)


def test_a_damaged_file_in_the_hubs_cache_is_fetched_anew(web: Hub, body: bytes) -> None:
    web.add_hub_file(REPO, FILE, body)
    entry = entry_of(body, ON_HUB)
    download.fetch_entry(entry).resolve().write_bytes(HTML)
    assert download.fetch_entry(entry).read_bytes() == body


@pytest.mark.parametrize("name", ["tiny.pth", "tiny-other.pt", "tiny-alias.pth", "tiny.pt"])
def test_a_models_folder_comes_first(web: Hub, body: bytes, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / name).write_bytes(body)
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path / "m"))
    assert download.fetch_entry(entry_of(body, ON_HUB)) == tmp_path / "m" / name
    assert web.log == []


def test_a_wrong_file_in_the_models_folder_is_refused_and_left_alone(
    web: Hub, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.add_hub_file(REPO, FILE, body)
    (tmp_path / "tiny.pth").write_bytes(HTML)
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path))
    with pytest.raises(HeadError, match=r"is not tiny: expected sha256 .* replace it, or unset BEHOLDER_MODELS"):
        download.fetch_entry(entry_of(body, ON_HUB))
    assert (tmp_path / "tiny.pth").read_bytes() == HTML
    assert web.log == []


def test_a_models_folder_without_the_file_is_passed_over(
    web: Hub, body: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.add_hub_file(REPO, FILE, body)
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path))
    assert download.fetch_entry(entry_of(body, ON_HUB)).read_bytes() == body


def test_a_models_folder_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEHOLDER_MODELS", str(tmp_path / "none"))
    with pytest.raises(HeadError, match=r"BEHOLDER_MODELS is .* not a folder"):
        load_head("laion-v1")


@pytest.mark.parametrize("name", ["tiny.pth", "tiny-other.pt"])
def test_a_mirror_by_url(web: Hub, body: bytes, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    web.add(f"/mirror/{name}", body)
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror/")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download.fetch_entry(entry_of(body, ON_HUB)).read_bytes() == body


def test_a_mirror_with_a_plus_in_the_name(web: Hub, shared_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ava+logos-l14-linearMSE.pth"
    web.add(f"/mirror/{name}", (shared_models / name).read_bytes())
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror")
    assert load_head("ava+logos-l14-linearMSE").bias == pytest.approx(5.2981, abs=1e-4)


def test_a_mirror_in_an_object_store(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    writing.write_bytes("memory://mirror/tiny.pth", body)
    monkeypatch.setenv("BEHOLDER_MODELS", "memory://mirror")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert download.fetch_entry(entry_of(body, ON_HUB)).read_bytes() == body


def test_a_mirror_with_wrong_content_is_refused(web: Hub, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    web.add_hub_file(REPO, FILE, body)
    web.add("/mirror/tiny.pth", HTML)
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror")
    with pytest.raises(HeadError, match=r"/mirror/tiny.pth is not tiny: expected sha256"):
        download.fetch_entry(entry_of(body, ON_HUB))


def test_a_mirror_without_the_file_falls_back_and_is_named_on_failure(
    web: Hub, body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEHOLDER_MODELS", f"{web.url}/mirror")
    with pytest.raises(HeadError, match=r"/mirror/tiny.pth: it does not exist there.*no such file"):
        download.fetch_entry(entry_of(body, ON_HUB))
    web.add_hub_file(REPO, FILE, body)
    assert download.fetch_entry(entry_of(body, ON_HUB)).read_bytes() == body


def test_nothing_is_downloaded_for_a_refused_head(web: Hub) -> None:
    for name in ("discus0434/aesthetic-predictor-v2-5", "rockerBOO/candle-aesthetic-predictor"):
        with pytest.raises(HeadError, match="is refused"):
            load_head(name)
    assert web.log == []


def test_a_bundle_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(HeadError, match="never published"):
        download.verify(tmp_path, catalog.BUNDLES[0])


def test_entries_and_their_files_fit(shared_models: Path, tmp_path: Path) -> None:
    for entry in catalog.HEADS:
        download.verify(shared_models / entry.files[0], entry)
        wrong = dataclasses.replace(entry, sha256="0" * 64)
        with pytest.raises(HeadError, match=f"expected sha256 {'0' * 64}, found {entry.sha256}"):
            download.verify(shared_models / entry.files[0], wrong)
    shutil.copy(shared_models / catalog.HEADS[3].files[0], tmp_path / "x")
    with pytest.raises(HeadError, match="cannot read"):
        download.verify(tmp_path / "none", catalog.HEADS[3])
