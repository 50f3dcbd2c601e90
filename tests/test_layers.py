"""The layer table: who may import whom. A new edge fails here and has to be argued for in docs/architecture.md."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import beholder

SOURCE = Path(beholder.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "columns": set(),
    "errors": set(),
    "notices": set(),
    "streams": set(),
    "io": {"columns", "errors"},
    "kernels": {"columns"},
    "libraries": {"errors"},
    "options": {"errors"},
    "models": {"errors", "io", "kernels", "libraries", "notices"},
    "pixels": {"columns", "errors", "kernels", "libraries"},
    "engine": {"errors", "io", "kernels", "models", "notices"},
    "sources": {"columns", "errors", "io", "kernels", "models", "notices", "options", "pixels"},
    "locate": {"columns", "errors", "io", "pixels", "sources"},
    "workers": {"columns", "errors", "io", "options", "pixels", "sources", "streams"},
    "scoreset": {"columns", "errors", "io", "kernels", "locate", "models", "options", "sources"},
    "curate": {"columns", "errors", "io", "kernels", "locate", "models", "options", "pixels", "scoreset", "sources"},
    "scoring": {
        "columns",
        "engine",
        "errors",
        "io",
        "kernels",
        "models",
        "notices",
        "options",
        "pixels",
        "scoreset",
        "sources",
        "workers",
    },
    "browse": {
        "columns",
        "curate",
        "errors",
        "io",
        "kernels",
        "locate",
        "models",
        "options",
        "pixels",
        "scoreset",
        "sources",
        "train",
        "workers",
    },
    "reporting": {
        "columns",
        "curate",
        "errors",
        "io",
        "kernels",
        "locate",
        "models",
        "options",
        "pixels",
        "scoreset",
        "sources",
        "train",
        "workers",
    },
    "train": {
        "columns",
        "curate",
        "errors",
        "io",
        "kernels",
        "models",
        "notices",
        "options",
        "pixels",
        "scoreset",
        "scoring",
        "sources",
    },
    "planning": {
        "engine",
        "errors",
        "io",
        "kernels",
        "libraries",
        "models",
        "notices",
        "options",
        "pixels",
        "scoring",
        "sources",
        "workers",
    },
    "verification": {"errors", "io", "models", "options", "pixels", "scoreset", "scoring", "sources"},
    "__init__": {"curate", "errors", "models", "pixels", "reporting", "scoring"},
    "demo": {"columns", "curate", "errors", "io", "kernels", "models", "reporting", "scoreset", "scoring", "train"},
    "cli": {
        "browse",
        "columns",
        "curate",
        "demo",
        "errors",
        "models",
        "notices",
        "options",
        "planning",
        "reporting",
        "scoreset",
        "scoring",
        "streams",
        "train",
        "verification",
    },
    "__main__": {"cli", "errors", "streams"},
}
"""First name below `beholder` -> the first names it may import. `beholder` itself (the version) is open to all."""


def modules() -> dict[str, Path]:
    """Every module below `beholder` by its dotted name without `beholder.`; a package is named as its folder."""
    found = {".".join(file.relative_to(SOURCE).with_suffix("").parts): file for file in sorted(SOURCE.rglob("*.py"))}
    return {name.removesuffix(".__init__"): file for name, file in found.items()}


@functools.cache
def imported_modules() -> dict[str, set[str]]:
    """The modules that each module imports, at its top or inside a function; names of the package itself are left out."""
    files = modules()
    found: dict[str, set[str]] = {name: set() for name in files}
    for name, file in files.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                found[name] |= {other.removeprefix("beholder.") for other in names if other.startswith("beholder.")}
            elif isinstance(node, ast.ImportFrom) and node.module is not None and f"{node.module}.".startswith("beholder."):
                assert node.level == 0, f"{file}: relative import"
                inner = node.module.removeprefix("beholder").removeprefix(".")
                for alias in node.names:
                    module = f"{inner}.{alias.name}".removeprefix(".")
                    found[name].add(module if module in files else inner)
    return {name: targets - {"", name} for name, targets in found.items()}


def room_of(module: str) -> str:
    return module.split(".")[0]


def imported_rooms() -> dict[str, set[str]]:
    used: dict[str, set[str]] = {}
    for module, targets in imported_modules().items():
        used.setdefault(room_of(module), set()).update(room_of(target) for target in targets)
    return {room: targets - {room} for room, targets in used.items()}


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that reach one another."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for target in graph.get(waiting.pop(), set()) - seen:
                seen.add(target)
                waiting.append(target)
        return seen

    reach = {node: reachable(node) for node in graph}
    found: list[set[str]] = []
    for node in graph:
        group = {other for other in reach[node] if node in reach.get(other, set())}
        if group and group not in found:
            found.append(group)
    return found


def test_every_import_follows_the_table_and_every_edge_is_used() -> None:
    assert imported_rooms() == ALLOWED


def test_no_room_reaches_itself_through_others() -> None:
    assert circles(ALLOWED) == []


def test_no_module_reaches_itself_through_others() -> None:
    assert circles(imported_modules()) == []


def test_circles_are_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []


def loaded_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    loaded = loaded_after("import beholder; dir(beholder)")
    assert not loaded & {"torch", "numba", "numpy", "pyarrow", "polars", "matplotlib", "huggingface_hub", "fsspec", "duckdb"}


def test_help_loads_nothing_heavy() -> None:
    code = (
        "sys.argv = ['beholder', '--help']\nfrom beholder.__main__ import main\ntry:\n    main()\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_after(code)
    assert "beholder.cli" in loaded
    assert not loaded & {"torch", "numba", "numpy", "pyarrow", "polars", "matplotlib", "huggingface_hub", "fsspec", "duckdb"}


def test_finding_pictures_again_compiles_nothing() -> None:
    assert "numba" not in loaded_after("import beholder.locate.locate")


def test_every_module_opens_with_its_purpose() -> None:
    for file in SOURCE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} has no docstring"
