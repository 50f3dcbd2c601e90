"""A script for the environment of `make peers` in, what it printed out: other people's tools, in a process of their own."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

PEERS = Path(__file__).resolve().parents[2] / ".venv-peers" / "bin" / "python"


def needs_peers(what: str) -> pytest.MarkDecorator:
    """Skips a test where `what` is not installed."""
    return pytest.mark.skipif(not PEERS.exists(), reason=f"needs-peers: {what} not installed (make peers)")


def ask(script: str, *args: str, cache: Path) -> str:
    """Run a script with arguments; what it wrote to its standard output.

    It asks no hub, and what it keeps is below `cache`. Fails with what it said when it fails.
    """
    quiet = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    result = subprocess.run(
        [str(PEERS), "-c", script, *args], capture_output=True, text=True, check=False, timeout=200, env=os.environ | quiet
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout
