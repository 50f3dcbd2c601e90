"""What errors of usage say: which flag was probably meant, which command has it, which argument is missing."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

_SCORE, _MOST, _FEW = ("--min-score",), ("--max-score",), ("--top", "--draw", "--rows", "--per-bucket", "--groups-shown")
MEANT: dict[str, tuple[str, ...]] = {
    "--threshold": _SCORE, "--thresholds": ("--grid", *_SCORE), "--at": _SCORE, "--min": _SCORE, "--score-min": _SCORE,
    "--minimum": _SCORE, "--cutoff": _SCORE, "--score-threshold": _SCORE, "--above": _SCORE,
    "--max": _MOST, "--score-max": _MOST, "--maximum": _MOST, "--below": _MOST,
    "--limit": _FEW, "--n": _FEW, "-n": _FEW, "--num": _FEW, "--count": _FEW, "--best": _FEW,
    "--percent": ("--top-share",), "--share": ("--top-share",), "--top-percent": ("--top-share",),
    "--filter": ("--where",), "--query": ("--where",),
    "--output": ("--out",), "--out-dir": ("--out",), "--output-dir": ("--out",),
    "--force": ("--overwrite",), "-f": ("--overwrite",), "-y": ("--apply",), "--yes": ("--apply",), "--run": ("--apply",),
    "--model": ("--head", "--backbone"), "--heads": ("--head",), "--tower": ("--backbone",),
    "--columns": ("--group-by", "--column"), "--selection": ("--decisions",),
    "--num-workers": ("--workers",), "--num-threads": ("--threads",), "--batch": ("--batch-size",),
}  # fmt: skip
"""What other tools, other commands or earlier versions call something -> what it may mean; the first that is there is named."""
_NEAR = 0.85
"""So alike, by difflib's ratio, is a mistyped name to the one that was meant: "--treshold" and "--threshold" are 0.95."""


def explain(error: Any, ctx: Any, given: list[str]) -> None:
    """Put into an error of usage which flag was probably meant, or what is missing; one of another kind stays as it is.

    Args:
        error: what parsing raised, known by what it carries: Typer has the classes of errors in private modules.
        ctx: Typer's context of the command.
        given: its arguments.
    """
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        _explain_unknown(error, ctx)
    elif (param := getattr(error, "param", None)) is not None and hasattr(error, "param_hint"):
        _explain_value(error, param, ctx, given)


def _explain_unknown(error: Any, ctx: Any) -> None:
    """Say of a flag that there is not what may have been meant, or which commands have it."""
    word, shown = error.option_name, set(_shown_flags(ctx.command, ctx))
    error.possibilities = [name for name in error.possibilities or () if name in shown]
    near = difflib.get_close_matches(word, [*MEANT, *shown], n=1, cutoff=_NEAR)
    meant = [flag for name in (word, *near) for flag in MEANT.get(name, ()) if flag in shown]
    if meant:
        error.message, error.possibilities = f"No such option: {word}; did you mean {meant[0]}?", None
    elif others := _commands_with(word, ctx):
        error.message, error.possibilities = f"No such option: {word}; it is one of {', '.join(others)}", None


def _explain_value(error: Any, param: Any, ctx: Any, given: list[str]) -> None:
    """Say which argument is missing, as usage names it; and what takes a share, where a number of rows was wanted."""
    if param.param_type_name == "argument":
        if type(error).__name__ == "MissingParameter":
            error.param_hint = (param.metavar or param.name.upper()).strip("[]{}").removesuffix("...")
        return
    flag = param.opts[0]
    if f"{flag}-share" in _shown_flags(ctx.command, ctx):
        share = next((value for value in _values_of(flag, given) if value.strip().endswith("%")), None)
        if share is not None:
            error.message = f"{share} is a share, not a number of rows; write {flag}-share {share}"


def _values_of(flag: str, given: list[str]) -> Iterator[str]:
    for word, following in zip(given, [*given[1:], ""], strict=True):
        if word == flag:
            yield following
        elif word.startswith(f"{flag}="):
            yield word.split("=", 1)[1]


def _shown_flags(command: Any, ctx: Any) -> list[str]:
    """The flags of a command that its help shows."""
    shown = [param for param in command.get_params(ctx) if param.param_type_name == "option" and not param.hidden]
    return [name for param in shown for name in (*param.opts, *param.secondary_opts)]


def _commands_with(flag: str, ctx: Any) -> list[str]:
    """Names of the other commands of the program that have a flag."""
    root = ctx.find_root()
    below = getattr(root.command, "commands", {})
    return [name for name, command in below.items() if not command.hidden and flag in _shown_flags(command, root)]
