"""Flags are made from the options' fields: each field has one, and what a user types arrives as the field's type."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import pytest
import typer
from typer.testing import CliRunner

import beholder
from beholder.cli.app import app
from beholder.cli.flags import command
from beholder.errors import InputError
from beholder.options import option, parse_bytes, take_old_names
from beholder.scoring.options import EmbedOptions, ScoreOptions
from beholder.verification import VerifyOptions


@dataclass(frozen=True, kw_only=True)
class Options:
    sources: tuple[str, ...]
    names: tuple[str, ...] = option(("a",), "Names.", flag=("--name",), shown="a", old=("--title",))
    size: int | None = option(None, "Size.", shown="found", least=1, old=("--big", "--wide"))
    share: float = option(0.5, "Share.", old=("--part-of",), old_names=("part",))
    memory_bytes: int = option(1000, "Memory.", flag=("--memory",), read="bytes", shown="1kB", old=("--ram",))
    kind: Literal["x", "y"] = option("x", "Kind.", choices=("x", "y"))
    fast: bool = option(False, "Fast.")
    whole: bool = option(True, "Whole.", flag=("--whole/--part",))
    offline: bool | None = option(None, "Offline.")
    hidden: int = 3


def made_app(take: Any) -> typer.Typer:
    app = typer.Typer()
    extra = {"as_json": (bool, False, typer.Option("--json"))}
    app.command()(
        command(Options, take, name="c", sources="Sources.", description="Does it.", examples="Examples", extra=extra)
    )
    return app


def run(*arguments: str) -> tuple[Options, dict[str, Any]]:
    found: list[tuple[Options, dict[str, Any]]] = []

    def take(options: Options, **extra: Any) -> None:
        found.append((options, extra))

    result = CliRunner().invoke(made_app(take), list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return found[0]


def test_without_flags_the_fields_have_their_defaults() -> None:
    options, extra = run("one", "two")
    assert options == Options(sources=("one", "two"))
    assert extra == {"as_json": False}


def test_every_kind_of_flag_arrives_as_its_field() -> None:
    options, extra = run(
        "s", "--name", "p", "--name", "q", "--size", "4", "--share", "0.25", "--memory", "2KiB", "--kind", "y", "--fast",
        "--part", "--offline", "--json",
    )  # fmt: skip
    assert options == Options(
        sources=("s",), names=("p", "q"), size=4, share=0.25, memory_bytes=2048, kind="y", fast=True, whole=False, offline=True
    )
    assert extra == {"as_json": True}


def test_former_names_of_flags_work_as_before() -> None:
    options, _ = run("s", "--title", "p", "--name", "q", "--wide", "4", "--part-of", "0.25", "--ram", "2KiB")
    assert options == Options(sources=("s",), names=("q", "p"), size=4, share=0.25, memory_bytes=2048)
    assert run("s", "--big", "7")[0].size == 7
    shown = CliRunner().invoke(made_app(lambda options, **extra: None), ["--help"]).output
    assert "--size" in shown
    for old in ("--title", "--big", "--wide", "--part-of", "--ram"):
        assert old not in shown


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--big", "7", "--size", "8"], "--big is the former name of --size"),
        (["--big", "7", "--wide", "8"], "--wide is the former name of --size"),
        (["--big", "0"], "--big"),
        (["--part-of", "x"], "--part-of"),
    ],
)
def test_what_is_wrong_with_a_former_name_is_said_by_that_name(arguments: list[str], why: str) -> None:
    result = CliRunner().invoke(made_app(lambda options, **extra: None), ["s", *arguments])
    assert result.exit_code == 2
    assert why in " ".join(result.output.replace("│", " ").split())


def test_former_names_of_fields_are_taken_in_python() -> None:
    assert take_old_names({"part": 0.1, "size": 3}, Options, "c") == {"share": 0.1, "size": 3}
    with pytest.raises(TypeError, match="'share' twice"):
        take_old_names({"part": 0.1, "share": 0.2}, Options, "c")


@pytest.mark.parametrize("arguments", [["s", "--size", "0"], ["s", "--size", "x"], ["s", "--hidden", "4"], []])
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    app = typer.Typer()
    app.command()(command(Options, lambda options: None, name="c", sources="S", description="D", examples="E"))
    assert CliRunner().invoke(app, arguments).exit_code == 2


@pytest.mark.parametrize("number", [1025, 10**5, 10**20])
def test_more_threads_and_processes_than_machines_have_are_refused(number: int) -> None:
    for arguments in (
        ["score", "x.npy", "--threads"], ["embed", "x", "--threads"], ["score", "x", "-j"], ["embed", "x", "--workers"],
        ["select", "x", "--threads"], ["advise", "x", "--threads"], ["report", "x", "--threads"],
    ):  # fmt: skip
        result = CliRunner().invoke(app, [*arguments, str(number)])
        assert result.exit_code == 2
        assert arguments[-1] in result.output
    for call in (
        lambda: ScoreOptions(sources=("x",), num_threads=number), lambda: EmbedOptions(sources=("x",), workers=number).check(),
        lambda: beholder.score("x", num_threads=number), lambda: beholder.select("x", top=1, num_threads=number),
        lambda: beholder.advise("x", num_threads=number), lambda: beholder.load_scorer(num_threads=number),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"^--(threads|workers) [\d,]+: give at least [01] and at most (1,024|256)$"):
            call()
    given = ["predict", "-n", "x", "-t", "y", "--save-logits", "--num-workers", str(number), "folder"]
    assert str(CliRunner().invoke(app, given).exception) == "--num-workers: at most 256"


@pytest.mark.parametrize("options", [ScoreOptions, EmbedOptions, VerifyOptions])
def test_every_flag_of_the_jobs_has_help_and_is_said_once(options: type) -> None:
    flags: list[str] = []
    for item in fields(options):
        if "help" in item.metadata:
            assert item.metadata["help"].endswith(".")
            flags += item.metadata.get("flag", (f"--{item.name}",))
    assert len(set(flags)) == len(flags)


@pytest.mark.parametrize(("text", "number"), [("512MB", 512 * 10**6), ("1GiB", 1 << 30), ("2e9", 2 * 10**9), ("10", 10)])
def test_amounts_of_memory(text: str, number: int) -> None:
    assert parse_bytes(text) == number


@pytest.mark.parametrize("text", ["", "much", "1.2.3MB", "-1", "5XB", "1e400", "99999999TB", "9e9999GB"])
def test_what_is_no_amount_of_memory(text: str) -> None:
    with pytest.raises(InputError, match="is no number of bytes"):
        parse_bytes(text)
