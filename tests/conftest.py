"""Fixtures that several test folders use."""

from __future__ import annotations

import atexit
import functools
import gc
import itertools
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import typer.testing
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))  # for `oracles`
pytest.register_assert_rewrite("oracles")
# No property fails because the machine is slow. Each run tries other examples.
settings.register_profile(
    "untimed", settings.default, max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("untimed")
gc.disable()  # while tests are collected: it would look through all that is imported, again and again

# Typer makes commands and flags anew for every command that is run; here they are kept.
typer.main.get_command = typer.testing._get_command = functools.cache(typer.main.get_command)

os.environ["RAY_AUTH_MODE"] = "disabled"  # else a token that any job of Ray left in the home folder decides who may connect

NEEDED = "needs-shared-models"
NEEDS_BROWSER = "needs-browser"
_DEMANDS = {
    "--require-shared-models": (NEEDED, "the public heads"),
    "--require-browser": (NEEDS_BROWSER, "Chromium"),
}
"""Flag -> the word in the reason of a skip that it forbids, and what is missing then."""


def pytest_addoption(parser: pytest.Parser) -> None:
    for flag, (_, what) in _DEMANDS.items():
        parser.addoption(flag, action="store_true", help=f"fail when a test skips for want of {what}")


def _end_at_once(process_id: int) -> None:
    """End this process, if it is that one and no fork of it."""
    if os.getpid() == process_id:
        os._exit(0)


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):  # one process of several
        atexit.register(_end_at_once, os.getpid())  # last of all: to take down what it imported would take seconds


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start other people's tools are slow ones."""
    for item in items:
        if any(str(mark.kwargs.get("reason")).startswith("needs-peers") for mark in item.iter_markers("skipif")):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look at it again and again."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # packages complain of what the collector has not seen at the end


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for flag, what, missed in _missed(terminalreporter):
        terminalreporter.write_line(f"{missed} tests skipped for want of {what}, which {flag} forbids", red=True)
    _tell_faults(terminalreporter)


def _tell_faults(reporter: pytest.TerminalReporter) -> None:
    """The table of what tests of faults injected; also as a file, if one is named."""
    from oracles import fault_table

    counts = fault_table.entries_of(report for name in ("passed", "failed") for report in reporter.stats.get(name, []))
    if not counts:
        return
    reporter.section("faults")
    for line in fault_table.markdown(counts):
        reporter.write_line(line)
    if chosen := os.environ.get(fault_table.VARIABLE):
        fault_table.write(Path(chosen), counts)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and _missed(reporter):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _missed(reporter: pytest.TerminalReporter) -> list[tuple[str, str, int]]:
    """(flag, what is missing, skipped tests) of each flag that was given and is not met."""
    reasons = [str(report.longrepr) for report in reporter.stats.get("skipped", [])]
    counts = [(flag, what, sum(word in reason for reason in reasons)) for flag, (word, what) in _DEMANDS.items()]
    return [(flag, what, count) for flag, what, count in counts if count and reporter.config.getoption(flag)]


REPOSITORY = Path(__file__).resolve().parents[1]


def _beside(variable: str, name: str) -> Path | None:
    chosen = os.environ.get(variable)
    candidates = [Path(chosen)] if chosen else []
    candidates.append(REPOSITORY.parent / "shared" / name)
    return next((path for path in candidates if path.is_dir()), None)


@pytest.fixture(scope="session")
def shared_models() -> Path:
    """Folder with the public heads; see tests/README.md."""
    folder = _beside("BEHOLDER_TEST_MODELS", "models")
    if folder is None:
        pytest.skip(f"{NEEDED}: set BEHOLDER_TEST_MODELS to a folder with the public heads")
    return folder


@pytest.fixture(scope="session")
def shared_reference() -> Path:
    """Folder with LAION's mean embeddings; see tests/README.md."""
    folder = _beside("BEHOLDER_TEST_REFERENCE", "reference")
    if folder is None:
        pytest.skip(f"{NEEDED}: set BEHOLDER_TEST_REFERENCE to a folder with the reference embeddings")
    return folder


@pytest.fixture(scope="session")
def shared_cases() -> Path:
    """Folder with small inputs that failed once; see tests/README.md."""
    folder = _beside("BEHOLDER_TEST_CASES", "cases")
    if folder is None:
        pytest.skip(f"{NEEDED}: set BEHOLDER_TEST_CASES to a folder with the cases")
    return folder


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders that nobody has used, one after another."""
    root = tmp_path_factory.mktemp("caches")
    return (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _own_cache(_caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or fills the user's caches, asks a hub, or sees the user's model folder."""
    cache = next(_caches)
    monkeypatch.setenv("BEHOLDER_CACHE", str(cache / "beholder"))
    monkeypatch.setenv("BEHOLDER_DATA", str(cache / "data"))
    monkeypatch.setenv("HF_HOME", str(cache / "huggingface"))
    monkeypatch.delenv("BEHOLDER_MODELS", raising=False)
    monkeypatch.delenv("BEHOLDER_OFFLINE", raising=False)
    monkeypatch.setenv("BEHOLDER_PROGRESS_S", "0")  # what is said does not depend on how busy the machine is


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A headless Chromium that asks nobody for anything. Of one module: while it runs, none may start an event loop."""
    names = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")  # the first draws with half the work
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip(f"{NEEDS_BROWSER}: install Chromium (apt-get install chromium-headless-shell)")
    sync_api = pytest.importorskip("playwright.sync_api", reason=f"{NEEDS_BROWSER}: pip install playwright")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync"]  # fmt: skip
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=flags)
        yield browser
        browser.close()


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the test's own, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    from oracles.s3 import s3_serving

    with s3_serving() as address:
        yield address


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A boto3 client; the bucket "data" is there and empty."""
    from oracles.s3 import empty_bucket

    with empty_bucket(s3_server, monkeypatch) as client:
        yield client


@pytest.fixture(scope="session")
def small_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An affine head of 24 dimensions in beholder's own format, for the backbone "test/clip-24"."""
    import numpy as np

    from beholder import Head, save_head
    from beholder.kernels.scoring import Affine

    path = tmp_path_factory.mktemp("heads") / "small.safetensors"
    weight = np.random.default_rng(24).standard_normal(24)
    save_head(Head(name="small", math=Affine(weight, 5.0), backbone="test/clip-24"), path)
    return path


@pytest.fixture(scope="session")
def small_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP tower for 56 x 56 pixels that gives 24 dimensions, in Hugging Face's layout with its config."""
    from beholder.models.backbones import TowerShape
    from beholder.models.clip import random_tensors
    from oracles.checkpoints import hf_config, hf_state, write_json, write_safetensors

    shape = TowerShape.small(image_px=56, patch_px=14, width=64, dim=24)
    folder = tmp_path_factory.mktemp("small-tower")
    write_json(folder / "config.json", hf_config(shape))
    return write_safetensors(folder / "model.safetensors", hf_state(random_tensors(shape)))


@pytest.fixture(scope="session")
def plain_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An affine head of 24 dimensions that names no backbone."""
    import numpy as np

    from beholder import Head, save_head
    from beholder.kernels.scoring import Affine

    path = tmp_path_factory.mktemp("heads") / "plain.safetensors"
    save_head(Head(name="plain", math=Affine(np.random.default_rng(23).standard_normal(24), 5.0)), path)
    return path


@pytest.fixture(scope="session")
def second_head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A multilayer head of 24 dimensions."""
    import numpy as np

    from beholder import Head, save_head
    from beholder.kernels.scoring import Perceptron

    rng = np.random.default_rng(25)
    weights = (rng.standard_normal((8, 24)), rng.standard_normal((1, 8)))
    path = tmp_path_factory.mktemp("heads") / "second.safetensors"
    save_head(Head(name="second", math=Perceptron(weights, (rng.standard_normal(8), rng.standard_normal(1)))), path)
    return path
