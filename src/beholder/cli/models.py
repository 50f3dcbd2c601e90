"""`beholder models`: the public heads and towers listed, fetched, checked, and packed for machines without a network."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.cli.help import HelpCommand, HelpGroup
from beholder.errors import number_of

if TYPE_CHECKING:
    from beholder.models.catalog import HeadEntry, TowerEntry

models_app = typer.Typer(
    cls=HelpGroup,
    name="models",
    help="Aesthetic heads, public and your own, and CLIP towers: list, info, save, add, push, download, verify, export, "
    "remove.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_Names = Annotated[
    list[str] | None, typer.Argument(metavar="NAME", help="Names or aliases of heads or towers.", show_default=False)
]
_AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]


@models_app.command("list", cls=HelpCommand, epilog="Examples:\n\n  beholder models list\n\n  beholder models list --json")
def list_heads(as_json: _AsJson = False) -> None:
    """List every head and tower beholder knows, with what it needs and whether it is on this machine."""
    from beholder.models.catalog import BUNDLES, HEADS, REFUSED, TOWERS
    from beholder.models.store import entry_record, own_heads

    own = [{"name": path.stem, "path": str(path)} for path in own_heads()]

    if as_json:
        _print_json(
            {
                "heads": [entry_record(entry) for entry in (*HEADS, *BUNDLES)],
                "refused": [{"name": head.name, "sha256": head.sha256, "reason": head.reason} for head in REFUSED],
                "towers": [entry_record(tower) for tower in TOWERS],
                "own": own,
            }
        )
        return
    if own:
        typer.echo("Yours")
        for added in own:
            typer.echo(f"  {added['name']}  {added['path']}")
        typer.echo("")
    _print_heads(HEADS, "Heads")
    _print_heads(BUNDLES, "The same heads, repackaged on the hub (no published sha256)")
    typer.echo("Refused")
    for head in REFUSED:
        typer.echo(f"  {head.name}: {head.reason}")
    _print_towers(TOWERS)


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models info laion-v2\n\n  beholder models info my-head.safetensors --json\n\n"
    "  beholder models info ViT-L/14",
)
def info(
    name: Annotated[str, typer.Argument(help="A name or alias; or a path, URL or hub id, which is then loaded.")],
    as_json: _AsJson = False,
) -> None:
    """Show what is known about a head or tower: what it needs, its source, its licence. Downloads nothing that has a name."""
    record = _info(name)
    if as_json:
        _print_json(record)
        return
    for key, value in record.items():
        lines = [_text(value)]
        if key in ("scales", "damaged_scales"):
            lines = [_scale_text(one) if key == "scales" else one for one in value]
        elif key == "notes" and value:
            lines = [f"{name}: {_note(note)}" for name, note in value.items()]
        for line in lines:
            typer.echo(f"{key:24} {line}")


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models save fc.pt mine.safetensors --backbone ViT-L/14\n\n"
    "  beholder models save mlp.pt mine.safetensors --activation relu --name mine\n\n"
    "  beholder models save mine.safetensors openai-clip_aesthetic-predictor.pth\n\n"
    "  beholder models save mine.safetensors mine.onnx",
)
def save(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A head: what torch, scikit-learn (.npz) or numpy saved; a URL.")],
    out: Annotated[str, typer.Argument(metavar="OUT", help="The file to write, ending in .safetensors, .pth or .onnx.")],
    name: Annotated[str | None, typer.Option(help="Its name.  (default: that of FILE)")] = None,
    backbone: Annotated[str | None, typer.Option(metavar="NAME", help="The tower whose embeddings it was trained on.")] = None,
    activation: Annotated[
        str | None,
        typer.Option(metavar="relu|none", help="What stands between its linear layers; none: nothing, Dropout, Identity."),
    ] = None,
    input_scale: Annotated[
        str | None,
        typer.Option(
            metavar="NUMBER|sqrt-dim",
            help="Length of the embeddings it was trained on, where it is not 1, or to say that it is.",
        ),
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Licence of its weights.")] = None,
    layout: Annotated[
        str,
        typer.Option(
            metavar="five-layers|laion-v1",
            help="Of an OUT ending in .pth: the published five layers, which VDC and the original load, or LAION's first.",
        ),
    ] = "five-layers",
) -> None:
    """Write a head in beholder's format, with all that its file does not say; or as other programs load it: .pth, .onnx."""
    from dataclasses import replace

    from beholder.errors import InputError
    from beholder.models.head_record import record_to_carry
    from beholder.models.heads import load_head
    from beholder.models.save import ONNX_SUFFIX, PUBLISHED_LAYOUTS, PUBLISHED_SUFFIXES, save_anew, save_onnx, save_published

    given: Any = activation  # `load_head` refuses other words
    head = load_head(file, backbone=backbone, activation=given, input_scale=_scale(input_scale))
    if out.endswith(PUBLISHED_SUFFIXES):
        chosen = next((known for known in PUBLISHED_LAYOUTS if known == layout), None)
        if chosen is None:
            raise InputError(f"--layout {layout}: choose {' or '.join(PUBLISHED_LAYOUTS)}")
        digest = save_published(head, out, chosen)
    elif out.endswith(ONNX_SUFFIX):
        digest = save_onnx(replace(head, name=name or head.name, licence=licence or head.licence), out)
    else:
        named = replace(head, name=name or head.name, licence=licence or head.licence)
        digest = save_anew(named, out, record_to_carry(head, file))
    typer.echo(f"{out}  {digest}")


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models add mine.safetensors\n\n  beholder models add mine.safetensors --name taste\n\n"
    "  beholder score photos/ --head taste",
)
def add(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A head of your own; a path or URL.")],
    name: Annotated[str | None, typer.Option(help="Its name from now on.  (default: that of FILE)")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the head of this name.")] = False,
) -> None:
    """Give a head of your own a name: --head NAME finds it from any folder. It is copied, and stays until it is removed."""
    from beholder.models.head_record import record_to_carry
    from beholder.models.heads import load_head
    from beholder.models.store import add_own, own_name
    from beholder.scoreset.head_key import HeadKey
    from beholder.scoreset.kept_scales import carry_over, head_named

    head = load_head(file)
    chosen = name or own_name(head)
    path = add_own(head, chosen, record=record_to_carry(head, file), overwrite=overwrite)
    typer.echo(f"{chosen}  {path}")
    of_file = HeadKey.of_record(head.describe()) if "://" in file else head_named(file)
    if of_file is not None:
        num_maps, lines = carry_over(of_file, head_named(str(path)), overwrite=overwrite)
        if num_maps:
            typer.echo(f"its {_scales(num_maps)} onto other scales went along")
        for line in lines:
            typer.echo(line, err=True)


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models push mine.safetensors me/taste --dry-run\n\n"
    "  beholder models push mine.safetensors me/taste --private\n\n  beholder score photos/ --head me/taste",
)
def push(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A head in .safetensors, with its card (.md) beside it.")],
    repo: Annotated[str, typer.Argument(metavar="ORG/NAME", help="The repository; made where it is not there.")],
    private: Annotated[bool, typer.Option("--private", help="A repository that is made on the hub is private.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model that is there and was not made with beholder.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be uploaded.")] = False,
    as_json: _AsJson = False,
) -> None:
    """Upload a head of your own and its card to the Hugging Face hub, from where --head ORG/NAME loads it."""
    from beholder.models.upload import push_head

    card = f"{file.removesuffix('.safetensors')}.md"
    upload = push_head(file, card, repo, is_private=private, overwrite=overwrite, dry_run=dry_run)
    if as_json:
        _print_json(upload.told())
        return
    for line in upload.lines():
        typer.echo(line)


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models download\n\n  beholder models download laion-v1 laion-v2\n\n"
    "  beholder models download --all\n\n  beholder models download vit_l14_pn_quick_gelu_openai-clip",
)
def download(
    names: _Names = None,
    everything: Annotated[bool, typer.Option("--all", help="All heads with a published file (11 MB).")] = False,
) -> None:
    """Fetch heads or towers (1.2 GB), check their sha256 and load them once; without NAME the default head."""
    from beholder.models.catalog import DEFAULT_HEAD
    from beholder.models.store import entries_named, fetch

    for entry in entries_named([] if everything else names or [DEFAULT_HEAD]):
        typer.echo(f"{entry.name}: {fetch(entry)}")


@models_app.command(cls=HelpCommand, epilog="Examples:\n\n  beholder models verify\n\n  beholder models verify laion-v2 --json")
def verify(names: _Names = None, as_json: _AsJson = False) -> None:
    """Hash the files of this machine again and load each. Exit status 1 if one is wrong, or a named one is missing."""
    from beholder.errors import HeadError
    from beholder.models.catalog import TowerEntry
    from beholder.models.store import check, entries_named, towers_here

    entries = [*entries_named(names or []), *([] if names else towers_here())]
    num_towers = sum(isinstance(entry, TowerEntry) for entry in entries)
    states = [check(entry) for entry in entries]
    if as_json:
        _print_json([{"name": s.name, "state": s.state, "path": s.path, "message": s.message} for s in states])
    else:
        for state in states:
            typer.echo(f"{state.state:9}  {state.name}  {state.message or state.path or 'not on this machine'}")
        num_whole = sum(state.state not in ("wrong", "missing") for state in states)
        typer.echo(f"{num_whole} of {_counted(len(states) - num_towers, num_towers)} here and whole")
    bad = [state.name for state in states if state.state == "wrong" or (names and state.state == "missing")]
    if bad:
        what = "models" if any(state.name in bad for state in states[len(states) - num_towers :]) else "heads"
        raise HeadError(f"{len(bad)} of {len(states)} {what} cannot be used as they are: {', '.join(bad)}")


@models_app.command(
    cls=HelpCommand,
    epilog="Examples:\n\n  beholder models export heads/\n\n"
    "  beholder models export /media/usb/models laion-v2 mine.npz ViT-L/14\n\n"
    "Then, on the machine without a network:\n\n  export BEHOLDER_MODELS=/media/usb/models",
)
def export(
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Folder to write to; made if it is not there.")],
    names: _Names = None,
    offline: _Offline = False,
    as_json: _AsJson = False,
) -> None:
    """Copy checked files and a manifest to a folder for a machine without a network; without NAME all heads, no tower.

    A file of your own counts as a NAME; it is written in beholder's format, and its name without ending is known there.
    """
    from beholder.models.catalog import TowerEntry, find
    from beholder.models.head_record import record_to_carry
    from beholder.models.heads import load_head
    from beholder.models.store import entries_named, tower_named
    from beholder.models.store import export as export_models

    given = names or []
    files = [name for name in given if Path(name).expanduser().is_file() and find(name) is None and tower_named(name) is None]
    named = [name for name in given if name not in files]
    entries = entries_named(named) if named or not given else []
    loaded = [(file, load_head(file, offline=offline or None)) for file in files]
    own = [(head, record_to_carry(head, file)) for file, head in loaded]
    manifest = export_models(folder, entries, own=own, offline=offline or None)
    if as_json:
        _print_json(manifest)
        return
    for record in manifest["files"]:
        typer.echo(f"{record['file']}  {record['sha256']}")
    place = folder if "://" in folder else str(Path(folder).expanduser().resolve())
    num_towers = sum(isinstance(entry, TowerEntry) for entry in entries)
    counted = _counted(len(manifest["files"]) - num_towers, num_towers)
    typer.echo(f"{counted} in {folder}; use them with: export BEHOLDER_MODELS={shlex.quote(place)}")


@models_app.command(
    cls=HelpCommand, epilog="Examples:\n\n  beholder models remove ViT-L/14\n\n  beholder models remove laion-v1 laion-v2"
)
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names or aliases of heads or towers.")],
) -> None:
    """Delete cached copies of heads or towers, and heads that you added. Files in your own BEHOLDER_MODELS folder stay."""
    from beholder.models.catalog import TowerEntry
    from beholder.models.store import entries_named, remove_own, towers_meant
    from beholder.models.store import remove as remove_entry
    from beholder.scoreset.kept_scales import forget_maps

    own = {name: path for name in names if (path := remove_own(name)) is not None}
    for name, path in own.items():
        typer.echo(f"removed {path}")
        for gone in forget_maps(name):
            typer.echo(f"removed {gone}")
    names = [name for name in names if name not in own]
    if not names:
        return
    entries = entries_named(names)
    meant = [entry for entry in entries if not isinstance(entry, TowerEntry)] + (
        [tower for name in names for tower in towers_meant(name)] if isinstance(entries[-1], TowerEntry) else []
    )
    removed = [path for entry in meant for path in remove_entry(entry)]
    for path in removed:
        typer.echo(f"removed {path}")
    if not removed:
        typer.echo("nothing to remove: no cached copy is on this machine")


def _scale(text: str | None) -> Any:
    """A number, or what `load_head` takes or refuses."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def _info(name: str) -> dict[str, Any]:
    """The record of a head or tower, with what its file says where that is here; of a local checkpoint without a name, too."""
    from beholder.errors import HeadError
    from beholder.models.catalog import find
    from beholder.models.heads import load_head
    from beholder.models.store import entry_record, tower_named
    from beholder.models.towers import inspect_tower

    tower, head_entry = tower_named(name), find(name)
    if tower is not None:
        record = entry_record(tower)
        return {**inspect_tower(tower.name, offline=True).describe(), **record} if record["here"] else record
    record = entry_record(head_entry) if head_entry is not None else {}
    if head_entry is not None and not record["here"]:
        return record | _scales_of(name)
    path = Path(name).expanduser()
    try:
        head = load_head(name, offline=True if head_entry is not None else None)
        return {**head.describe(), **({"not_known": head.doubt} if head.doubt else {}), **record, **_scales_of(name)}
    except HeadError as no_head:
        if head_entry is not None or not path.exists():
            raise
        try:
            return inspect_tower(path).describe()
        except HeadError as no_tower:
            raise (no_head if path.is_file() else no_tower) from None


def _scales_of(name: str) -> dict[str, Any]:
    """The scales onto which a head has maps that are kept; {} where it has none."""
    from beholder.errors import HeadError
    from beholder.scoreset.kept_scales import head_named, scale_records

    try:
        damaged: list[str] = []
        found = scale_records(head_named(name), damaged)
    except HeadError:  # a hub id, whose head is known by other means only
        return {}
    return ({"scales": found} if found else {}) | ({"damaged_scales": damaged} if damaged else {})


def _scale_text(scale: dict[str, Any]) -> str:
    """A scale of a head in a line."""
    from beholder.scoreset.head_key import HeadKey

    onto, error = scale["onto"], scale["error"]
    name = HeadKey(name=onto["name"]).short if "name" in onto else onto["kind"]
    return f"onto {name}: {scale['method']}, {scale['num_pictures']:,} pictures, error {error:.2g}"


def _scales(count: int) -> str:
    return "map" if count == 1 else f"{count} maps"


def _counted(num_heads: int, num_towers: int) -> str:
    counts = ((num_heads, "head"), (num_towers, "tower"))
    return " and ".join(number_of(num, word) for num, word in counts if num)


def _print_heads(entries: tuple[HeadEntry, ...], title: str) -> None:
    from beholder.models.catalog import DEFAULT_HEAD
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


def _print_towers(entries: tuple[TowerEntry, ...]) -> None:
    from beholder.models.catalog import DEFAULT_TOWER
    from beholder.models.store import is_here

    typer.echo("\nTowers")
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        here = "here" if is_here(entry) else "-"
        default = "  (default)" if entry.name == DEFAULT_TOWER else ""
        row = f"  {entry.name:{width}}  {entry.dim}  {entry.backbone:33}  {here:4}  {entry.licence:4}  {entry.note}{default}"
        typer.echo(row.rstrip())


def _note(note: Any) -> str:
    """A note of a head; of one that is JSON, as `train` leaves them, the single values."""
    try:
        found = json.loads(note)
    except (TypeError, ValueError, RecursionError):
        return _text(note)
    return _text(found) if not isinstance(found, dict) else ", ".join(_flat(found))


def _flat(found: dict[str, Any], before: str = "") -> list[str]:
    """Names and values of nested records; a value with an interval as one."""
    lines = []
    for name, value in found.items():
        if isinstance(value, dict) and value.keys() >= {"value", "low", "high"}:
            shown = [f"{one:.4g}" if isinstance(one, float) else "-" for one in (value["value"], value["low"], value["high"])]
            lines.append(f"{before}{name}: {shown[0]} ({shown[1]} to {shown[2]})")
        elif isinstance(value, dict):
            lines += _flat(value, before)
        elif value is not None:
            lines.append(f"{before}{name}: {value:.4g}" if isinstance(value, float) else f"{before}{name}: {value}")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = [f"{key}: {item:.3g}" if isinstance(item, float) else f"{key}: {item}" for key, item in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return "-" if value in (None, "") else str(value)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))
