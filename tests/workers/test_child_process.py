"""What decode workers are started with: freed memory is kept, so that the next picture takes few new pages."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from beholder.workers import child_process

PROGRAM = """
import io, resource
from PIL import Image
file = io.BytesIO()
Image.new("RGB", (4000, 3000)).save(file, "JPEG")
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    Image.open(file).load()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(min(pages() for _ in range(3)))
"""


def pages_for_one_more_picture(variables: dict[str, str]) -> int:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=True, env=plain | variables
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_picture_after_the_first_takes_no_new_pages() -> None:
    """48 MB are 11,719 pages of 4 KiB."""
    assert pages_for_one_more_picture(child_process._MALLOC) < 200
    assert pages_for_one_more_picture({}) > 2000
