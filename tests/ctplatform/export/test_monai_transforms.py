"""Transforms of the bundle: names, pooling, and what is refused. Whole scans run in test_monai_bundle."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctplatform.export.monai_transforms import SaveVectorsd


def test_vectors_are_saved_and_pooled_inside_the_scan(tmp_path):
    item = {
        "pred": torch.tensor([[1.0, 2.0], [3.0, 6.0], [50.0, 50.0]]),
        "inside": torch.tensor([1.0, 0.5, 0.1]),
        "scan": "s1",
    }
    assert SaveVectorsd("pred", str(tmp_path / "out"), "mean_std")(item) == item
    with np.load(tmp_path / "out" / "s1.npz") as found:
        np.testing.assert_allclose(found["patient_P"], [2, 4, 1, 2])
        np.testing.assert_array_equal(found["patches_NP"], item["pred"].numpy())


def test_pooling_that_needs_statistics_is_refused(tmp_path):
    with pytest.raises(ValueError, match="statistics of the training scans"):
        SaveVectorsd("pred", str(tmp_path), "standardised")
