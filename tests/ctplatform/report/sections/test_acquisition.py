"""Kernels are grouped, what they explain of the features is measured against chance, and what is unknown is said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

from ctplatform.report.document import Omitted, Section
from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import acquisition
from tests.ctplatform.report.workspace import RUN


def test_kernels_of_either_case_are_one_and_rare_ones_a_group() -> None:
    kernels = pd.Series(["B30f", "B30F", None, *[f"FC{n}" for n in range(10, 20)], *["C"] * 3])
    grouped = acquisition.grouped_kernels(kernels)
    assert grouped[:2].tolist() == ["B30f", "B30f"]
    assert grouped.isna().sum() == 1
    assert grouped.nunique() == acquisition.DRAWN
    assert (grouped == acquisition.OTHERS).sum() == 5
    assert set(acquisition.grouped_kernels(pd.Series(["A", "B", None])).dropna()) == {"A", "B"}


def test_the_share_that_groups_explain() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b"], 100)
    noise_NP = rng.normal(size=(200, 6))
    share, chance = acquisition.explained(noise_NP, groups)
    assert share < 0.03
    assert 0 < chance < 0.02
    shifted_NP = (
        noise_NP + 3.0 * (groups == "a")[:, None]
    )  # the variance between is 2.25 a dimension, within 1
    share, _ = acquisition.explained(shifted_NP, groups)
    assert abs(share - 2.25 / 3.25) < 0.04
    assert acquisition.explained(np.zeros((4, 2)), np.array(["a", "b", "a", "b"])) == (0.0, 0.0)


def test_the_section_has_a_picture_of_densities_dose_and_features(evaluated, recipe) -> None:
    inputs = read_inputs(evaluated, recipe, run=RUN)
    found = acquisition.section(inputs)
    assert isinstance(found, Section)
    (figure,) = found.figures
    names = [panel.name for panel in figure.panels]
    assert names == ["kernels-laa950", "kernels-perc15", "kernels-exposure-mas", "kernels-features"]
    known = inputs.usable["kernel"].notna().sum()
    assert f"{known} scans with a known kernel" in figure.n
    assert "explains" in found.paragraphs[0]
    (table,) = figure.tables
    assert {row[0] for row in table.rows} == set(inputs.usable["kernel"].dropna())
    assert sum(int(row[2]) for row in table.rows) == known


def test_without_a_known_kernel_there_is_no_section(evaluated, recipe) -> None:
    inputs = read_inputs(evaluated, recipe, run=RUN)
    unknown = dataclasses.replace(inputs, ledger=inputs.ledger.assign(kernel=None))
    assert isinstance(acquisition.section(unknown), Omitted)
