"""A few draws of each kind; `python -m tests.benchmarks.fuzz` makes ten thousand."""

from __future__ import annotations

import subprocess
import sys


def test_any_input_is_one_clear_error_or_a_right_result():
    """In a process of its own, whose memory is that of the draws alone."""
    command = [sys.executable, "-m", "tests.benchmarks.fuzz", "--draws", "280"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    kinds = [line.split()[0] for line in ended.stdout.splitlines()]
    assert kinds == ["card", "recipe", "table", "nifti", "nifti-gz", "nrrd", "metaimage"]
