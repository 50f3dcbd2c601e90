"""What a result says about the machine and the software it was measured with."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from beholder.io.processes import memory_bytes
from beholder.options import all_cores

_EXTENSIONS = ("avx2", "f16c", "avx512f", "avx512_fp16", "amx_bf16")


def processor() -> str:
    """The processor's name, and the vector extensions that matter here."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = fields.get("flags", "").split()
    known = [flag for flag in _EXTENSIONS if flag in flags]
    return f"{fields.get('model name', platform.processor() or 'unknown')} ({', '.join(known)})"


def lines(*packages: str) -> list[str]:
    """Markdown lines: processor, cores, memory, system, Python and the given packages' versions."""
    versions = []
    for package in packages:
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            versions.append(f"{package} not installed")
    return [
        f"- processor: {processor()}, {all_cores()} cores; {(memory_bytes() or 0) / 2**30:.0f} GiB",
        f"- {platform.system()} {platform.release().split('-')[0]}, Python {sys.version.split()[0]}; {', '.join(versions)}",
    ]
