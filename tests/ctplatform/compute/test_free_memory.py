"""Freed memory goes back where the C library can return it, and its absence is no error."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from ctplatform.compute import free_memory

BLOCK = 100_000  # bytes: below the size from which each block is mapped by itself


def test_freed_blocks_are_returned_though_later_ones_are_in_use():
    if free_memory._malloc_trim() is None:
        pytest.skip("this C library has no malloc_trim")
    process = psutil.Process()
    blocks = [np.ones(BLOCK, np.uint8) for _ in range(1000)]
    kept, blocks = blocks[-1], None
    held = process.memory_info().rss
    free_memory.return_free_memory()
    assert held - process.memory_info().rss > 500 * BLOCK
    assert kept.all()


def test_another_c_library(monkeypatch):
    monkeypatch.setattr(free_memory, "_malloc_trim", lambda: None)
    free_memory.return_free_memory()
