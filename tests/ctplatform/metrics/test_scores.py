"""Scores against hand-computed values and independent implementations; intervals against repeated sampling."""

import numpy as np
import pytest

from ctplatform.metrics.bootstrap import resamples
from ctplatform.metrics.scores import METRICS, Targets


def targets(*values, events=None):
    return Targets(np.array(values, float), None if events is None else np.array(events, bool))


@pytest.mark.parametrize(
    ("name", "truth", "prediction", "expected"),
    [
        ("r2", [1, 2, 3, 4], [1, 2, 3, 5], 1 - 1 / 5),
        ("r2", [1, 2, 3], [2, 2, 2], 0.0),
        ("mae", [1, 2, 3, 4], [1, 2, 3, 6], 0.5),
        ("spearman", [1, 2, 3, 4], [10, 20, 40, 30], 0.8),  # 1 - 6 * 2 / (4 * 15)
        ("spearman", [1, 2, 3, 4], [7, 7, 7, 7], 0.0),
        ("exact", [0, 1, 2, 4], [0, 1, 1, 2], 0.5),
        ("within_one", [0, 1, 2, 4], [0, 1, 1, 2], 0.75),
        ("kappa", [0, 0, 1, 1], [0, 1, 0, 1], 0.0),
        ("kappa", [0, 0, 2, 2], [0, 0, 2, 1], 1 - (1 / 4) / (28 / 16)),
        ("auroc", [0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], 0.75),
        ("auroc", [0, 1], [0.5, 0.5], 0.5),
        ("auprc", [1, 0, 1], [0.9, 0.8, 0.7], (1 + 2 / 3) / 2),
        ("brier", [0, 1], [0.5, 1.0], 0.125),
    ],
)
def test_by_hand(name, truth, prediction, expected):
    assert METRICS[name].value(targets(*truth), np.array(prediction, float)) == pytest.approx(expected)


def test_concordance_by_hand():
    # Deaths at 1 and 3, censored at 2 and 4. Comparable: (1,2), (1,3), (1,4), (3,4).
    truth = targets(1, 2, 3, 4, events=[1, 0, 1, 0])
    assert METRICS["c_index"].value(truth, np.array([4.0, 1.0, 2.0, 3.0])) == pytest.approx(3 / 4)
    assert METRICS["c_index"].value(truth, np.zeros(4)) == 0.5


def test_concordance_agrees_with_lifelines_with_ties():
    from lifelines.utils import concordance_index

    rng = np.random.default_rng(0)
    for _ in range(5):
        time, event, risk = (
            rng.integers(1, 8, 40).astype(float),
            rng.random(40) < 0.6,
            rng.integers(0, 6, 40) / 2,
        )
        ours = METRICS["c_index"].value(Targets(time, event), risk)
        assert ours == pytest.approx(concordance_index(time, -risk, event), abs=1e-6)


def test_agrees_with_sklearn():
    from sklearn.metrics import average_precision_score, cohen_kappa_score, r2_score, roc_auc_score

    rng = np.random.default_rng(1)
    stage, guess = rng.integers(0, 5, 60).astype(float), rng.integers(0, 5, 60).astype(float)
    assert METRICS["kappa"].value(Targets(stage), guess) == pytest.approx(
        cohen_kappa_score(stage, guess, weights="quadratic")
    )
    assert METRICS["r2"].value(Targets(stage), guess) == pytest.approx(r2_score(stage, guess))
    ill, score = (rng.random(60) < 0.3).astype(float), rng.integers(0, 9, 60) / 8
    assert METRICS["auroc"].value(Targets(ill), score) == pytest.approx(roc_auc_score(ill, score), abs=1e-6)
    assert METRICS["auprc"].value(Targets(ill), score) == pytest.approx(average_precision_score(ill, score))


@pytest.mark.parametrize("name", sorted(METRICS))
def test_resampled_equals_one_by_one(name):
    """A resample's score is the score of the drawn subjects, each as often as drawn."""
    rng = np.random.default_rng(2)
    binary = name in ("auroc", "auprc", "brier")
    value = (rng.random(25) < 0.5).astype(float) if binary else rng.integers(1, 30, 25).astype(float)
    truth = Targets(value, rng.random(25) < 0.7 if name == "c_index" else None)
    prediction = rng.random(25) if binary else rng.integers(1, 30, 25).astype(float)
    rows = resamples(25, count=20, seed=3)
    one_by_one = [METRICS[name].value(truth.take(row), prediction[row]) for row in rows]
    assert METRICS[name].score(truth, prediction, rows) == pytest.approx(one_by_one, abs=1e-6)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_chance_is_what_an_uninformed_prediction_gets(name):
    rng = np.random.default_rng(4)
    draw = (
        (lambda n: (rng.random(n) < 0.3).astype(float))
        if name in ("auroc", "auprc", "brier")
        else (lambda n: rng.integers(0, 5, n).astype(float))
    )
    events = (np.ones(2000, bool),) if name == "c_index" else ()
    train, test = Targets(draw(2000), *events), Targets(draw(2000), *events)
    chance = METRICS[name].chance(train, test)
    shuffled = METRICS[name].value(test, rng.permutation(test.value_N))
    if name in ("spearman", "kappa", "auroc", "auprc", "c_index"):
        assert shuffled == pytest.approx(chance, abs=0.06)
    elif METRICS[name].higher_is_better:
        assert shuffled < chance + 0.05  # a constant is the better way of knowing nothing
    else:
        assert shuffled > chance
