"""Makes docs/benchmarks.md, with a plot for each claim, from the result files.

    python benchmarks/page.py

Every result says at which commit it was measured; of older files it is the commit that brought them. One that is older than the
code that it speaks of is marked so: by the number of commits since then that touched this code.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

import result_files

RESULTS = result_files.REPOSITORY / "benchmarks" / "results"
PAGE = result_files.REPOSITORY / "docs" / "benchmarks.md"
PLOTS = result_files.REPOSITORY / "docs" / "benchmarks"
OURS, OTHERS = "#2f6fb0", "#b9c0c8"


@dataclass(frozen=True)
class Claim:
    """What a kind of result shows.

    Attributes:
        theme: how names of its files begin.
        text: the claim, as a sentence.
        script: what measures it: a script beside this one, or a whole command.
        code: the paths that it speaks of.
        column: of the first table that has it, what is plotted; empty: nothing is.
        is_ours: which labels of rows are ours.
    """

    theme: str
    text: str
    script: str
    code: tuple[str, ...]
    column: str = ""
    is_ours: str = "beholder"


_PICTURES = ("src/beholder/pixels", "src/beholder/workers", "src/beholder/kernels", "src/beholder/sources")
_RUNNER = ("src/beholder/scoring",)
CLAIMS = (
    Claim("score_embeddings", "Embeddings become scores at a large part of the speed of memory.", "score_embeddings.py",
          ("src/beholder/kernels", "src/beholder/sources", *_RUNNER), "rows/s"),
    Claim("decode", "A JPEG becomes the tower's pixels faster than with any library that gives the same bits.", "decode.py",
          ("src/beholder/pixels", "src/beholder/kernels"), "pictures/s and core"),
    Claim("tower_cpu", "On a processor the tower is as fast as transformers' in the same precision, int8 faster.",
          "tower_cpu.py", ("src/beholder/engine", "src/beholder/models/clip.py"), "pictures/s"),
    Claim("whole_path", "Tars of JPEGs become scores faster than with the tools people use.", "whole_path.py",
          (*_PICTURES, *_RUNNER, "src/beholder/engine"), "pictures/s, whole process"),
    Claim("gpu", "On a GPU: correctness against float32, and pictures/s beside transformers and timm.", "gpu.py",
          ("src/beholder/engine", *_PICTURES, *_RUNNER), "pictures/s"),
    Claim("main_process", "What a picture costs the process that feeds the device, before and after requests go in groups.",
          "main_process.py", (*_RUNNER, "src/beholder/workers"), "all but the tower, us a picture", "after"),
    Claim("scale", "Several processes, and what a Ray cluster costs.", "scale.py", _RUNNER, "pictures/s while scoring",
          "devices"),
    Claim("resume", "A run of 100,000 finished shards is recognised by one listing.", "resume.py", _RUNNER),
    Claim("select_rows", "Selecting needs memory that does not grow with the rows.", "select_rows.py",
          ("src/beholder/curate/select", "src/beholder/scoreset"), "seconds"),
    Claim("duplicates", "Near-duplicates of a million rows.", "duplicates.py", ("src/beholder/curate/duplicates",), "seconds",
          "exact"),
    Claim("browse", "The live page answers in milliseconds at a million rows.", "browse.py", ("src/beholder/browse",),
          "median ms", "slider|gallery|mark|filter|page|rows|first"),
    Claim("train", "A head from ratings in closed form, beside the published recipe.", "train.py", ("src/beholder/train",),
          "seconds", "ridge"),
    Claim("plan", "What plan says, beside what a run took.", "plan.py", ("src/beholder/planning", *_RUNNER)),
    Claim("faults", "No row is lost, doubled or wrong, whatever happens to a run.",
          "BEHOLDER_FAULTS=20 BEHOLDER_FAULT_TABLE=faults.md make soak PYTEST_ARGS=tests/faults",
          ("src/beholder/scoring", "src/beholder/io", "src/beholder/workers", "src/beholder/sources")),
    Claim("fuzzing", "Mutated files are read, or refused in one line, by every reader.",
          "BEHOLDER_FUZZ_TABLE=fuzzing.md make soak PYTEST_ARGS=tests/faults/fuzz",
          ("src/beholder/sources", "src/beholder/models", "src/beholder/pixels", "src/beholder/io")),
    Claim("compare", "Whole commands before and after the code was rearranged.", "compare.py", ("src/beholder",), "ratio", "."),
)  # fmt: skip
_ROW = re.compile(r"^\|(.*)\|$")
_NUMBER = re.compile(r"\s*\**([\d,.]+)\s*(M|k)?\b")


def git(*words: str) -> str:
    """What git answers, without the line's end."""
    return subprocess.run(
        ["git", "-C", str(result_files.REPOSITORY), *words], capture_output=True, text=True, check=True
    ).stdout.strip()


def measured_at(path: Path, text: str) -> str:
    """The commit of a result: what it says itself, else the one that brought it; empty for a file that is not committed."""
    said = re.search(r"^- commit ([0-9a-f]{7,40}) of", text, re.MULTILINE)
    return said[1] if said else git("log", "-1", "--format=%h", "--", str(path))


def age(commit: str, code: tuple[str, ...]) -> str:
    """When that was, and how much of the code has changed since."""
    try:
        date = git("log", "-1", "--format=%cs", commit)
        since = len(git("log", "--format=%h", f"{commit}..HEAD", "--", *code).splitlines())
    except subprocess.CalledProcessError:
        return f"measured at {commit}, which this repository does not have: **it may be older than the code**"
    if not since:
        return f"measured at {commit} ({date}), with the code as it is"
    return f"measured at {commit} ({date}); **older than the code**: {since} commits have touched it since"


def rows_of(text: str, column: str) -> list[tuple[str, float]]:
    """Labels and numbers of a column, of the first table that has it; rows without a number are left out."""
    found: list[tuple[str, float]] = []
    at, above = None, ""
    for line in text.splitlines():
        matched = _ROW.match(line)
        if matched is None:
            if found:
                break
            at = None
            continue
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", matched[1])]
        if at is None:
            at = cells.index(column) if column in cells else None
            labels = at if at is None else min(at, 2 if cells[0] == "selection" else 1)
            continue
        number = _NUMBER.match(cells[at])
        if number is not None:
            above = cells[0] or above
            label = ": ".join(dict.fromkeys([above, *cells[1:labels]])) if labels else cells[0]
            value = float(number[1].replace(",", "")) * {"M": 1e6, "k": 1e3}.get(number[2] or "", 1.0)
            found.append((re.sub(r"[*`]", "", label), value))
    return found


def draw(claim: Claim, name: str, rows: list[tuple[str, float]]) -> str:
    """A bar for each row, ours in colour; the file's name."""
    figure = Figure(figsize=(9, 0.7 + 0.27 * len(rows)))
    axes = figure.subplots()
    labels = [": ".join(_short(part) for part in label.split(": ", 1)) for label, _ in rows]
    colours = [OURS if re.search(claim.is_ours, label) else OTHERS for label, _ in rows]
    bars = axes.barh(range(len(rows)), [value for _, value in rows], color=colours)
    axes.bar_label(bars, [f"{value:,.4g}" if value < 1e4 else f"{value:,.0f}" for _, value in rows], padding=3, fontsize=8)
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(claim.column, fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    PLOTS.mkdir(exist_ok=True)
    target = PLOTS / f"{name}.svg"
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure.savefig(target, bbox_inches="tight", metadata={"Date": None})
    return target.name


def _short(text: str) -> str:
    return text if len(text) <= 45 else f"{text[:42]}..."


def section(claim: Claim) -> list[str]:
    """A claim with its results, newest first."""
    files = sorted(RESULTS.glob(f"{claim.theme}_*.md"))
    command = claim.script if " " in claim.script else f"python benchmarks/{claim.script}"
    lines = [f"## {claim.text}", "", f"`{command}`", ""]
    if not files:
        return [*lines, "Not measured yet.", ""]
    for path in files:
        text = path.read_text(encoding="utf-8")
        commit = measured_at(path, text)
        machine = re.search(r"^- (?:processor|GPU|device): (.*)$", text, re.MULTILINE)
        title = next(line for line in text.splitlines() if line.startswith("#")).lstrip("# ")
        how = age(commit, claim.code) if commit else "measured before its commit"
        lines += [
            f"**[{title}](../benchmarks/results/{path.name})**",
            "",
            f"{machine[1] if machine else ''}; {how}.".lstrip("; "),
            "",
        ]
        if claim.column and (rows := rows_of(text, claim.column)):
            lines += [f"![{claim.column}](benchmarks/{draw(claim, path.stem, rows)})", ""]
    return lines


def main() -> None:
    """Write the page and its plots."""
    names = {path.name for path in RESULTS.glob("*.md")}
    shown = {path.name for claim in CLAIMS for path in RESULTS.glob(f"{claim.theme}_*.md")}
    if names - shown:
        raise SystemExit(f"no claim speaks of {', '.join(sorted(names - shown))}; add one to CLAIMS")
    for old in PLOTS.glob("*.svg"):
        old.unlink()
    lines = [
        "# Benchmarks", "",
        "For whoever wants to know how fast `beholder` is beside other tools, and by what that is shown. One script measures "
        "each claim, us and the others in turns in one process tree on the same data; each result has hardware and versions. "
        "This page is made by `python benchmarks/page.py` from [the result files](../benchmarks/results/).", "",
        "A result that is **older than the code** was measured before later changes to the code it speaks of: take it as what "
        "was so then.", "",
    ]  # fmt: skip
    for claim in CLAIMS:
        lines += section(claim)
    PAGE.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print(f"written: {PAGE.relative_to(result_files.REPOSITORY)} and {len(list(PLOTS.glob('*.svg')))} plots")


if __name__ == "__main__":
    main()
