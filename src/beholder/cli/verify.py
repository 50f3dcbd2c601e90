"""`beholder verify`: a result against what was written; scores against published ones; a fast setting against the exact one."""

from __future__ import annotations

import json
import warnings
from functools import partial
from typing import TYPE_CHECKING

import typer

from beholder import notices
from beholder.cli.flags import command, output_flags
from beholder.errors import BeholderError, InputError, clipped
from beholder.verification import SAMPLE_PICTURES, VerifyOptions

if TYPE_CHECKING:
    from beholder.scoring.check import CheckedResult, Finding
    from beholder.verification import Drift, GoldenResult

EXAMPLES = """Examples:\n
  beholder verify photos.scores\n
  beholder verify s3://bucket/scores --json\n
  beholder verify --golden\n
  beholder verify --golden --pictures golden-pictures/\n
  beholder verify photos/\n
  beholder verify photos/ --precision bf16 --decoder scaled --draw 1000 --min-score 5.25
"""


def run(options: VerifyOptions, *, as_json: bool) -> None:
    """Compare and show."""
    from beholder.scoring.check import is_result, scores_beside

    results = [source for source in options.sources if is_result(source)]
    if options.golden:
        _golden(options, as_json=as_json)
    elif not results:
        for source in options.sources:
            if (scores := scores_beside(source)) is not None:
                held = f"{source} holds embeddings that were kept beside scores and are checked with them"
                raise InputError(f"{held}: beholder verify {scores}")
        _drift(options, as_json=as_json)
    elif len(options.sources) > 1:
        raise InputError(f"{results[0]} is what a run wrote, which is checked alone: name it alone, or only pictures")
    else:
        options.refuse_settings()
        _result(results[0], as_json=as_json)


verify = command(
    VerifyOptions,
    run,
    name="verify",
    sources="What score or embed wrote (one folder, .parquet or .csv), or pictures (folders, files, globs, tars, ..., lists).",
    description="""Is a result still what was written? Or, of pictures and with --golden: how right are scores?

    What you name decides. What beholder score or embed wrote, a folder with its record (beholder.json) or a file with one
    beside it (.beholder.json): every file is read and compared with its checksum, every record with its own, and rows are
    counted; files that are damaged, missing or too many are listed, each with what to do. Exit status 0 only if all of it is
    there and whole.

    Pictures: they are scored in float32 with the reference pixels and in the given setting, and the differences are shown.

    With --golden: exit status 0 only if some published scores could be checked and all of those agree.
    """,
    examples=EXAMPLES,
    extra=output_flags(as_json="Print the result as JSON."),
)


def _result(output: str, *, as_json: bool) -> None:
    """Check what a run wrote. Raises BeholderError where it is not whole."""
    from beholder.cli.show import JobProgress
    from beholder.scoring.check import check_result

    def show(finding: Finding) -> None:
        if not as_json:
            typer.echo(f"{finding.kind:8} {finding.file}: {finding.why}")

    with JobProgress(enabled=True) as progress:
        found = check_result(output, on_finding=show, on_progress=partial(progress.stage, f"checking {output}"))
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=2))
    else:
        for line in _result_lines(found):
            typer.echo(line)
    if not found.is_whole:
        raise BeholderError(_what_is_wrong(found))


def _result_lines(found: CheckedResult) -> list[str]:
    """What was read, and what to do about each kind of finding."""
    shards = "" if found.num_shards is None else f"{found.num_shards:,} shards, "
    num_bytes = found.num_bytes
    size = f"{num_bytes / 1e9:,.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:,.1f} MB" if num_bytes >= 1e6 else ""
    size = size or f"{num_bytes:,} bytes"
    lines = [f"{found.output}: {shards}{found.num_files:,} files, {size} read"]
    if found.num_unchecked:
        lines.append(f"  {found.num_unchecked:,} files have no checksum: sizes were compared, and Parquet files read")
    if found.is_running:
        lines.append("  a run works on it; what it has not finished is not looked at")
    mends = dict.fromkeys((finding.kind, finding.mend) for finding in found.findings)
    lines += [f"  what is {kind}: {mend}" for kind, mend in mends]
    if found.is_whole:
        lines.append("all of it is there, as it was written")
    return lines


def _what_is_wrong(found: CheckedResult) -> str:
    """One line about a result that is not whole."""
    files = ", ".join(f"{count:,} {kind}" for kind, count in found.counts.items())
    said = [f"{files} file{'' if found.counts.total() == 1 else 's'}"] if files else []
    if found.num_damaged_shards:
        said[-1] += f" in {found.num_damaged_shards:,} of {found.num_shards:,} shards" if found.num_shards else ""
    if found.num_not_done:
        said.append(f"{found.num_not_done:,} of {found.num_planned:,} shards are not done")
    if found.is_plan_unknown:
        said.append("its record does not say how many shards there are")
    mends = list(dict.fromkeys(finding.mend for finding in found.findings))
    mend = mends[0] if len(mends) == 1 else "see above" if mends else "run the same command again to continue"
    if found.is_running:
        mend = f"a run works on it; once that has ended, {mend}" if mends else "a run works on it: wait until that has ended"
    return f"{found.output} is not whole: {', '.join(said)}; {mend}"


_GOLDEN_LINE = "{:44} {:29} {:>9} {:>9} {:>10}  {}"


def _golden(options: VerifyOptions, *, as_json: bool) -> None:
    from beholder.verification import GoldenPictures, GoldenScorer, check_golden, golden_failure

    if not as_json:
        typer.echo(_GOLDEN_LINE.format("picture", "head", "published", "ours", "difference", "verdict"))
    scorer = GoldenScorer(
        options.backbone, precision=options.precision or "fp32", device=options.device, offline=options.offline
    )
    found = GoldenPictures(options.pictures, offline=options.offline)
    results = check_golden(scorer, found, on_result=(lambda result: None) if as_json else _show_result)
    if as_json:
        typer.echo(json.dumps([result.to_json() for result in results], indent=2))
    failure = golden_failure(results)
    if failure is not None:
        raise BeholderError(failure)
    if not as_json:
        num_agreeing = sum(result.verdict == "agrees" for result in results)
        typer.echo(f"{num_agreeing} of {len(results)} published scores agree, none that was checked differs")


def _show_result(result: GoldenResult) -> None:
    row = result.row
    ours = "-" if result.ours is None else f"{result.ours:.4f}"
    difference = "-" if result.difference is None else f"{result.difference:+.4f}"
    verdict = result.verdict + (f": {result.message}" if result.message else "")
    typer.echo(_GOLDEN_LINE.format(clipped(row.picture, 44), row.head, f"{row.published:.4f}", ours, difference, verdict))


def _drift(options: VerifyOptions, *, as_json: bool) -> None:
    import numpy as np

    from beholder.curate.advise.wording import about_other_scales
    from beholder.models.published import Threshold, canonical_head
    from beholder.scoring.scorer import load_scorer
    from beholder.scoring.summary import THRESHOLDS
    from beholder.verification import measure_drift, picture_bytes, sample_pictures

    setting = options.setting
    refs = sample_pictures(options.sources, options.sample or SAMPLE_PICTURES, options.picture_column)
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", UserWarning)
        exact = load_scorer(**options.models, precision="fp32")
    for doubt in doubts:
        typer.echo(f"warning: {doubt.message}", err=True)
    before = np.asarray(exact.score(picture_bytes(refs), on_error="nan"))
    head = exact.head.name
    for threshold in dict.fromkeys(options.thresholds):
        if threshold.landmark is not None:
            for line in about_other_scales(canonical_head(head) or head, threshold.value, threshold.landmark):
                typer.echo(f"warning: {line}", err=True)
    del exact  # its tower is as large as the next one
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # said above
        with notices.told_to(partial(typer.echo, err=True)):
            other = load_scorer(**options.models, **setting)
    after = np.asarray(other.score(picture_bytes(refs), on_error="nan"))
    found = measure_drift(before, after, options.thresholds or [Threshold(value) for value in THRESHOLDS])
    setting["precision"] = other.engine.precision
    num_rejected = len(refs) - found.num_pictures
    if as_json:
        typer.echo(json.dumps({"head": head, **setting, **found.to_json(), "num_rejected": num_rejected}, indent=2))
    else:
        _show_drift(found, head, setting)
        if num_rejected:
            typer.echo(f"{num_rejected} of {len(refs)} pictures could not be used")
    if num_rejected:
        raise typer.Exit(3)


def _show_drift(found: Drift, head: str, setting: dict[str, str]) -> None:
    told = ", ".join(f"{name} {value}" for name, value in setting.items())
    typer.echo(f"{found.num_pictures:,} pictures, {head}: {told} against precision fp32, decoder pillow, preset reference")
    sizes = f"mean {found.mean:.4f}, 95 % {found.p95:.4f}, largest {found.largest:.4f}"
    typer.echo(f"  difference in score: mean {found.bias:+.4f}; its size: {sizes}")
    for threshold, count in found.moved.items():
        share = 100 * count / found.num_pictures
        typer.echo(f"  at {threshold}: {count:,} pictures ({share:.2g} %) change sides")
