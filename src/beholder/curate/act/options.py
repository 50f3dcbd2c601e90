"""The options of everything that touches files, and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from beholder.errors import InputError
from beholder.options import option, picture_column_option

Action = Literal["copy", "link", "symlink", "move", "tars", "hf-parquet"]
_FIELDS: tuple[tuple[Action, str], ...] = (
    ("copy", "copy"), ("link", "link"), ("symlink", "symlink"), ("move", "move"), ("tars", "tars"),
    ("hf-parquet", "hf_parquet"),
)  # fmt: skip
SHARDED = ("tars", "hf-parquet")
TAR_COUNT, TAR_BYTES = 10_000, 1_000_000_000
"""Pictures and bytes of a tar, as img2dataset and webdataset have it."""
PARQUET_BYTES = 500_000_000
"""Of a Parquet file, as Hugging Face's `push_to_hub` has it."""


def pictures_option() -> Any:
    """The field for where pictures are now."""
    text = "Where the pictures are, if not where they were scored; as many as were scored take their places (repeatable)."
    return option((), text, flag=("--pictures",))


def root_option() -> Any:
    """The field for the folder of relative names."""
    return option(None, "The folder that relative names of pictures count from.")


@dataclass(frozen=True, kw_only=True)
class ActionOptions:
    """Flags of everything that touches files. Without `apply` nothing is touched."""

    PANEL: ClassVar[str] = "Files of the kept pictures (only with --apply)"

    copy: str | None = option(None, "Copy them into this folder; folders below the source stay as they are.")
    link: str | None = option(None, "The same with hard links, which take no space (same disk only).")
    symlink: str | None = option(None, "The same with symbolic links.")
    move: str | None = option(None, "Move them into this folder; `beholder undo` brings them back.")
    tars: str | None = option(
        None,
        "Pack them into webdataset tars: original bytes and names, .json and .txt members, a table of scores beside.",
    )
    hf_parquet: str | None = option(None, "Pack them into Parquet files with an image column, as Hugging Face has it.")
    shard_count: int | None = option(None, "Most pictures in a tar or Parquet file.", shown="10000 in tars", least=1)
    shard_bytes: int | None = option(
        None, "Most bytes of pictures in a tar or Parquet file.", read="bytes", shown="1GB in tars, 500MB in Parquet"
    )
    caption_column: str | None = option(
        None,
        "--tars, --hf-parquet: the column of the scores (or of --join) whose text is the caption of each picture: its .txt "
        "member in tars, the column text in Parquet.",
    )
    sidecars: bool = option(
        True, "Whether files of the same name (cat.txt, cat.json beside cat.jpg) go with the picture.",
        flag=("--sidecars/--no-sidecars",),
    )  # fmt: skip
    apply: bool = option(False, "Do it. Without this flag only show what would happen.")
    journal: str | None = option(
        None,
        "Where the journal of an act is written.",
        flag=("--journal-out",),
        shown="DIR.journal.jsonl beside the folder",
        old=("--journal",),
    )
    pictures: tuple[str, ...] = pictures_option()
    root: str | None = root_option()
    picture_column: str | None = picture_column_option()

    @property
    def action(self) -> tuple[Action, str] | None:
        """What to do, and the folder to do it in; None: nothing. Raises InputError when flags do not fit together."""
        chosen = [(action, value) for action, name in _FIELDS if (value := getattr(self, name)) is not None]
        if len(chosen) > 1:
            raise InputError(f"--{chosen[0][0]} and --{chosen[1][0]}: choose one at a time")
        if not chosen:
            idle = next((flag for flag, value in (("--apply", self.apply), ("--journal-out", self.journal)) if value), None)
            if idle is not None:
                raise InputError(f"{idle} needs one of --copy, --link, --symlink, --move, --tars or --hf-parquet")
        elif not chosen[0][1]:
            raise InputError(f"--{chosen[0][0]} needs the name of a folder (an unset variable?)")
        if (self.shard_count or self.shard_bytes) and not (chosen and chosen[0][0] in SHARDED):
            raise InputError("--shard-count and --shard-bytes are for --tars and --hf-parquet")
        if self.caption_column is not None and not (chosen and chosen[0][0] in SHARDED):
            raise InputError("--caption-column is for --tars and --hf-parquet")
        if self.picture_column is not None and not chosen:
            raise InputError("--picture-column is for --copy, --link, --symlink, --move, --tars and --hf-parquet")
        return chosen[0] if chosen else None
