"""Freed memory goes back where the C library can return it, and its absence is no error."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import numpy as np
import psutil
import pytest

from ctplatform.compute import free_memory

BLOCK = 100_000  # bytes: below the size from which each block is mapped by itself


def test_freed_blocks_are_returned_though_later_ones_are_in_use():
    if free_memory._function("malloc_trim") is None:
        pytest.skip("this C library has no malloc_trim")
    process = psutil.Process()
    blocks = [np.ones(BLOCK, np.uint8) for _ in range(1000)]
    kept, blocks = blocks[-1], None
    held = process.memory_info().rss
    free_memory.return_free_memory()
    assert held - process.memory_info().rss > 500 * BLOCK
    assert kept.all()


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(free_memory, "_function", lambda name: None)
    free_memory.return_free_memory()
    free_memory.keep_free_memory.__wrapped__()


def test_pages_of_freed_blocks_are_used_again():
    """In a process of its own, since the setting stays; blocks as encoding needs them, freed in the order made."""
    script = """
import resource, sys
import numpy as np
from ctplatform.compute import free_memory
if free_memory._function("mallopt") is None:
    sys.exit("no mallopt")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        blocks = [np.ones(1 << 20, np.uint8) for _ in range(4)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
before = faults()
free_memory.keep_free_memory()
faults()
print(before, faults())
"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False
    )
    if "no mallopt" in done.stderr:
        pytest.skip("this C library has no mallopt")
    without, with_setting = map(int, done.stdout.split())
    assert without > 25 * (4 << 20) // resource.getpagesize()
    assert with_setting < without / 10
