"""One word, one meaning: the table in docs/commands.md against the flags of all commands; help at several widths."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from typer.testing import CliRunner

from beholder.cli.app import COMMANDS, app
from beholder.cli.help import first_sentence, option_name
from beholder.cli.predict import make_parser
from oracles.tiers import mostly_slow

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
ROOT, PREDICT = "beholder", "predict"


def all_commands(command: Any = None, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """Every command and group, by the words that it is called with ("beholder" for the program itself)."""
    command = command or typer.main.get_command(app)
    yield " ".join(path) or ROOT, command
    for name, below in getattr(command, "commands", {}).items():
        yield from all_commands(below, (*path, name))


def options_of(command: Any, *, hidden: bool) -> list[Any]:
    """Its options, those that help shows or the others."""
    return [param for param in command.params if param.param_type_name == "option" and param.hidden == hidden]


def our_flags_of_predict() -> list[argparse.Action]:
    """Flags of `predict` that are not birder's."""
    (group,) = [group for group in make_parser()._action_groups if group.title == "beholder's own"]
    return group._group_actions


def table(heading: str) -> list[list[str]]:
    """The rows of the table below a heading of the page."""
    text = PAGE.read_text(encoding="utf-8").split(f"{heading}\n", 1)[1].split("\n## ")[0]
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return [[cell.strip().replace("\\|", "|") for cell in row] for row in rows]


def words() -> dict[str, tuple[str, set[str]]]:
    """Flag -> how help shows it, and the commands that have it, as the page says."""
    found = {}
    for shown, meaning, commands in table("## Flags"):
        assert meaning
        name = re.search(r"--[\w-]+", shown)
        assert name is not None
        assert name[0] not in found, f"{name[0]} stands in the table twice"
        found[name[0]] = (shown.strip("`"), set(commands.split(", ")))
    return found


def test_the_table_has_every_flag_of_every_command_and_no_other() -> None:
    """A flag that is missing here is told with the row that the page needs; one name is shown in one way everywhere."""
    found: dict[str, tuple[str, set[str]]] = {}
    for path, command in all_commands():
        for param in options_of(command, hidden=False) if path != PREDICT else ():
            name = next(name for name in param.opts if name.startswith("--"))
            shown, commands = found.setdefault(name, (option_name(param), set()))
            assert shown == option_name(param), f"{name} of {path} takes something else than in {', '.join(commands)}"
            commands.add(path)
    for action in our_flags_of_predict():
        found[next(name for name in action.option_strings if name.startswith("--"))][1].add(PREDICT)
    listed = words()
    for name, (shown, commands) in found.items():
        row = f"| `{shown}` | ... | {', '.join(sorted(commands))} |"
        assert listed.get(name) == (shown, commands), f"docs/commands.md needs the row: {row}"
    assert listed.keys() == found.keys()
    assert list(listed) == sorted(listed)


def test_the_values_of_one_flag_are_of_one_type() -> None:
    kinds: dict[str, set[Any]] = {}
    for path, command in all_commands():
        for param in options_of(command, hidden=False) if path != PREDICT else ():
            kind = param.type_descriptor.annotation
            kinds.setdefault(param.opts[0], set()).add(*get_args(kind) or (kind,))  # of a list its items: some are repeatable
    assert {name for name, found in kinds.items() if len(found) > 1} == set()


def test_every_flag_says_what_it_means_and_ends_in_a_full_stop() -> None:
    for path, command in all_commands():
        for param in command.params:
            if not param.hidden and not (path == PREDICT or (param.param_type_name == "argument" and param.help is None)):
                meaning = re.sub(r"\s*\(default: .*\)$", "", param.help or "", flags=re.DOTALL)
                assert meaning.endswith("."), f"{path} {param.opts}: {meaning!r}"
    for action in our_flags_of_predict():
        assert action.help


def test_a_word_ends_in_out_if_a_file_is_written_by_it() -> None:
    for name, (shown, _) in words().items():
        if name.endswith("-out") and name != "--out":
            assert shown.endswith(" FILE")
            assert name.removesuffix("-out") not in words() or words()[name.removesuffix("-out")][0].endswith(" FILE")


def test_former_names_are_taken_and_not_shown() -> None:
    listed = {
        (command, flag.strip("`")): now for flag, commands, now in table("## Former names") for command in commands.split(", ")
    }
    found = {
        (path, name) for path, command in all_commands() for param in options_of(command, hidden=True) for name in param.opts
    }
    assert found == listed.keys()
    shown = words()
    for (command, _), now in listed.items():
        name = re.search(r"--[\w-]+", now)
        assert name is not None
        assert command in shown[name[0]][1]


@pytest.fixture(scope="module", params=mostly_slow([80, 60, 200]))
def helps(request: pytest.FixtureRequest) -> tuple[int, dict[str, str]]:
    """Width, and command -> help at it."""
    runner, found = CliRunner(), {}
    for path, _ in all_commands():
        line = [] if path == ROOT else path.split()
        result = runner.invoke(app, [*line, "--help"], env={"COLUMNS": str(request.param)})
        assert result.exit_code == 0
        found[path] = result.stdout
    return request.param, found


def examples_in(text: str) -> list[str]:
    """Commands of a help text, as they would be copied: with the lines that they go on in."""
    return re.findall(r"(?m)^  beholder (?:.*\\\n)*.*$", text)


def test_help_breaks_no_word(helps: tuple[int, dict[str, str]]) -> None:
    width, texts = helps
    for path, command in all_commands():
        lines = texts[path].splitlines()
        for line in lines:
            assert len(line) <= min(width, 120) or max(map(len, line.split())) > width - 8, f"{path}: {line}"
        heads = [re.split(r"\s{2,}", line.strip())[0] for line in lines if line.startswith("  -")]
        if path == PREDICT:
            parser = make_parser()
            for action in parser._actions:
                choices = [str(choice) for choice in action.choices or ()]
                names = [
                    head for head in heads if action.option_strings and action.option_strings[-1] in re.split("[ ,]+", head)
                ]
                assert not action.option_strings or len(names) == 1
                assert all(choice in names[0] for choice in choices)
            continue
        assert [head for head in heads if head != "-h, --help"] == [option_name(param) for param in shown_in_order(command)]
        for param in command.params:
            if not param.hidden and param.help:
                assert " ".join(param.help.split()) in " ".join(texts[path].split()), f"{path} {param.opts}"


@pytest.mark.parametrize("line", [[], ["models"]])
def test_a_group_without_a_command_shows_its_help(line: list[str]) -> None:
    bare, asked = CliRunner().invoke(app, line), CliRunner().invoke(app, [*line, "--help"])
    assert (bare.exit_code, bare.stdout) == (2, asked.stdout)
    wrong = CliRunner().invoke(app, [*line, "nothing-known"])
    assert wrong.exit_code == 2
    assert f"Usage: {' '.join(['beholder', *line])} [OPTIONS] COMMAND ..." in " ".join(wrong.output.split())


def shown_in_order(command: Any) -> list[Any]:
    """Options as help shows them: by their headings, which come in the order of their first flag."""
    options = options_of(command, hidden=False)
    headings = list(dict.fromkeys(param.rich_help_panel for param in options))
    return sorted(options, key=lambda param: headings.index(param.rich_help_panel))


def test_every_command_has_examples_that_its_parser_takes(helps: tuple[int, dict[str, str]]) -> None:
    _, texts = helps
    commands = dict(all_commands())
    for path, text in texts.items():
        found = examples_in(text)
        assert found or path in (ROOT, "models"), path
        for example in found:
            line = shlex.split(example.replace("\\\n", " "), comments=True)[1:]
            size = 2 if line[0] == "models" else 1
            name, rest = " ".join(line[:size]), line[size:]
            if name == PREDICT:
                assert make_parser().parse_args(rest).save_logits
                continue
            command = commands[name]
            context = command.make_context(name, rest)  # raises for what is no flag of the command
            given = [word for word in rest if word.startswith("--")]
            shown = {option for param in options_of(command, hidden=False) for option in (*param.opts, *param.secondary_opts)}
            assert set(given) <= shown, f"{path} shows a former name: {example}"
            assert context.params


def test_examples_are_the_same_for_a_shell_at_any_width(helps: tuple[int, dict[str, str]], tmp_path: Path) -> None:
    """What a shell makes of the lines as they stand, against the lines of a width at which none is broken."""
    _, texts = helps
    wide = {
        path: CliRunner().invoke(app, [*path.split(), "--help"], env={"COLUMNS": "120"}).stdout
        for path in texts
        if path != ROOT
    }
    said = 'beholder() { printf \'%s\\n\' "$#" "$@"; }\n'
    words_of = []
    for shown in (texts, wide):
        script = tmp_path / "examples.sh"
        script.write_text(said + "\n".join(example for path in wide for example in examples_in(shown[path])), encoding="utf-8")
        words_of.append(subprocess.run(["bash", str(script)], capture_output=True, text=True, check=True, cwd=tmp_path).stdout)
    assert words_of[0] == words_of[1]
    assert words_of[0].count("beholder") == 0
    assert len(words_of[0].splitlines()) > 100


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_the_help_of_each_begins_with(name: str) -> None:
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    assert (command.name, first_sentence(command.help)) == (name, COMMANDS[name][1])
