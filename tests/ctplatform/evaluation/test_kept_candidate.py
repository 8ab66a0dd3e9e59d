"""Validation scores of models that may be kept; tests/ctplatform/evaluation/test_kept_heads.py reads whole cards."""

import numpy as np

from ctplatform.evaluation.kept_candidate import finite, validation
from ctplatform.metrics.scores import METRICS, Targets


def test_a_score_out_of_fold_is_that_of_the_metric():
    train, predicted_N = Targets(np.array([0.0, 1.0, 2.0])), np.array([0.0, 1.0, 1.0])
    found = validation(METRICS["mae"], train, predicted_N, folds=3)
    assert found == {"metric": "mae", "value": float(np.mean([0, 0, 1])), "subjects": 3, "folds": 3}
    assert validation(METRICS["mae"], train, None, folds=3)["value"] is None


def test_what_is_no_number_is_none():
    assert [finite(v) for v in (None, float("nan"), float("inf"), 1)] == [None, None, None, 1.0]
