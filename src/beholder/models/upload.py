"""A head with its model card put on the Hugging Face hub, under the file name from which `--head ORG/NAME` loads it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from beholder.errors import HeadError, InputError, OutputError, text_of
from beholder.io import storage
from beholder.models import download
from beholder.models.heads import load_head
from beholder.notices import doing

HEAD_FILE, CARD_FILE = "model.safetensors", "README.md"
"""What the hub calls a model's weights and its card."""
LIBRARY = "beholder"
"""The library that cards of beholder's heads name."""


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What goes, or went, to the hub.

    Attributes:
        repo: "org/name".
        is_private: whether a repository that is made for it is private.
        files: name in the repository -> bytes.
        url: of the commit; None where nothing was uploaded.
    """

    repo: str
    is_private: bool
    files: dict[str, bytes]
    url: str | None = None

    def lines(self) -> list[str]:
        """What is told of it."""
        what = ", ".join(f"{name} ({len(data):,} bytes)" for name, data in self.files.items())
        if self.url is not None:
            return [f"uploaded {what}: {self.url}", f"use it from anywhere: beholder score photos/ --head {self.repo}"]
        where = f"{download.endpoint()}/{self.repo}"
        private = "; a repository made for it would be private" if self.is_private else ""
        return [f"would upload {what} to {where}{private}; nothing was uploaded (--dry-run)"]

    def told(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        sizes = {name: len(data) for name, data in self.files.items()}
        return {"repo": self.repo, "num_bytes": sizes, "private": self.is_private, "url": self.url}


def check_repo(repo: str) -> None:
    """Raise InputError for what cannot be the name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    source = download.hub_source(repo)
    try:
        if source is None or source.repo != repo:
            raise HFValidationError("it has to be ORG/NAME")
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no repository of the hub: {text_of(error, None)}") from None


def push_head(
    file: str, card: str, repo: str, *, is_private: bool = False, overwrite: bool = False, dry_run: bool = False
) -> Upload:
    """Upload the head in `file` with its model card to the repository `repo` of the hub, which is made where it is not there.

    Nothing else is sent: the record beside a trained head has the names of pictures, and stays. Who uploads is told by the
    token that `hf auth login` keeps, or $HF_TOKEN; the hub is $HF_ENDPOINT, else https://huggingface.co.

    Args:
        file: a local path or URL of a head in beholder's format.
        card: the same of its card, in Markdown.
        repo: "org/name".
        is_private: of a repository that is made; one that is there has to be private already.
        overwrite: whether a model that was not made with beholder may be replaced, too.
        dry_run: only say what would be sent.

    Raises:
        HeadError: no head, the hub cannot be reached or refuses, or what is there already is public or another model.
        InputError: a name that is none.
        OutputError: there is no card.
    """
    check_repo(repo)
    name = PurePosixPath(file).name
    if not file.endswith(".safetensors"):
        raise HeadError(f"{file} is no .safetensors; write one first: beholder models save {file} OUT.safetensors")
    load_head(file)
    if not storage.exists(card):
        raise OutputError(f"{file} has no model card: write what it was trained on, and how good it is, to {card}")
    text = _whole(card).decode()
    ours = text.replace(f"--head ./{name}", f"--head {repo}").encode()
    upload = Upload(repo=repo, is_private=is_private, files={HEAD_FILE: _whole(file), CARD_FILE: ours})
    if dry_run:
        return upload
    if download.is_hub_offline(None):
        raise HeadError("offline mode is on (BEHOLDER_OFFLINE, HF_HUB_OFFLINE), so nothing can be uploaded")
    with doing(f"network: uploading to {repo}"):
        url = _sent(upload, overwrite=overwrite)
    return Upload(repo=repo, is_private=is_private, files=upload.files, url=url)


def _whole(path: str) -> bytes:
    return storage.read_range(path, 0, storage.size(path))


def _check_there(hub: Any, upload: Upload, *, overwrite: bool) -> None:
    """Raise HeadError where the repository is there, and is public though it is to be private, or holds another model."""
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = hub.model_info(upload.repo)
    except RepositoryNotFoundError:
        return
    if upload.is_private and not found.private:
        raise HeadError(
            f"{upload.repo} is there already, and public, which --private would not change; make it private on the hub, name "
            "another, or leave --private out. Nothing was uploaded"
        )
    there = {one.rfilename for one in found.siblings or ()} & set(upload.files)
    library = None if found.card_data is None else found.card_data.library_name
    if there and library != LIBRARY and not overwrite:
        raise HeadError(
            f"{upload.repo} holds a model that was not made with beholder ({', '.join(sorted(there))}, with no card "
            f"that says library_name: {LIBRARY}); use --overwrite to replace it, or another name. Nothing was uploaded"
        )


def _sent(upload: Upload, *, overwrite: bool) -> str:
    """The address of the commit."""
    from huggingface_hub import CommitOperationAdd, HfApi, errors

    hub: Any = HfApi(endpoint=download.endpoint(), library_name=LIBRARY)
    try:
        _check_there(hub, upload, overwrite=overwrite)
        made = hub.create_repo(upload.repo, private=True if upload.is_private else None, exist_ok=True)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in upload.files.items()]
        return str(hub.create_commit(made.repo_id, files, commit_message="Upload an aesthetic head").commit_url)
    except HeadError:
        raise
    except errors.LocalTokenNotFoundError:
        reason = "nobody is logged in; run: hf auth login, or set HF_TOKEN"
    except errors.HfHubHTTPError as error:
        status = getattr(error.response, "status_code", None)
        said = f" ({error.server_message})" if error.server_message else ""
        hint = "; check who is logged in (hf auth whoami), and that the token may write" if status in (401, 403) else ""
        reason = f"the hub answered with HTTP status {status}{said}{hint}"
    except ValueError as error:  # metadata of the card that the hub does not take
        reason = text_of(error, None)
    except Exception as error:  # the client's HTTP library raises errors of its own
        reason = download.unreachable(error)
    raise HeadError(f"cannot upload to {upload.repo}: {reason}")
