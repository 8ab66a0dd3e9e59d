"""The map keeps groups together, is the same each time, and takes any number of scans."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from ctplatform.report.document import Omitted, Section
from ctplatform.report.inputs import read_inputs
from ctplatform.report.sections import embedding_map
from ctplatform.report.sections.embedding_map import levels, project
from tests.ctplatform.report.workspace import RUN


def two_groups(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    group = np.arange(count) % 2
    centres = rng.normal(size=(2, 16))
    return centres[group] + 0.1 * rng.normal(size=(count, 16)) + 50, group


@pytest.mark.parametrize(("count", "method"), [(6, "principal components"), (60, "t-SNE")])
def test_nearest_on_the_map_is_of_the_same_group(count, method):
    vectors, group = two_groups(count)
    points, by = project(vectors)
    assert (points.shape, by) == ((count, 2), method)
    distance = np.linalg.norm(points[:, None] - points, axis=2) + 1e9 * np.eye(count)
    assert (group[distance.argmin(1)] == group).all()
    np.testing.assert_array_equal(points, project(vectors)[0])


@pytest.mark.parametrize("count", [3, 4])
def test_few_or_equal_vectors_have_places(count):
    assert np.isfinite(project(two_groups(count)[0])[0]).all()
    assert np.isfinite(project(np.ones((count, 4)))[0]).all()
    assert np.isfinite(project(np.arange(count, dtype=float)[:, None])[0]).all()


def test_numbers_become_fifths_and_classes_keep_their_names():
    places, names = levels(pd.Series([*np.arange(100.0), np.nan]))
    assert places.value_counts().tolist() == [20] * 5
    assert np.isnan(places.iloc[-1])
    assert len(names) == 5
    places, names = levels(pd.Series([2.0, 0.0, np.nan, 0.0]))
    assert names == ["0", "2"]
    assert places.tolist()[:2] == [1, 0]
    places, names = levels(pd.Series(["b", "a", None, "a"]))
    assert (names, places.iloc[1]) == (["a", "b"], 0)
    many = pd.Series([f"kernel {i:02d}" for i in range(40)] * 2)
    places, names = levels(many)
    assert len(names) == 7
    assert int(places.isna().sum()) == 2 * 33


def test_columns_are_measures_acquisition_and_targets(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    found = embedding_map.section(inputs)
    assert isinstance(found, Section)
    (figure,) = found.figures
    titles = [panel.title for panel in figure.panels]
    assert {"Emphysema extent", "Lung volume", "Manufacturer", "Verdict", "Part of the split"} <= set(titles)
    assert len({panel.name for panel in figure.panels}) == len(figure.panels)
    assert figure.choice
    assert len(figure.tables[0].rows) == int(figure.n.split()[2])


def test_levels_of_small_and_close_numbers_are_told_apart():
    _, names = levels(pd.Series(np.linspace(1e-5, 9e-5, 50)))
    assert names[0] == "0.0000100 to 0.0000260"
    _, names = levels(pd.Series([0.0, 0.0, *np.linspace(1000.01, 1000.09, 50)]))
    assert len({end for name in names for end in name.split(" to ")}) == 6
    _, names = levels(pd.Series(np.linspace(-950, 950, 50)))
    assert names[0] == "\N{MINUS SIGN}950 to \N{MINUS SIGN}570"


def test_columns_of_the_scan_table_are_shown_without_ids_and_paths(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    scans = inputs.ledger[["scan_id", "subject_id"]].reset_index(drop=True)
    number = np.arange(len(scans))
    scan_table = scans.assign(
        path=[f"/data/{n}.nii.gz" for n in number],
        nodule_map=[f"/data/{n}-map.nii.gz" for n in number],
        remark=[f"remark {n}" for n in number],
        walk_m=100.0 + number,
        sex=np.where(number % 2, "f", "m"),
    )
    (figure,) = embedding_map.section(dataclasses.replace(inputs, scan_table=scan_table)).figures
    before = {panel.title for panel in embedding_map.section(inputs).figures[0].panels}
    assert {panel.title for panel in figure.panels} - before == {"walk_m (scan table)", "sex (scan table)"}
    (sex,) = (panel for panel in figure.panels if panel.title == "sex (scan table)")
    assert "f: " in sex.alt
    assert "m: " in sex.alt


def test_what_is_missing_is_said(evaluated, recipe):
    inputs = read_inputs(evaluated, recipe, run=RUN)
    few = dataclasses.replace(inputs, ledger=inputs.ledger.iloc[:2])
    assert isinstance(embedding_map.section(few), Omitted)
    none = dataclasses.replace(inputs, run="other")
    assert embedding_map.section(none) == Omitted("Map of the scans", "this run has no embeddings")
