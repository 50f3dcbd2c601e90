"""Freed memory is kept: decoding again takes few new pages. In processes of their own, as it cannot be undone."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import io, resource, sys
from PIL import Image
from beholder.images.heap import keep_freed_memory
file = io.BytesIO()
Image.new("RGB", (4000, 3000)).save(file, "JPEG")
if sys.argv[1] == "keep":
    assert keep_freed_memory()
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    image = Image.open(file)
    image.load()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
pages()
print(min(pages() for _ in range(3)))
"""


def pages_for_one_more_picture(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, timeout=60, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_a_picture_after_the_first_takes_no_new_pages() -> None:
    """48 MB are 11,719 pages of 4 KiB."""
    assert pages_for_one_more_picture("keep") < 200
    assert pages_for_one_more_picture("as it is") > 2000
