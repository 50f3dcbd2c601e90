"""`beholder verify`: scores held against published ones, or a fast setting against the exact one on the user's pictures."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beholder.errors import BeholderError, InputError

if TYPE_CHECKING:
    from beholder.verification.drift import Drift
    from beholder.verification.golden import GoldenResult

EPILOG = """
Examples:\n
  beholder verify --golden\n
  beholder verify --golden --pictures golden-pictures/\n
  beholder verify photos/\n
  beholder verify photos/ --precision bf16 --decoder scaled --sample 1000 --threshold 5.25
"""


def verify(
    sources: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures: folders, files, globs, tars, Parquet files, lists.", show_default=False),
    ] = None,
    golden: Annotated[bool, typer.Option("--golden", help="Compare with published scores of public pictures.")] = False,
    pictures: Annotated[
        str | None, typer.Option(help="With --golden: a folder with those pictures, under any names; then none is downloaded.")
    ] = None,
    sample: Annotated[int, typer.Option(min=1, help="How many of your pictures, evenly spread.")] = 200,
    head: Annotated[str | None, typer.Option(help="The head.  (default: the default head)")] = None,
    backbone: Annotated[str | None, typer.Option(help="The image tower.  (default: the default tower)")] = None,
    precision: Annotated[
        str, typer.Option(help="The setting to compare with fp32: auto, fp32, tf32, bf16, fp16, int8.")
    ] = "auto",
    decoder: Annotated[str, typer.Option(help="The decoder to compare with pillow: pillow, scaled.")] = "pillow",
    preset: Annotated[
        str, typer.Option(help="The pixels to compare with reference: reference, upright, rgb, squash.")
    ] = "reference",
    threshold: Annotated[
        list[float] | None,
        typer.Option(help="Count pictures that change sides here; may be repeated.  (default: 4.5, 5, 5.5, 6, 6.5)"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")] = "auto",
    offline: Annotated[bool, typer.Option("--offline", help="Never use the network.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """How right the scores are: against published ones, or a fast setting against the exact one on your own pictures.

    With --golden: exit status 0 only if some published scores could be checked and all of those agree. Otherwise: the
    pictures are scored in float32 with the reference pixels and in the given setting, and the differences are shown.
    """
    if golden == bool(sources):
        raise InputError("name pictures, or use --golden for the published ones" + (", not both" if golden else ""))
    if golden:
        exact = "fp32" if precision == "auto" else precision
        _golden(pictures, precision=exact, device=device, backbone=backbone, offline=offline or None, as_json=as_json)
        return
    if pictures is not None:
        raise InputError("--pictures goes with --golden; name your own pictures without it")
    common: dict[str, Any] = {"device": device, "offline": offline or None}
    common |= ({} if head is None else {"head": head}) | ({} if backbone is None else {"backbone": backbone})
    setting = {"precision": precision, "decoder": decoder, "preset": preset}
    _drift(list(sources or ()), sample, tuple(threshold or ()), common, setting, as_json=as_json)


verify.__doc__ = inspect.cleandoc(verify.__doc__ or "") + "\n" + EPILOG


_GOLDEN_LINE = "{:44} {:29} {:>9} {:>9} {:>10}  {}"


def _golden(pictures: str | None, *, as_json: bool, offline: bool | None, **setting: Any) -> None:
    from beholder.verification.golden import GoldenPictures, GoldenScorer, check_golden, golden_failure

    if not as_json:
        typer.echo(_GOLDEN_LINE.format("picture", "head", "published", "ours", "difference", "verdict"))
    scorer = GoldenScorer(offline=offline, **setting)
    found = GoldenPictures(pictures, offline=offline)
    results = check_golden(scorer, found, on_result=_no_line if as_json else _show_result)
    if as_json:
        _print_json([result.to_json() for result in results])
    failure = golden_failure(results)
    if failure is not None:
        raise BeholderError(failure)
    if not as_json:
        num_agreeing = sum(result.verdict == "agrees" for result in results)
        typer.echo(f"{num_agreeing} of {len(results)} published scores agree, none that was checked differs")


def _no_line(result: GoldenResult) -> None:
    """Nothing is shown while JSON is to be printed."""


def _show_result(result: GoldenResult) -> None:
    row = result.row
    ours = "-" if result.ours is None else f"{result.ours:.4f}"
    difference = "-" if result.difference is None else f"{result.difference:+.4f}"
    verdict = result.verdict + (f": {result.message}" if result.message else "")
    name = row.picture if len(row.picture) <= 44 else row.picture[:41] + "..."
    typer.echo(_GOLDEN_LINE.format(name, row.head, f"{row.published:.4f}", ours, difference, verdict))


def _drift(
    sources: list[str],
    sample: int,
    thresholds: tuple[float, ...],
    common: dict[str, Any],
    setting: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    import numpy as np

    from beholder.scorer import load_scorer
    from beholder.verification.drift import THRESHOLDS, measure_drift, picture_bytes, sample_pictures

    refs = sample_pictures(sources, sample)
    exact = load_scorer(**common, precision="fp32")
    before = np.asarray(exact.score(picture_bytes(refs), on_error="nan"))
    head = exact.head.name
    del exact  # its tower is as large as the next one
    other = load_scorer(**common, **setting)
    after = np.asarray(other.score(picture_bytes(refs), on_error="nan"))
    found = measure_drift(before, after, thresholds or THRESHOLDS)
    setting["precision"] = other.engine.precision
    num_rejected = len(refs) - found.num_pictures
    if as_json:
        _print_json({"head": head, **setting, **found.to_json(), "num_rejected": num_rejected})
    else:
        _show_drift(found, head, setting)
        if num_rejected:
            typer.echo(f"{num_rejected} of {len(refs)} pictures could not be used")
    if num_rejected:
        raise typer.Exit(3)


def _show_drift(found: Drift, head: str, setting: dict[str, Any]) -> None:
    told = ", ".join(f"{name} {value}" for name, value in setting.items())
    typer.echo(f"{found.num_pictures:,} pictures, {head}: {told} against precision fp32, decoder pillow, preset reference")
    sizes = f"mean {found.mean:.4f}, 95 % {found.p95:.4f}, largest {found.largest:.4f}"
    typer.echo(f"  difference in score: mean {found.bias:+.4f}; its size: {sizes}")
    for threshold, count in found.moved.items():
        share = 100 * count / found.num_pictures
        typer.echo(f"  at {threshold:g}: {count:,} pictures ({share:.2g} %) change sides")


def _print_json(value: object) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
