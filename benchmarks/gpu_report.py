"""What gpu.py has measured in; the page of Markdown that tells it out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def page(record: dict[str, Any]) -> str:
    """The whole result file."""
    parts = record.get("parts", {})
    lines = [f"# beholder on {record['device']}", ""]
    if record["is_dry"]:
        lines += [
            "**A dry run: a tiny tower on the processor. It shows that the script runs; its times say nothing about a GPU.**",
            "",
        ]
    lines += record["machine"]
    lines += [f"- tower: {record['shape']}, random weights, {record['gflops_per_picture']:.3g} GFLOP a picture"]
    lines += ["- the peers' patch convolution in float32, not in TF32 as torch takes it unasked", ""]
    for title, name, table in (
        ("Correctness", "correct", _correct),
        ("Matrix products", "products", _products),
        ("Pictures/s on the device", "rates", _rates),
        ("Building and compiling", "compiling", _seconds),
        ("From tars of JPEGs", "path", _path),
        ("`head.score` on the device", "head", _head),
        ("Stages", "stages", _stages),
    ):
        lines += [f"## {title}", "", *(table(parts[name]) if name in parts else ["Not run."]), ""]
    return "\n".join(lines)


def missing(record: dict[str, Any], stages: Sequence[str]) -> list[str]:
    """Stages of which nothing stands on the page but reasons why not, and that were not cut off by the clock."""
    parts = record.get("parts", {})
    part_of = {"compiled": "rates", "eager": "rates", "peers": "rates"}

    def has_numbers(stage: str) -> bool:
        found = [(key, value) for key, value in parts.get(part_of.get(stage, stage), {}).items() if isinstance(value, dict)]
        if stage in part_of:
            found = [pair for pair in found if (" compiled" in pair[0]) != (stage == "eager")]
        if stage in ("compiled", "peers"):
            found = [pair for pair in found if pair[0].startswith("beholder") == (stage == "compiled")]
        return bool(found)

    cut_off = [stage for stage, said in parts.get("stages", {}).items() if said.startswith("cut off")]
    return [stage for stage in stages if not has_numbers(stage) and stage not in cut_off]


def _seconds(part: dict[str, Any]) -> list[str]:
    lines = ["Until the first batches are done, weights and CUDA graph included.", "", "| what | seconds |", "|---|---|"]
    return [*lines, *(f"| {key} | {found:.1f} |" for key, found in part.items())]


def _stages(part: dict[str, Any]) -> list[str]:
    return ["| stage | |", "|---|---|", *(f"| {key} | {found} |" for key, found in part.items())]


def _correct(part: dict[str, Any]) -> list[str]:
    lines = [f"Against {part.get('reference', 'nothing: no reference')}.", ""]
    lines += ["| what | embeddings: largest relative error | score: largest drift | mean |", "|---|---|---|---|"]
    for key, found in part.items():
        if isinstance(found, dict):
            lines.append(f"| {key} | {found['embedding']:.1e} | {found['score_max']:.1e} | {found['score_mean']:.1e} |")
        elif key != "reference":
            lines.append(f"| {key} | {found} | | |")
    return lines


def _products(part: dict[str, Any]) -> list[str]:
    lines = ["| precision | TFLOP/s | at m, k, n |", "|---|---|---|"]
    for key, found in part.items():
        if isinstance(found, dict):
            lines.append(f"| {key} | {found['tflops']:.4g} | {', '.join(map(str, found['at']))} |")
        else:
            lines.append(f"| {key} | {found} | |")
    return lines


def _rates(part: dict[str, Any]) -> list[str]:
    lines = ["Medians of alternating rounds, lowest and highest round; the share is of the products of that precision.", ""]
    lines += ["| what | pictures/s | rounds | share of the products |", "|---|---|---|---|"]
    for key, found in part.items():
        if isinstance(found, dict):
            share = "" if found["share_of_products"] is None else f"{found['share_of_products']:.0%}"
            lines.append(
                f"| {key} | {found['pictures_per_second']:,.0f} | {found['low']:,.0f} to {found['high']:,.0f} | {share} |"
            )
        else:
            lines.append(f"| {key} | {found} | | |")
    return lines


def _path(part: dict[str, Any]) -> list[str]:
    lines = ["| what | |", "|---|---|"]
    for key, found in part.items():
        if isinstance(found, dict) and "account" in found:
            told = ", ".join(f"{name} {_short(value)}" for name, value in found["account"].items())
            lines.append(f"| {key} | {found['seconds']:.1f} s for the whole process; its own account: {told} |")
        elif isinstance(found, dict):
            lines.append(f"| {key} | {', '.join(f'{name} {value:.4g}' for name, value in found.items())} |")
        else:
            is_share = isinstance(found, float) and found < 2
            lines.append(
                f"| {key} | {f'{found:.0%}' if is_share else f'{found:,.0f}' if isinstance(found, float) else found} |"
            )
    return lines


def _head(part: dict[str, Any]) -> list[str]:
    lines = ["| rows | rows/s | largest difference from the processor's score |", "|---|---|---|"]
    for key, found in part.items():
        if isinstance(found, dict):
            lines.append(f"| {key} | {found['rows_per_second']:,.0f} | {found['largest_difference']:.1e} |")
        else:
            lines.append(f"| {key} | {found} | |")
    return lines


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(part)}" for name, part in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
