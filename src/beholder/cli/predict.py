"""`beholder predict`: birder predict's flags, done by `beholder.scoring.birder`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand

from beholder.cli.help import columns, lines_of_text, wrapped

DESCRIPTION = """Turn pictures into CLIP embeddings under birder predict's flags and file names."""
EPILOG = """
Results go to results/, named as birder names them. Beside the file lie FILE.beholder.json, which says how it was made, and
FILE.rejects.parquet, when pictures could not be used (exit status 3). Where birder stops at a bad picture, holds all results in
memory, or overwrites a file, beholder goes on, does not, and does so only with --overwrite. Run the same command again after an
interruption: it continues.

Of local folders and files exactly those pictures are taken that birder takes (.jpg .jpeg .png .ppm .bmp .pgm .tif .tiff .webp),
in its order, so that rows fit birder's own by position; a line says how many others are left out. URLs and patterns are
taken as `beholder embed` takes them.

The three steps of the model card:
  beholder models download vit_l14_pn_quick_gelu_openai-clip
  beholder predict -n vit_l14_pn_quick_gelu -t openai-clip --simple-crop --gpu --parallel --batch-size 256 \
--chunk-size 50000 --amp --amp-dtype bfloat16 --save-logits --suffix NAME DIR
  beholder score results/vit_l14_pn_quick_gelu_openai-clip_768_224px_crop1.0_PICTURES_sc_NAME_logits.csv
"""
_TYPES = {"int": int, "float": float, "text": str, "texts": str, "sizes": int}


def make_parser() -> argparse.ArgumentParser:
    """Build birder's parser: every flag of its `predict` (0.8.4), and four of ours."""
    from beholder.scoring.birder import FLAGS

    parser = argparse.ArgumentParser(
        prog="beholder predict",
        usage="\n    ".join(
            wrapped("beholder predict -n NETWORK [-t TAG] --save-logits [more flags] DATA_PATH ...", columns() - 8)
        ),
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        formatter_class=HelpLayout,
    )
    ours, idle, refused = (
        parser.add_argument_group(title)
        for title in ("beholder's own", "taken, without effect here", "of birder, refused here (with the reason)")
    )
    groups = {"used": parser, "idle": idle, "refused": refused}
    for flag in FLAGS:
        settings: dict[str, Any] = {"dest": flag.field, "default": argparse.SUPPRESS, "help": flag.text.replace("%", "%%")}
        if flag.kind == "switch":
            settings["action"] = "store_true"
        else:
            settings |= {"type": _TYPES[flag.kind], "metavar": "N" if flag.kind in ("int", "sizes") else flag.field.upper()}
            settings |= {"action": "append"} if flag.kind == "texts" else {}
            settings |= {"nargs": "+", "metavar": ("H", "W")} if flag.kind == "sizes" else {}
        if flag.choices:
            settings |= {"choices": flag.choices, "metavar": None}
        groups[flag.treatment].add_argument(*flag.names, **settings)
    ours.add_argument("--overwrite", action="store_true", help="start anew where a result exists, as birder always does")
    ours.add_argument("--offline", action="store_true", help="never use the network for weights")
    ours.add_argument("--json", action="store_true", dest="as_json", help="print the summary as JSON")
    ours.add_argument("--quiet", "-q", action="store_true", help="no progress and no summary")
    parser.add_argument("data_path", nargs="*", metavar="DATA_PATH", help="folders and files of pictures; with --wds tars")
    return parser


def parse(arguments: Sequence[str]) -> tuple[Any, bool, bool]:
    """(`BirderFlags`, --json, --quiet). Exits with 2 for what birder's parser would refuse; raises InputError."""
    from dataclasses import fields

    from beholder.scoring.birder import FLAGS, BirderFlags

    values = vars(make_parser().parse_args(arguments))
    as_json, quiet = values.pop("as_json"), values.pop("quiet")
    given = tuple(flag.field for flag in FLAGS if flag.field in values)
    known = {item.name for item in fields(BirderFlags)}
    taken: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in known
    }
    taken["offline"] = taken["offline"] or None
    return BirderFlags(**taken, given=given), as_json, quiet


class HelpLayout(argparse.HelpFormatter):
    """Lays argparse's help out as that of the other commands: nothing is broken but at blanks."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=columns(), max_help_position=26)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrapped(text, width)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n".join(lines_of_text(text, width))


class RawCommand(TyperCommand):
    """A command that leaves everything after its name, `--` and `--help` too, to birder's own parser."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the arguments as they are."""
        super().parse_args(ctx, [])
        ctx.args = list(args)
        return list(args)


predict_app = typer.Typer(add_completion=False, rich_markup_mode="rich")


@predict_app.command(cls=RawCommand, add_help_option=False)
def predict(context: typer.Context) -> None:
    """Embed pictures under birder predict's flags and file names; `beholder predict --help` lists them all."""
    from functools import partial

    from beholder.cli.show import run_and_show
    from beholder.scoring.birder import kinds
    from beholder.scoring.birder import predict as job

    flags, as_json, quiet = parse(context.args)
    status = 0
    for kind in kinds(flags):
        try:
            run_and_show(partial(job, kind=kind), flags, as_json=as_json, quiet=quiet)
        except SystemExit as stop:  # some pictures were rejected
            status = max(status, int(stop.code or 0))
    if status:
        raise SystemExit(status)
