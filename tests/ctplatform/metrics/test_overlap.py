"""Scores of label maps: by hand, against scikit-learn and MONAI, and over resamples of subjects."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from ctplatform.metrics.overlap import OVERLAP, SUBTYPES, pooled_auroc, pooled_dice, region_numbers
from ctplatform.metrics.scores import Targets

EVERYONE = np.arange(2)[None]


def certain(classes_M: np.ndarray, count: int = 4) -> np.ndarray:
    return np.eye(count)[classes_M] * 0.97 + 0.0075


def test_pooled_dice_by_hand():
    # Two subjects, cells of 10 voxels: one is called right in half of its centrilobular cells, one is healthy.
    sick = region_numbers(np.diag([10, 10])[[0, 1, 1]], np.zeros(2), certain(np.array([0, 1, 0]), 2))
    healthy = region_numbers(np.array([[10, 0], [10, 0]]), np.array([0, 0]), certain(np.array([0, 1]), 2))
    numbers = np.stack([sick, healthy])
    assert pooled_dice(numbers, EVERYONE, 1)[0] == pytest.approx(2 * 10 / (20 + 20))
    each = pooled_dice(numbers, np.array([[0, 0], [1, 1]]), 1)
    assert each[0] == pytest.approx(2 * 10 / (10 + 20))
    assert np.isnan(each[1])  # nobody in that resample has the class


def test_voxels_outside_of_the_lung_mask_are_missed():
    counts = np.array([[30, 0], [0, 30]])
    found = region_numbers(counts, np.array([0, 30]), certain(np.array([0, 1]), 2))[None]
    assert pooled_dice(found, np.zeros((1, 1), int), 1)[0] == pytest.approx(2 * 30 / (30 + 60))
    assert pooled_auroc(found, np.zeros((1, 1), int), 1)[0] == pytest.approx(
        (30 * 30 + 30 * 15 * 0) / (60 * 30)
    )


def test_auroc_over_voxels_is_scikit_learns_up_to_the_bins():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, (2, 200, 2))
    probability = rng.beta(0.4, 1.0, (2, 200)) * 0.5 + 0.4 * counts[..., 1] / (counts.sum(2) + 1)
    numbers = np.stack(
        [region_numbers(c, np.zeros(2), np.stack([1 - p, p], 1)) for c, p in zip(counts, probability)]
    )
    score = np.repeat(probability.ravel()[:, None], 2, 1).ravel()
    truth, weight = np.tile([0, 1], 400), counts.reshape(-1, 2).ravel()
    expected = roc_auc_score(truth, score, sample_weight=weight)
    assert pooled_auroc(numbers, EVERYONE, 1)[0] == pytest.approx(expected, abs=0.005)


def test_a_perfect_map_scores_one_and_chance_is_below():
    counts = np.eye(4, dtype=int)[np.array([0, 0, 1, 2, 3])] * 8
    numbers = np.stack([region_numbers(counts, np.zeros(4), certain(counts.argmax(1)))] * 2)
    targets = Targets(np.stack([counts.sum(0)] * 2).astype(float))
    for name in ("dice_mean", *(f"{score}_{s}" for score in ("dice", "auroc") for s in SUBTYPES)):
        assert OVERLAP[name].value(targets, numbers) == pytest.approx(1.0), name
        assert OVERLAP[name].chance(targets, targets) <= 0.5
    assert OVERLAP["dice_panlobular"].chance(targets, targets) == pytest.approx(2 * 0.2 / 1.2)


def test_percentages_are_ranked_over_subjects():
    shares = np.array([0.1, 0.5, 0.3])
    numbers = []
    for share in shares:
        counts = np.zeros((100, 4), int)
        counts[np.arange(100), (np.arange(100) < 100 * share).astype(int)] = 1
        numbers.append(
            region_numbers(counts, np.zeros(4), certain((np.arange(100) < 60 * share).astype(int)))
        )
    metric = OVERLAP["percent_centrilobular"]
    assert metric.value(Targets(np.zeros((3, 4))), np.stack(numbers)) == pytest.approx(1.0)
    assert metric.value(Targets(np.zeros((3, 4))), np.stack(numbers)[[2, 1, 0]]) == pytest.approx(1.0)


def test_means_over_cases_leave_out_who_has_none():
    numbers = np.array([[[0.5, 10.0, np.nan]], [[np.nan, np.nan, 3.0]], [[1.0, 2.0, np.nan]]])
    targets = Targets(np.array([[1.0], [0.0], [1.0]]))
    values = {name: OVERLAP[name].value(targets, numbers) for name in ("dice", "hd95", "false_ml")}
    assert values == {"dice": 0.75, "hd95": 6.0, "false_ml": 3.0}
    assert np.isnan(OVERLAP["dice"].score(targets, numbers, np.array([[1, 1, 1]]))).all()
