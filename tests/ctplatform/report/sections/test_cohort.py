"""Shares have Wilson intervals, reasons are counted across their numbers, leaks are reported."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import (
    cohort,
)
from tests.ctplatform.report.workspace import RUN, copied


def test_leaks_are_said_aloud(evaluated, recipe, tmp_path):
    workspace = copied(evaluated, tmp_path, "scans", "splits.json")
    splits = workspace.read_json("splits.json")
    splits["train"].append(splits["test"][0])
    workspace.write_json(splits, "splits.json")
    notices = cohort.section(read_inputs(workspace, recipe, run=RUN)).notices
    assert any("1 subject on both sides" in notice for notice in notices)


def test_wilson_is_wilson():
    for n in (1, 7, 60):
        for k in (0, 1, n // 2, n):
            expected = binomtest(k, n).proportion_ci(method="wilson")
            np.testing.assert_allclose(cohort.wilson(k, n), (expected.low, expected.high), atol=1e-6)


def test_reasons_that_differ_in_numbers_are_one():
    counted = cohort.reason_counts(
        ["61 cm2 of lung is cut; Dice 0.6", "88 cm2 of lung is cut", "no lung", "no lung"]
    )
    assert counted == [("61 to 88 cm2 of lung is cut", 2), ("no lung", 2), ("Dice 0.6", 1)]
