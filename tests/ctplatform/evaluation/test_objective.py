"""The loss of a score: what it is for each kind of label, subject by subject, and what a score means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ctplatform.evaluation.objective import Objective
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task
from ctplatform.tasks.survival import partial_likelihood

#: A task of each kind.
KINDS = ("emphysema_extent", "gold_stage", "emphysema", "survival", "exacerbation_count")


def targets_of(task: str, seed: int, count: int = 24) -> Targets:
    rng = np.random.default_rng(seed)
    match get_task(task).kind:
        case "regression":
            return Targets(rng.normal(0.3, 0.2, count))
        case "survival":
            return Targets(rng.integers(1, 9, count).astype(float), rng.random(count) < 0.5)
        case "count":
            return Targets(rng.poisson(2.0, count).astype(float))
        case "binary":
            return Targets((np.arange(count) % 3 == 0).astype(float))
        case _:
            return Targets(rng.permutation(np.arange(count) % 4).astype(float))


def naive_losses(
    objective: Objective, score_N: np.ndarray, targets: Targets, trained: Targets
) -> list[float]:
    """The losses by their definitions, subject by subject."""
    kind, found = objective.task.kind, []
    for row, (score, value) in enumerate(zip(score_N, targets.value_N, strict=True)):
        if kind == "regression":
            found.append((score - (value - trained.value_N.mean()) / trained.value_N.std()) ** 2)
        elif kind == "count":
            found.append(np.exp(score) - value * score)
        elif kind == "survival":
            if targets.event_N[row]:
                at_risk = score_N[targets.value_N >= value]
                found.append(np.log(np.exp(at_risk).sum()) - score)
        else:
            terms = []
            for lower, threshold in zip(
                objective.classes[:-1], objective.thresholds.detach().numpy(), strict=True
            ):
                above = 1 / (1 + np.exp(threshold - score))
                terms.append(-np.log(above if value > lower else 1 - above))
            found.append(np.mean(terms))
    return found


@pytest.mark.parametrize("task", KINDS)
def test_losses_of_other_subjects_are_those_of_a_naive_reference(task):
    trained, other = targets_of(task, 0), targets_of(task, 1)
    objective = Objective(get_task(task), trained)
    score_N = np.random.default_rng(2).normal(size=len(other.value_N))
    losses = objective.losses_of(score_N, other)
    expected = naive_losses(objective, score_N, other, trained)
    assert len(losses) == (len(score_N) if other.event_N is None else other.event_N.sum())
    np.testing.assert_allclose(losses, expected, rtol=2e-5, atol=1e-6)
    assert objective.loss_of(score_N, other) == pytest.approx(losses.mean())


@pytest.mark.parametrize("task", KINDS)
def test_the_training_loss_is_the_mean_of_the_losses(task):
    trained = targets_of(task, 0)
    objective = Objective(get_task(task), trained)
    score_N = np.random.default_rng(3).normal(size=len(trained.value_N))
    loss = objective(torch.from_numpy(score_N).float(), torch.arange(len(score_N)))
    assert float(loss) == pytest.approx(objective.loss_of(score_N, trained), rel=1e-5)


@pytest.mark.parametrize("task", [task for task in KINDS if task != "survival"])
def test_a_subjects_loss_does_not_depend_on_the_others(task):
    objective, other = Objective(get_task(task), targets_of(task, 0)), targets_of(task, 1)
    score_N = np.random.default_rng(2).normal(size=len(other.value_N))
    rows = np.array([7, 2, 11])
    np.testing.assert_allclose(
        objective.losses_of(score_N[rows], other.take(rows)),
        objective.losses_of(score_N, other)[rows],
        rtol=1e-6,
    )


def test_subjects_without_events_have_no_losses():
    objective = Objective(get_task("survival"), targets_of("survival", 0))
    censored = Targets(np.arange(1.0, 6.0), np.zeros(5, bool))
    assert objective.losses_of(np.zeros(5), censored).shape == (0,)
    assert objective.loss_of(np.zeros(5), censored) == 0.0


def test_a_class_that_was_not_trained_on_counts_as_the_next_one_below():
    objective = Objective(get_task("gold_stage"), Targets(np.repeat([0.0, 1.0, 3.0], 4)))
    score_N = np.array([-0.5, 0.2, 1.0])
    between, below = (objective.losses_of(score_N, Targets(np.full(3, value))) for value in (2.0, 1.0))
    np.testing.assert_array_equal(between, below)


@pytest.mark.parametrize("task", KINDS)
def test_an_adopted_probe_predicts_what_it_did(task):
    """The head starts with the probe's score: decoded, it is the probe's prediction."""
    rng = np.random.default_rng(4)
    targets = targets_of(task, 0)
    x_NP = rng.normal(size=(len(targets.value_N), 3)) + targets.value_N[:, None] / 10
    probe = get_task(task).probe().fit(x_NP, targets, seed=0)
    objective = Objective(get_task(task), targets)
    weights_P, bias = objective.adopt(probe)
    expected = get_task(task).clip(probe.predict(x_NP))
    np.testing.assert_allclose(objective.decode(x_NP @ weights_P + bias), expected, rtol=1e-5, atol=1e-6)


def test_cox_loss_is_the_partial_likelihood():
    rng = np.random.default_rng(0)
    targets = Targets(rng.integers(1, 9, 20).astype(float), rng.random(20) < 0.5)
    score = rng.normal(size=20)
    objective = Objective(get_task("survival"), targets)
    loss = objective(torch.from_numpy(score).float(), torch.arange(20))
    assert float(loss) == pytest.approx(-partial_likelihood(score, targets) / targets.event_N.sum(), rel=1e-4)


def test_a_batch_without_events_has_no_gradient():
    objective = Objective(get_task("survival"), Targets(np.arange(1.0, 9), np.arange(8) > 5))
    score = torch.zeros(3, requires_grad=True)
    objective(score, torch.arange(3)).backward()
    assert score.grad.tolist() == [0, 0, 0]


def test_untrained_scores_mean_the_median_class():
    stage = np.repeat([0.0, 1.0, 2.0, 4.0], [3, 9, 2, 1])
    objective = Objective(get_task("gold_stage"), Targets(stage))
    assert objective.decode(np.zeros(2)).tolist() == [1.0, 1.0]
    assert objective.decode(np.array([-50.0, 50.0])).tolist() == [0.0, 4.0]
