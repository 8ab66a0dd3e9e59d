"""A few draws of each kind; `python -m tests.benchmarks.fuzz` makes ten thousand."""

from __future__ import annotations

import pytest

from tests.benchmarks.fuzz import fuzz


@pytest.mark.parametrize("kind", ["card", "recipe", "table", "nifti", "nifti-gz", "nrrd", "metaimage"])
def test_any_input_is_one_clear_error_or_a_right_result(kind):
    assert fuzz(kind, 40)["draws"] >= 40
