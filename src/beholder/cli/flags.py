"""Typer commands made from classes of options, one flag per field, so that no flag is written twice."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from types import GenericAlias, NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer

from beholder.options import flag_names, parse_bytes


def output_flags(*, as_json: str, quiet: str | None = None) -> dict[str, Any]:
    """The flags `--json` and `--quiet` of a command, as `command` takes them, with what each does there; None: no `--quiet`."""
    found: dict[str, Any] = {"as_json": (bool, False, typer.Option("--json", help=as_json))}
    if quiet is not None:
        found["quiet"] = (bool, False, typer.Option("--quiet", "-q", help=quiet))
    return found


SUMMARY_FLAGS = output_flags(as_json="Print the summary as JSON.", quiet="No progress and no summary.")
"""Those of commands that do a job and sum it up."""
SCORES_HELP = "What `beholder score` wrote, or any Parquet or CSV file with a column of scores; a folder or glob of them."
"""What an argument is that names scores."""


def command(
    options: type,
    run: Callable[..., None],
    *,
    name: str,
    sources: str,
    description: str,
    examples: str,
    argument: str = "sources",
    extra: dict[str, Any] | None = None,
) -> Callable[..., None]:
    """A function that Typer turns into a command.

    Args:
        options: a frozen dataclass whose fields with help text become flags.
        run: called with (made options, **extra flags).
        name: of the command.
        sources: help of the argument.
        argument: the field that is the command's argument: one text, or a tuple of them; needed unless it has a default.
        description: what `--help` says first.
        examples: what it says then.
        extra: further flags that are no options of the job: name -> (type, default, typer.Option).
    """
    made = {item.name: item for item in fields(options) if "help" in item.metadata}
    kinds = typing.get_type_hints(options)
    is_tuple = get_origin(kinds[argument]) is tuple
    parameters = [_argument(options, argument, is_tuple, sources)]
    parameters += [_parameter(item, kinds[item.name], _panel(options, item.name)) for item in made.values()]
    old = [_OldFlag(item, kinds[item.name], flag) for item in made.values() for flag in item.metadata.get("old", ())]
    parameters += [flag.parameter for flag in old]
    parameters += [
        inspect.Parameter(extra_name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, flag])
        for extra_name, (kind, default, flag) in (extra or {}).items()
    ]

    def called(**given: Any) -> None:
        named = given.pop(argument)
        values: dict[str, Any] = {argument: tuple(named or ()) if is_tuple else named}
        for flag in old:
            flag.put_in(given)
        for field_name, item in made.items():
            value = given.pop(field_name)
            if value is None or (value == [] and item.default is not MISSING):
                continue
            if item.metadata.get("read") == "bytes":
                value = parse_bytes(value)
            values[field_name] = tuple(value) if isinstance(value, list) else value
        if values.get("offline") is False:
            del values["offline"]
        run(options(**values), **given)

    called.__name__ = name
    called.__doc__ = inspect.cleandoc(description) + "\n\n" + examples
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return called


def _argument(options: type, name: str, is_tuple: bool, text: str) -> inspect.Parameter:
    """The command's argument: needed unless the options have a default for it."""
    (item,) = [item for item in fields(options) if item.name == name]
    plain = list[str] if is_tuple else str
    kind, positional = inspect.Parameter.POSITIONAL_OR_KEYWORD, typer.Argument(help=text, show_default=False)
    if item.default is MISSING:
        return inspect.Parameter(name, kind, annotation=Annotated[plain, positional])
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[plain | None, positional])


def _panel(options: type, name: str) -> str | None:
    """The heading that help shows a flag under: `PANEL` of the class that has the field."""
    owner = next(base for base in options.__mro__ if name in inspect.get_annotations(base))
    return owner.__dict__.get("PANEL")


def _parameter(item: Field[Any], kind: Any, panel: str | None) -> inspect.Parameter:
    """The command's parameter for one field of the options."""
    text, metadata = item.metadata["help"], item.metadata
    if "shown" in metadata:
        text += f"  (default: {metadata['shown']})"
    plain, default = _plain(kind), item.default
    settings: dict[str, Any] = {"help": text, "rich_help_panel": panel, **_range(item)}
    if metadata.get("read") == "bytes":
        plain = str
    settings["metavar"] = takes(item, kind)
    names = list(metadata.get("flag", ()))
    if plain is bool and default is None and "/" in "".join(metadata.get("flag", ())):  # neither way unless said
        annotation: Any = bool | None
    elif plain is bool:
        default = bool(default)
        names = list(flag_names(item))
        annotation = bool
    else:
        is_shown = "shown" not in metadata and default is not None and default is not MISSING
        default = default if is_shown else None
        annotation = plain if default is not None else plain | None
    flag = typer.Option(*names, show_default="shown" not in metadata and default not in (None, False), **settings)
    return inspect.Parameter(item.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, flag])


def _range(item: Field[Any]) -> dict[str, Any]:
    """The smallest and the largest number that a field may be, as Typer calls them."""
    return {name: item.metadata[ours] for name, ours in (("min", "least"), ("max", "most")) if ours in item.metadata}


class _OldFlag:
    """A former name of a flag: taken as before, and not shown in help."""

    def __init__(self, item: Field[Any], kind: Any, flag: str) -> None:
        self.item, self.flag = item, flag
        self.name = f"old_{flag.strip('-').replace('-', '_')}_of_{item.name}"
        plain: Any = str if item.metadata.get("read") == "bytes" else _plain(kind)
        annotation: Any = Annotated[plain | None, typer.Option(flag, hidden=True, **_range(item))]
        self.parameter = inspect.Parameter(self.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)

    def put_in(self, given: dict[str, Any]) -> None:
        """Move a value that was given by the former name to where that of the present one is. Raises BadParameter for both."""
        value, now = given.pop(self.name), given[self.item.name]
        if value is None or value == []:
            return
        if isinstance(value, list):
            given[self.item.name] = [*(now or []), *value]
        elif now is None or now == self.item.default:
            given[self.item.name] = value
        else:
            raise typer.BadParameter(f"{self.flag} is the former name of {flag_of(self.item)}; give one of them")


_TAKES = {
    "--copy": "DIR", "--link": "DIR", "--symlink": "DIR", "--move": "DIR", "--tars": "DIR", "--hf-parquet": "DIR",
    "--root": "DIR", "--out": "PATH", "--pictures": "PATH", "--embeddings": "PATH", "--dedup-against": "PATH",
    "--decisions": "FILE", "--groups": "FILE", "--exclude": "FILE", "--join": "FILE", "--marks": "FILE",
    "--log-json": "FILE", "--metrics": "FILE",
    "--ratings": "PATH", "--disliked": "DIR", "--pair-columns": "BETTER,WORSE", "--split-by": "folder|COLUMN",
    "--by": "folder|COLUMN",
    "--near-duplicates": "SIMILARITY", "--start-from": "HEAD", "--compare-with": "HEAD", "--good-from": "NUMBER",
    "--balance": "COLUMN", "--dedup-per": "COLUMN", "--group-by": "COLUMN", "--per": "COLUMN",
    "--where": "CONDITION", "--rank-by": "EXPRESSION", "--dedup-keep": "WORD|EXPRESSION",
    "--dedup": "SIMILARITY|exact-bytes", "--dedup-against-similarity": "SIMILARITY",
    "--min-score": "SCORE", "--max-score": "SCORE", "--grid": "SCORE", "--top-share": "SHARE",
    "--onto": "PATH|NAME", "--onto-head": "NAME", "--scale-of": "HEAD|ratings|percentiles", "--interval": "CHANCE",
    "--score": "NAME", "--head": "NAME", "--backbone": "NAME", "--device": "DEVICE", "--host": "ADDRESS",
    "--push-to-hub": "ORG/NAME", "--timeout": "SECONDS", "--max-time": "SECONDS",
    "--xmp-stars": "SHARE,...", "--xmp-labels": "LABEL=SHARE,...",
    "--rates": "FILE", "--pixels": "WIDTHxHEIGHT", "--storage": "DIR",
}  # fmt: skip
"""What flags take, as help calls it: the same in every command. Others are called by their type (`takes`)."""


def takes(item: Field[Any], kind: Any) -> str | None:
    """What the flag of a field takes, as help calls it; None: nothing."""
    flag = flag_of(item)
    plain = _plain(kind)
    if item.metadata.get("choices"):
        return "|".join(item.metadata["choices"])
    if item.metadata.get("read") == "bytes":
        return "SIZE"
    if flag in _TAKES:
        return _TAKES[flag]
    if flag.endswith("-out"):
        return "FILE"
    if flag.endswith("column"):
        return "COLUMN"
    if plain is bool:
        return None
    return "N" if plain is int else "NUMBER" if plain in (float, list[float]) else "TEXT"


def flag_of(item: Field[Any]) -> str:
    """The flag of a field, as messages name it."""
    return flag_names(item)[0].split("/")[0]


def _plain(kind: Any) -> Any:
    """The type Typer should read: `X | None` -> X, `X | str` -> str, Literals -> str, a tuple of X -> list[X]."""
    if get_origin(kind) in (Union, UnionType):
        kinds = {_plain(choice) for choice in get_args(kind) if choice is not NoneType}
        if str in kinds:
            return str
        (kind,) = kinds
        return kind
    origin = get_origin(kind)
    if origin is Literal:
        return str
    return GenericAlias(list, get_args(kind)[:1]) if origin is tuple else kind
