"""The layer table: who may import whom. A new edge fails here and has to be argued for in docs/architecture.md."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import beholder

SOURCE = Path(beholder.__file__).parent

ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "notices": set(),
    "columns": set(),
    "options": {"errors"},
    "stats": set(),
    "remote_files": set(),
    "parquet_files": {"errors", "schemas"},
    "streams": set(),
    "storage": {"errors", "parquet_files", "remote_files"},
    "schemas": set(),
    "text_files": {"errors", "storage"},
    "csv_tables": {"errors", "storage", "text_files"},
    "json_tables": {"errors", "storage", "text_files"},
    "records": {"storage"},
    "shards": {"columns", "errors", "records", "stats", "storage"},
    "kernels": {"columns"},
    "models": {"errors", "kernels", "notices", "records", "storage"},
    "embeddings": {"columns", "errors", "json_tables", "kernels", "models", "records", "schemas", "storage", "text_files"},
    "images": {
        "columns",
        "csv_tables",
        "errors",
        "json_tables",
        "kernels",
        "schemas",
        "storage",
        "streams",
        "text_files",
    },
    "sources": {"embeddings", "errors", "images", "json_tables", "notices", "storage", "text_files"},
    "scores": {"columns", "csv_tables", "errors", "models", "records", "schemas", "shards", "stats", "storage"},
    "steps": {
        "columns",
        "embeddings",
        "errors",
        "images",
        "kernels",
        "models",
        "notices",
        "records",
        "schemas",
        "scores",
        "shards",
        "stats",
        "storage",
    },
    "run": {"columns", "errors", "notices", "shards", "storage"},
    "training": {"columns", "errors", "kernels", "models"},
    "jobs": {
        "columns",
        "embeddings",
        "errors",
        "images",
        "models",
        "notices",
        "options",
        "records",
        "run",
        "scores",
        "shards",
        "sources",
        "steps",
        "storage",
    },
    "scorer": {"errors", "images", "models"},
    "verification": {"errors", "images", "models", "scorer", "scores", "sources", "storage"},
    "curation": {
        "columns",
        "embeddings",
        "errors",
        "images",
        "kernels",
        "models",
        "options",
        "parquet_files",
        "schemas",
        "scores",
        "stats",
        "storage",
        "text_files",
    },
    "reporting": {"columns", "curation", "errors", "images", "models", "options", "scores", "storage"},
    "browse": {"columns", "curation", "errors", "images", "models", "options", "scores", "storage"},
    "demo": {"columns", "curation", "errors", "jobs", "models", "records", "reporting", "scores", "storage", "training"},
    "cli": {
        "browse",
        "columns",
        "curation",
        "demo",
        "errors",
        "jobs",
        "models",
        "notices",
        "options",
        "reporting",
        "scorer",
        "scores",
        "stats",
        "streams",
        "verification",
    },
    "__main__": {"cli", "errors", "streams"},
    "__init__": {"curation", "errors", "images", "jobs", "models", "reporting", "scorer"},
}
"""First name below `beholder` -> the first names it may import. `beholder` itself (the version) is open to all."""


def layer_of(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports_of(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{file}: relative import"
            found |= {f"{node.module}.{alias.name}" if node.module == "beholder" else node.module for alias in node.names}
    return {name for name in found if name.startswith("beholder.")}


def test_every_import_follows_the_layer_table() -> None:
    wrong = []
    for file in sorted(SOURCE.rglob("*.py")):
        inside = file.relative_to(SOURCE)
        layer = inside.parts[0].removesuffix(".py")
        assert layer in ALLOWED, f"{inside}: a new layer needs a line in the table"
        for name in imports_of(file):
            target = layer_of(name)
            if target not in ALLOWED[layer] | {layer} and target != "__version__":
                wrong.append(f"{inside} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_table_holds_no_edge_that_nobody_uses() -> None:
    used: dict[str, set[str]] = {layer: set() for layer in ALLOWED}
    for file in SOURCE.rglob("*.py"):
        layer = file.relative_to(SOURCE).parts[0].removesuffix(".py")
        used[layer] |= {layer_of(name) for name in imports_of(file)} - {layer, "__version__"}
    assert used == ALLOWED


def test_no_layer_reaches_itself_through_others() -> None:
    def reachable(layer: str, seen: set[str]) -> set[str]:
        for target in ALLOWED[layer] - seen:
            seen = reachable(target, seen | {target})
        return seen

    for layer in ALLOWED:
        assert layer not in reachable(layer, set())


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


def test_every_module_opens_with_its_purpose() -> None:
    for file in SOURCE.rglob("*.py"):
        assert ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))), f"{file} has no docstring"
