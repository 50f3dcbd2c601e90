"""The command line as a whole: every command in one table; a command's module is imported when the command is called."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import typer
from typer.main import get_command

from beholder.cli.help import HelpCommand, HelpGroup

COMMANDS = {
    "score": ("jobs:score", "Score pictures or embeddings with one or several aesthetic heads."),
    "embed": ("jobs:embed", "Turn pictures into CLIP embeddings, with a stamp that says how they were made."),
    "status": (
        "status:status",
        "Show how far a run is: shards and rows done, rejects by reason, the rate, the time left, who works on it.",
    ),
    "rejects": ("views:rejects", "List every picture or row that was rejected, with the reason."),
    "predict": (
        "predict:predict_app",
        "Embed pictures under birder predict's flags and file names; `beholder predict --help` lists them all.",
    ),
    "select": (
        "select:select",
        "Choose which pictures stay: by score, rank, share, group, any SQL condition, near-duplicates, bytes.",
    ),
    "undo": ("select:undo", "Take back what `beholder select ... --apply` did to files."),
    "advise": (
        "advise:advise",
        "Advise on a threshold: what it keeps, where others cut, and which groups of pictures it drops most.",
    ),
    "report": ("views:report", "Write one self-contained HTML page about scores."),
    "browse": (
        "views:browse",
        "Look at scored pictures in the web browser: threshold slider, gallery, filters, keep and drop marks, export.",
    ),
    "train": (
        "train:train",
        "Train a head of your own on people's ratings: a mean a picture, votes, pairs, keep and drop, stars.",
    ),
    "evaluate": ("evaluate:evaluate", "Measure any heads on any ratings, and write one self-contained HTML page."),
    "calibrate": (
        "calibrate:calibrate",
        "Map one head's scores onto another head's scale, onto people's ratings, or onto percentiles.",
    ),
    "verify": (
        "verify:verify",
        "Is a result still what was written? Or, of pictures and with --golden: how right are scores?",
    ),
    "bench": ("plan:bench", "Measure what this machine does: decoding, the tower, storage, whole runs."),
    "plan": (
        "plan:plan",
        "Say how long a job will take, what it reads and writes, what binds, what one more core or machine brings.",
    ),
    "demo": (
        "jobs:demo",
        "Go the whole way on synthetic embeddings: make a million, fit a head, score them, draw the scores.",
    ),
    "models": (
        "models:models_app",
        "Aesthetic heads, public and your own, and CLIP towers: list, info, save, add, push, download, verify, export, remove.",
    ),
}
"""Name -> ("module of this package:its function or Typer app", the first sentence of its help), in the order of the help."""


class _Commands(Mapping[str, Any]):
    """Name -> command, made when it is asked for: to import and make all of them takes longer than the rest of a start."""

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            module, _, member = COMMANDS[name][0].partition(":")
            found = getattr(importlib.import_module(f"beholder.cli.{module}"), member)
            if not isinstance(found, typer.Typer):
                function, found = found, typer.Typer(add_completion=False, rich_markup_mode="rich")
                found.command(cls=HelpCommand)(function)
            self._made[name] = get_command(found)
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Program(HelpGroup):
    """The commands of `COMMANDS`."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def sentences(self, ctx: Any) -> list[tuple[str, str]]:
        """Each command with what it does, as the table has it."""
        return [(name, what) for name, (_, what) in COMMANDS.items()]


app = typer.Typer(
    cls=_Program,
    name="beholder",
    help="Aesthetic scores for pictures, from CLIP embeddings and the public aesthetic heads, and curated sets from scores.",
    epilog="Exit status: 0 all done, 1 failed, 2 wrong usage, 3 done but some rows were rejected, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from beholder import __version__

        typer.echo(f"beholder {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Aesthetic scores for pictures, from CLIP embeddings and the public aesthetic heads."""
