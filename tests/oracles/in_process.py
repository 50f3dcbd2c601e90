"""Commands run in the process of the test, for files that are fed one after another."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from pathlib import Path

import typer

from beholder import BeholderError
from beholder.cli.app import app
from beholder.errors import InputError

_UsageError = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")


def command(*words: str) -> str:
    """What a command prints; that of `--json` is JSON. Raises BeholderError for what it cannot do, wrong usage among it."""
    out, status = io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(list(words), standalone_mode=False)
        except (_UsageError, typer.Abort) as error:
            raise InputError(getattr(error, "message", "") or type(error).__name__) from None
        except (SystemExit, typer.Exit) as stop:
            status = int(getattr(stop, "exit_code", getattr(stop, "code", 0)) or 0)
    assert status in (0, 1, 2, 3), status
    if "--json" in words and out.getvalue():
        json.loads(out.getvalue(), parse_constant=_no_number)
    return out.getvalue()


def _no_number(word: str) -> float:
    raise AssertionError(f"{word} is no JSON")


def all_of(*commands: tuple[str, ...]) -> tuple[str, ...]:
    """What several commands print, all of which are run; raises the first refusal then, one of several lines before others."""
    refusals, found = [], []
    for words in commands:
        try:
            found.append(command(*words))
        except BeholderError as error:
            refusals.append(error)
    wrong = [error for error in refusals if len(str(error).splitlines()) != 1]
    for error in wrong or refusals:
        raise error
    return tuple(found)


def empty_beside(path: Path) -> Path:
    """An empty folder for what stands around a file that is fed, and is made of it."""
    folder = path.parent.parent / "beside"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder
