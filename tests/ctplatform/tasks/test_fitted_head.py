"""A head as numbers predicts what the head predicts."""

import numpy as np
import pytest

from ctplatform.metrics.scores import Targets
from ctplatform.tasks.fitted_head import FittedHead
from ctplatform.tasks.heads import Ridge
from ctplatform.tasks.registry import get_task


def example(name: str) -> tuple[np.ndarray, Targets]:
    rng = np.random.default_rng(0)
    x_NP = rng.normal(3, [1, 2, 5, 0.1], (60, 4))
    score_N = (x_NP[:, 0] - 3) + rng.normal(0, 0.3, 60)
    match get_task(name).kind:
        case "regression":
            return x_NP, Targets(np.clip(0.5 + 0.2 * score_N, 0, 1))
        case "ordinal":
            return x_NP, Targets(np.digitize(score_N, [-1, 0, 1]).astype(float))
        case "binary":
            return x_NP, Targets((score_N > 0.4).astype(float))
        case "count":
            return x_NP, Targets(rng.poisson(np.exp(score_N)).astype(float))
    time = rng.exponential(900 * np.exp(-score_N))
    return x_NP, Targets(np.minimum(time, 1500), time <= 1500)


@pytest.mark.parametrize(
    "name", ["emphysema_extent", "gold_stage", "emphysema", "exacerbation_count", "survival"]
)
def test_predictions_are_the_heads_after_a_round_trip(name):
    task, (x_NP, targets) = get_task(name), example(name)
    head = task.probe().fit(x_NP, targets, seed=0)
    fitted = FittedHead.of(task, head)
    valid = tuple(None if np.isinf(end) else end for end in fitted.valid)
    again = FittedHead.from_tensors(fitted.tensors(), kind=task.kind, valid=valid)
    new_NP = np.random.default_rng(1).normal(3, [1, 2, 5, 0.1], (20, 4))
    np.testing.assert_allclose(again.predict(new_NP), task.clip(head.predict(new_NP)), rtol=1e-9, atol=1e-9)
    assert again.valid == fitted.valid


def test_the_survival_curve_is_that_of_lifelines():
    task, (x_NP, targets) = get_task("survival"), example("survival")
    head = task.probe().fit(x_NP, targets, seed=0)
    fitted = FittedHead.of(task, head)
    components = head._standardise(x_NP) @ head._basis_PK[:, : head.components_]
    expected = head.model_.predict_survival_function(components)  # at the times of events and of censoring
    curve_NT = fitted.survival(x_NP, expected.index.to_numpy())
    np.testing.assert_allclose(curve_NT, expected.to_numpy().T, rtol=1e-9)
    between = fitted.survival(
        x_NP, np.array([0.0, fitted.times_T[3], (fitted.times_T[3] + fitted.times_T[4]) / 2])
    )
    assert (between[:, 0] == 1).all()
    np.testing.assert_array_equal(between[:, 1], between[:, 2])  # a step function


def test_a_head_of_another_class_is_not_turned_into_numbers():
    class Own(Ridge):
        pass

    task, (x_NP, targets) = get_task("emphysema_extent"), example("emphysema_extent")
    assert FittedHead.of(task, Own().fit(x_NP, targets, seed=0)) is None
