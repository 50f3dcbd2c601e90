"""The command line as a whole: every command in one place; nothing heavy is imported before a command needs it."""

from __future__ import annotations

import typer

from beholder.cli.advise import advise
from beholder.cli.browse import browse
from beholder.cli.demo import demo
from beholder.cli.embed import embed
from beholder.cli.help import HelpCommand, HelpGroup
from beholder.cli.models import models_app
from beholder.cli.predict import RawCommand, predict
from beholder.cli.rejects import rejects
from beholder.cli.report import report
from beholder.cli.score import score
from beholder.cli.select import select
from beholder.cli.undo import undo
from beholder.cli.verify import verify

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


app.command(cls=HelpCommand)(score)
app.command(cls=HelpCommand)(embed)
app.command(cls=HelpCommand)(rejects)
app.command(cls=RawCommand, add_help_option=False)(predict)
app.command(cls=HelpCommand)(select)
app.command(cls=HelpCommand)(undo)
app.command(cls=HelpCommand)(advise)
app.command(cls=HelpCommand)(report)
app.command(cls=HelpCommand)(browse)
app.command(cls=HelpCommand)(verify)
app.command(cls=HelpCommand)(demo)
app.add_typer(models_app, name="models")
