"""Every option of `beholder browse`, once: default, meaning, check; its flags are made from this class."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from beholder.errors import InputError
from beholder.io import locations, storage
from beholder.options import join_option, option, picture_column_option, repeated_option, where_option

LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
"""Addresses that only this machine can reach."""
MARKS_SUFFIX = ".marks.jsonl"
TASTE_SUFFIX = ".taste.safetensors"


@dataclass(frozen=True, kw_only=True)
class BrowseOptions:
    """What is shown, and where; the meaning of each option stands in its help.

    Attributes:
        scores: what `open_scores` takes.
        token: ask for a token on this machine, too; elsewhere one is always asked for.
        where: all rows that are shown satisfy these conditions, but for those marked keep.
        offline: None: as $BEHOLDER_OFFLINE says.
    """

    scores: str
    port: int = option(0, "Port to listen on.", shown="a free one", least=0)
    host: str = option("127.0.0.1", "Address to listen on; any but this machine's own asks for a token.")
    token: bool = option(False, "Ask for a token on this machine as well, for machines that others log in to.")
    no_open: bool = option(False, "Only print the address; open no web browser.")
    pictures: tuple[str, ...] = option(
        (), "Where the pictures are: folder, tar, Parquet; may be repeated.", shown="where they were scored"
    )
    root: str | None = option(None, "Folder that relative paths count from.", shown="the current one, else where it was scored")
    marks: str | None = option(None, "File of keep and drop marks.", shown=f"SCORES{MARKS_SUFFIX}")
    embeddings: str | None = option(
        None, "Embeddings of the pictures, for learning from marks.", shown="those kept beside the scores"
    )
    groups: str | None = option(None, "Near-duplicates that beholder select --groups-out wrote, shown as stacks.")
    repeated: str = repeated_option()
    score_column: str | None = option(None, "Column with scores.", shown="what the set says, else a known name")
    sample_column: str | None = option(None, "Column that names the rows.", shown="sample, key, path, url, ...")
    picture_column: str | None = picture_column_option()
    join: tuple[str, ...] = join_option()
    where: tuple[str, ...] = where_option()
    offline: bool | None = option(None, "Show no pictures that are on servers.")

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises InputError."""
        if not 0 <= self.port <= 65_535:
            raise InputError(f"--port {self.port}: ports go from 1 to 65535 (0: a free one)")
        if not self.host:
            raise InputError("--host is empty; leave it out, or name an address of this machine such as 0.0.0.0")
        if self.marks is not None and (not self.marks or not locations.is_local(self.marks)):
            raise InputError(f"--marks {self.marks!r}: marks are kept in a file of this machine; name one")
        if self.embeddings == "":
            raise InputError("--embeddings is empty; leave it out, or name a set of embeddings")

    @property
    def needs_token(self) -> bool:
        """Whether visitors have to know a token."""
        return self.token or self.host not in LOOPBACK_HOSTS

    @property
    def marks_path(self) -> Path:
        """File of the marks: as named, else SCORES.marks.jsonl beside local scores, or in the current folder."""
        if self.marks is not None:
            return locations.local_path(self.marks)
        place = self.scores.rstrip("/") or self.scores
        if locations.is_local(place) and not storage.is_glob(place):
            return Path(f"{locations.local_path(place)}{MARKS_SUFFIX}")
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "_" for letter in place.rsplit("/", 1)[-1])
        return Path(f"{stem.strip('._') or 'scores'}{MARKS_SUFFIX}")

    @property
    def taste_path(self) -> Path:
        """File of a head that is learned from the marks: beside them, `photos.scores.taste.safetensors`."""
        name = self.marks_path.name
        stem = next((name.removesuffix(end) for end in (MARKS_SUFFIX, ".jsonl") if name.endswith(end)), name)
        return self.marks_path.with_name(f"{stem}{TASTE_SUFFIX}")
