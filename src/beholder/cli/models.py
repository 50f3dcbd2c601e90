"""`beholder models`: the public heads listed, fetched, checked, and packed for machines without a network."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from beholder.models.registry import HeadEntry

models_app = typer.Typer(
    name="models",
    help="The public aesthetic heads: list, info, download, verify, export.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Names = Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Names or aliases of heads.", show_default=False)]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]


@models_app.command("list", epilog="Examples:\n\n  beholder models list\n\n  beholder models list --json")
def list_heads(as_json: _AsJson = False) -> None:
    """List every head beholder knows, with what it needs and whether it is on this machine."""
    from beholder.models.registry import BUNDLES, HEADS, REFUSED
    from beholder.models.store import entry_record

    if as_json:
        _print_json(
            {
                "heads": [entry_record(entry) for entry in (*HEADS, *BUNDLES)],
                "refused": [{"name": head.name, "sha256": head.sha256, "reason": head.reason} for head in REFUSED],
            }
        )
        return
    _table(HEADS, "Heads")
    _table(BUNDLES, "The same heads, repackaged on the hub (no published sha256)")
    typer.echo("Refused")
    for head in REFUSED:
        typer.echo(f"  {head.name}: {head.reason}")


@models_app.command(
    epilog="Examples:\n\n  beholder models info laion-v2\n\n  beholder models info my-head.safetensors --json",
)
def info(
    name: Annotated[str, typer.Argument(help="A name or alias; or a path, URL or hub id, which is then loaded.")],
    as_json: _AsJson = False,
) -> None:
    """Show what is known about a head: what it needs, where it comes from, its licence, its scale. Downloads no named head."""
    from beholder.models.heads import load_head
    from beholder.models.registry import find
    from beholder.models.store import entry_record

    entry = find(name)
    record = entry_record(entry) if entry is not None else {}
    if entry is None or record["here"]:
        record = {**load_head(name, offline=True if entry is not None else None).describe(), **record}
    if as_json:
        _print_json(record)
        return
    for key, value in record.items():
        typer.echo(f"{key:24} {_text(value)}")


@models_app.command(
    epilog="Examples:\n\n  beholder models download\n\n  beholder models download laion-v1 laion-v2\n\n"
    "  beholder models download --all",
)
def download(
    names: _Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All heads with a published file (11 MB).")] = False,
) -> None:
    """Fetch heads, check their sha256 and load them once; without NAME the default head."""
    from beholder.models.registry import DEFAULT_HEAD
    from beholder.models.store import download as fetch_head
    from beholder.models.store import entries_named

    for entry in entries_named([] if everything else names or [DEFAULT_HEAD]):
        typer.echo(f"{entry.name}: {fetch_head(entry)}")


@models_app.command(epilog="Examples:\n\n  beholder models verify\n\n  beholder models verify laion-v2 --json")
def verify(names: _Names = None, as_json: _AsJson = False) -> None:
    """Hash the head files of this machine again and load each. Exit status 1 if one is wrong, or a named one is missing."""
    from beholder.errors import HeadError
    from beholder.models.store import check, entries_named

    states = [check(entry) for entry in entries_named(names or [])]
    if as_json:
        _print_json([{"name": s.name, "state": s.state, "path": s.path, "message": s.message} for s in states])
    else:
        for state in states:
            typer.echo(f"{state.state:9}  {state.name}  {state.message or state.path or 'not on this machine'}")
        num_whole = sum(state.state not in ("wrong", "missing") for state in states)
        typer.echo(f"{num_whole} of {_count(states)} here and whole")
    bad = [state.name for state in states if state.state == "wrong" or (names and state.state == "missing")]
    if bad:
        raise HeadError(f"{len(bad)} of {len(states)} heads cannot be used as they are: {', '.join(bad)}")


@models_app.command(
    epilog="Examples:\n\n  beholder models export heads/\n\n  beholder models export /media/usb/heads laion-v2\n\n"
    "Then, on the machine without a network:\n\n  export BEHOLDER_MODELS=/media/usb/heads",
)
def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write to; made if it is not there.")],
    names: _Names = None,
    offline: _Offline = False,
    as_json: _AsJson = False,
) -> None:
    """Copy checked head files and a manifest to a folder for a machine without a network; without NAME all of them."""
    from beholder.models.store import entries_named
    from beholder.models.store import export as export_heads

    manifest = export_heads(folder, entries_named(names or []), offline=offline or None)
    if as_json:
        _print_json(manifest)
        return
    for record in manifest["files"]:
        typer.echo(f"{record['file']}  {record['sha256']}")
    place = folder if "://" in folder else str(Path(folder).expanduser().resolve())
    typer.echo(f"{_count(manifest['files'])} in {folder}; use them with: export BEHOLDER_MODELS={shlex.quote(place)}")


def _count(heads: list[Any]) -> str:
    return "1 head" if len(heads) == 1 else f"{len(heads)} heads"


def _table(entries: tuple[HeadEntry, ...], title: str) -> None:
    from beholder.models.registry import DEFAULT_HEAD
    from beholder.models.store import is_here

    typer.echo(title)
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        kind = "affine" if entry.is_affine else "ReLU"
        here = "here" if is_here(entry) else "-"
        licence = f"= {entry.twin}" if entry.twin else entry.licence
        alias = "" if entry.twin else next((f"or: {alias}" for alias in entry.aliases), "")
        default = "  (default)" if entry.name == DEFAULT_HEAD else ""
        row = f"  {entry.name:{width}}  {entry.dim}  {entry.backbone:29}  {kind:6}  {here:4}  {licence:10}  {alias}{default}"
        typer.echo(row.rstrip())
    typer.echo("")


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value) or "-"
    if isinstance(value, dict):
        return (
            ", ".join(f"{key}: {item:.3g}" if isinstance(item, float) else f"{key}: {item}" for key, item in value.items())
            or "-"
        )
    return "-" if value in (None, "") else str(value)


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
