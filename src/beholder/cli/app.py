"""The command line as a whole: every command in one place; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import typer

from beholder.cli.advise import advise
from beholder.cli.calibrate import calibrate
from beholder.cli.evaluate import evaluate
from beholder.cli.help import HelpCommand, HelpGroup
from beholder.cli.jobs import demo, embed, score
from beholder.cli.models import models_app
from beholder.cli.plan import bench, plan
from beholder.cli.predict import RawCommand, predict
from beholder.cli.select import select, undo
from beholder.cli.status import status
from beholder.cli.train import train
from beholder.cli.verify import verify
from beholder.cli.views import browse, rejects, report

app = typer.Typer(
    cls=HelpGroup,
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


for made in (score, embed, status, rejects):
    app.command(cls=HelpCommand)(made)
app.command(cls=RawCommand, add_help_option=False)(predict)
for made in (select, undo, advise, report, browse, train, evaluate, calibrate, verify, bench, plan, demo):
    app.command(cls=HelpCommand)(made)
app.add_typer(models_app, name="models")
