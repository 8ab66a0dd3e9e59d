"""Patients' vectors are standardised with the statistics of the training scans, whatever the groups of scans."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctplatform.errors import StageError
from ctplatform.inference.embedder import Embedder
from ctplatform.inference.patient_vectors import read_group, standardised_patients
from ctplatform.inference.pooling import LocationStatistics, pool
from ctplatform.storage import layout
from ctplatform.training.runs import training_rows

RUN, ENCODER = "standardised", "random"


@pytest.fixture
def recipe(small_recipe):
    embed = small_recipe.embed.model_copy(update={"pooling": "standardised"})
    return small_recipe.model_copy(update={"embed": embed})


@pytest.fixture
def groups(workspace, recipe):
    """The training scans, embedded as two groups."""
    rows = training_rows(workspace, recipe).to_dict("records")
    embedder = Embedder(workspace, recipe, RUN)
    for name, part in (("one", rows[:3]), ("two", rows[3:])):
        embedder({"encoder": ENCODER, "group": name, "scans": json.dumps(part)})
    return ["one", "two"]


def test_training_scans_are_standardised(workspace, recipe, groups):
    table = standardised_patients(workspace, recipe, run=RUN, encoder=ENCODER, groups=groups).to_pandas()
    assert list(table["scan_id"]) == list(training_rows(workspace, recipe)["scan_id"])
    vectors_SP = np.stack(table["vector"])
    assert vectors_SP.shape[1] == 128
    parts = [read_group(workspace, RUN, ENCODER, group) for group in groups]
    vectors_SND, inside_SN = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    statistics = LocationStatistics.of(vectors_SND, inside_SN)
    expected_SP = pool(vectors_SND, inside_SN, "standardised", statistics)
    np.testing.assert_allclose(vectors_SP, expected_SP, atol=1e-3)
    assert np.abs(vectors_SP).max() > 0.1
    # A random encoder's statistics are none of the model's.
    assert not workspace.exists(*layout.representation(RUN))


def test_without_training_scans_there_are_no_statistics(workspace, recipe):
    with pytest.raises(StageError, match="no training scan"):
        standardised_patients(workspace, recipe, run=RUN, encoder=ENCODER, groups=[])
