"""Label maps show truth and every initialisation in the colours of the legend."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from ctplatform.config.loader import load_recipe
from ctplatform.report.inputs import read_inputs
from ctplatform.report.page import VARIABLES
from ctplatform.report.sections import (
    maps,
)
from tests.ctplatform.report.workspace import RUN


def test_maps_show_truth_and_every_initialisation_in_their_colours(evaluated):
    inputs = read_inputs(evaluated, load_recipe("demo"), run=RUN)
    section = maps.section(inputs)
    subtypes, nodules = section.figures
    assert [key.label for key in subtypes.keys] == ["Centrilobular", "Panlobular", "Paraseptal"]
    assert [key.label for key in nodules.keys] == ["Nodule"]
    assert len(subtypes.images) == 3
    picture = Image.open(io.BytesIO(subtypes.images[0].data))
    assert picture.width == 4 * 120 + 3 * maps.GAP  # CT, truth, DrasCLR, density
    pixels = np.asarray(picture.convert("RGB")).astype(int)[maps.HEAD :]
    grey = pixels[:, :120]
    assert np.abs(grey[..., 0] - grey[..., 2]).mean() < 8
    truth = pixels[:, 120 + maps.GAP : 240 + maps.GAP]
    assert (truth[..., 0] - truth[..., 2] > 60).any()  # orange
    assert (truth[..., 2] - truth[..., 0] > 60).any()  # sky
    (table,) = subtypes.tables
    assert len(table.rows) == 3 * 4
    assert table.header[:3] == ("Subject", "Class", "True")
    assert {key.colour for figure in section.figures for key in figure.keys} <= set(VARIABLES)


def test_a_page_without_label_maps_says_so(evaluated, tmp_path):
    inputs = read_inputs(evaluated, load_recipe("demo"), run="another-run")
    assert "no task on label maps" in maps.section(inputs).reason
