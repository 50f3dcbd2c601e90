"""What holds for the whole repository: no link in the documentation leads nowhere."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from urllib.parse import unquote

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").glob("*.md"),
        *(REPOSITORY / name / "README.md" for name in ("tests", "benchmarks")),
    ]
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def named(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def without_code(text: str) -> str:
    """Markdown without its blocks of code and its code spans."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings by GitHub's rule: lower case, no punctuation, blanks to hyphens, numbered when equal."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), flags=re.M):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", words.strip().lower()).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def test_anchors_are_githubs() -> None:
    page = "# The `first`: a, b\n## Same\n```\n# no heading\n```\n## Same\n### [Linked](x.md) word-s_2\n"
    assert anchors(page) == {"the-first-a-b", "same", "same-1", "linked-word-s_2"}
    assert anchors("") == set()


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(without_code(page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = unquote(link).partition("#")
        target = (page.parent / place).resolve() if place else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=named)
def test_source_files_named_in_pages_exist(page: Path) -> None:
    """`scoring/run.py` and the like: below the repository, `src/beholder`, `tests` or `benchmarks`; a bare name anywhere."""
    folders = [REPOSITORY, *(REPOSITORY / name for name in ("src/beholder", "tests", "benchmarks"))]
    names = {file.name for folder in folders[1:] for file in folder.rglob("*.py")}
    for path in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
        assert path in names if "/" not in path else any((folder / path).exists() for folder in folders), path
