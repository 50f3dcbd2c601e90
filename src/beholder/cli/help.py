"""Help as plain text for the width of the terminal: no flag or choice is broken, and examples can be copied as they stand."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from beholder.cli.usage_errors import explain

_MOST_COLUMNS, _LEAST_COLUMNS = 120, 40
"""Longer lines are hard to read; on narrower terminals lines are broken by the terminal."""
_WIDE_COLUMNS, _WIDE_INDENT, _NARROW_INDENT = 76, 26, 6
"""From so many columns on what a flag does stands beside it, if the flag is short, else below it."""
_QUOTED = re.compile(r"""(?<!\S)([('"]?)(`[^`]+`|'[^']+'|"[^"]+")""")
_BLANK = "\u00a0"
"""Stands for a blank at which no line may end."""


class _Helpful:
    """A command whose help is laid out by this module, and whose errors of usage say more."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as the command's class does; errors of usage say more."""
        given = list(args)
        try:
            found: list[str] = super().parse_args(ctx, args)  # type: ignore[misc]
            return found
        except Exception as error:
            explain(error, ctx, given)
            raise

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write the line that errors show, too."""
        formatter.write("\n".join(_lines_of_usage(self, ctx)) + "\n")

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the whole help."""
        formatter.write("\n".join(_lines_of_help(self, ctx)) + "\n")


class HelpCommand(_Helpful, TyperCommand):
    """A command with such help."""


class HelpGroup(_Helpful, TyperGroup):
    """A group of commands with such help, which is shown where no command is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Show the help, which is wrong usage, where nothing is given."""
        if not args and self.no_args_is_help and not ctx.resilient_parsing:
            typer.echo(ctx.get_help())
            ctx.exit(2)
        return super().parse_args(ctx, args)

    def sentences(self, ctx: Any) -> list[tuple[str, str]]:
        """Each command with the first sentence of its help."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        return [(name, first_sentence(item.help)) for name, item in found if item is not None and not item.hidden]


def columns() -> int:
    """How wide help may be."""
    return max(_LEAST_COLUMNS, min(shutil.get_terminal_size().columns, _MOST_COLUMNS))


def wrapped(text: str, width: int) -> list[str]:
    """Text as lines: broken at blanks only, and not inside quotes."""
    whole = _QUOTED.sub(lambda found: found[1] + found[2].replace(" ", _BLANK), " ".join(text.split()))
    lines = textwrap.wrap(whole, width, break_long_words=False, break_on_hyphens=False)
    return [line.replace(_BLANK, " ") for line in lines]


def lines_of_text(text: str, width: int) -> list[str]:
    """Paragraphs as lines; indented lines are commands for a shell, which go on behind a backslash where they are too long."""
    found: list[str] = []
    paragraph: list[str] = []
    for line in [*text.splitlines(), ""]:
        if line.strip() and not line.startswith(" "):
            paragraph.append(line)
            continue
        if paragraph:
            found += ["", *wrapped(" ".join(paragraph), width)]
            paragraph = []
        if line.strip():
            found += _lines_of_command(line.strip(), width)
    return found[1:] if found and not found[0] else found


def _lines_of_command(command: str, width: int) -> list[str]:
    """A command, indented; a comment at its end stands before it where both do not fit into one line."""
    command, _, comment = command.partition("  # ")
    if comment and len(command) + len(comment) + 6 <= width:
        return [f"  {command}  # {comment}"]
    words = re.findall(r"""(?:'[^']*'|"[^"]*"|[^\s'"])+""", command)
    pieces: list[str] = []
    for word in words:
        if pieces and pieces[-1].startswith("-") and not word.startswith("-") and " " not in pieces[-1]:
            pieces[-1] += f" {word}"  # a flag and what it takes
        elif pieces == ["beholder"] or (pieces and len(word) + 8 > width):
            pieces[-1] += f" {word}"  # the command's name; what is longer than any line
        else:
            pieces.append(word)
    text = " ".join(piece.replace(" ", _BLANK) for piece in pieces)
    lines = textwrap.wrap(
        text, width - 2, initial_indent="  ", subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
    lines = [line.replace(_BLANK, " ") for line in lines]
    comments = [f"  # {line}" for line in wrapped(comment, width - 4)]
    return [*comments, *(f"{line} \\" for line in lines[:-1]), lines[-1]]


def _arguments(command: Any, ctx: Any) -> list[Any]:
    return [param for param in command.get_params(ctx) if param.param_type_name == "argument" and not param.hidden]


def _lines_of_usage(command: Any, ctx: Any) -> list[str]:
    words = ["Usage:", ctx.command_path, "[OPTIONS]", *map(_argument_name, _arguments(command, ctx))]
    words += ["COMMAND ..."] if isinstance(command, TyperGroup) else []
    first, *more = wrapped(" ".join(words), columns() - 4)
    return [first, *(f"    {line}" for line in more)]


def _lines_of_help(command: Any, ctx: Any) -> Iterator[str]:
    """The whole help of a command or group: usage, what it does, what it takes, examples."""
    width, arguments = columns(), _arguments(command, ctx)
    yield from _lines_of_usage(command, ctx)
    text, heading, examples = inspect.cleandoc(command.help or "").partition("\nExamples:")
    yield ""
    yield from lines_of_text(text, width)
    for title, rows in _sections(command, ctx, arguments):
        yield ""
        yield f"{title}:"
        for name, meaning in rows:
            yield from _lines_of_row(name, meaning, width)
    for part in ("Examples:" + examples if heading else "", command.epilog or ""):
        if part:
            yield ""
            yield from lines_of_text(part, width)


def _sections(command: Any, ctx: Any, arguments: list[Any]) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Headings, each with what it has: (name, meaning)."""
    if isinstance(command, HelpGroup):
        yield "Commands", command.sentences(ctx)
    if any(param.help for param in arguments):
        yield "Arguments", [(_argument_name(param).strip("[]"), _meaning(param, ctx)) for param in arguments]
    options = [param for param in command.get_params(ctx) if param.param_type_name == "option" and not param.hidden]
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in options:
        panel = getattr(param, "rich_help_panel", None) or "Options"
        panels.setdefault(panel, []).append((option_name(param), _meaning(param, ctx)))
    yield from panels.items()


def first_sentence(text: str | None) -> str:
    """Of a text as docstrings have it, without its line breaks."""
    paragraph = " ".join(inspect.cleandoc(text or "").split("\n\n")[0].split())
    return re.split(r"(?<=[^.]\.) (?=[A-Z])", paragraph)[0]


def _argument_name(param: Any) -> str:
    name = (param.metavar or param.name.upper()).strip("[]{}").removesuffix("...")
    name += "..." if param.nargs != 1 else ""
    return name if param.required else f"[{name}]"


def option_name(param: Any) -> str:
    """The names of an option as help shows them, and what it takes."""
    names = ", ".join(sorted(param.opts, key=lambda name: name.startswith("--")))
    if param.secondary_opts:
        names += " / " + ", ".join(param.secondary_opts)
    return names if param.is_flag else f"{names} {param.metavar or takes_of_type(param)}"


def takes_of_type(param: Any) -> str:
    """What an option of Typer takes, where nothing else is said: N, NUMBER or TEXT."""
    kind = str(getattr(param.type_descriptor, "annotation", "")) if hasattr(param, "type_descriptor") else str(param.type)
    return "N" if "int" in kind.lower() else "NUMBER" if "float" in kind.lower() else "TEXT"


def _meaning(param: Any, ctx: Any) -> str:
    """What a flag or argument means, with its default."""
    text = param.help or ""
    is_flag = getattr(param, "is_flag", False)
    default = param.get_default(ctx)
    if default not in (None, (), []) and not (is_flag and not param.secondary_opts) and "(default:" not in text:
        shown = str(default)
        if is_flag:
            shown = (param.opts if default else param.secondary_opts)[0]
        text += f" (default: {shown})"
    return text


def _lines_of_row(name: str, meaning: str, width: int) -> Iterator[str]:
    """A name and what it means, beside it or below."""
    indent = _WIDE_INDENT if width >= _WIDE_COLUMNS else _NARROW_INDENT
    lines = wrapped(meaning, width - indent)
    first = f"  {name}"
    if len(first) + 2 <= indent and lines:
        yield f"{first:<{indent}}{lines.pop(0)}"
    else:
        yield first
    yield from (" " * indent + line for line in lines)
