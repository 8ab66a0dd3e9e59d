"""The number of fine-tuning steps: chosen by subjects that were left out, and none where they do not gain."""

import numpy as np
import pytest

from ctplatform.evaluation.early_stopping import Choice, choose, chosen_steps, fold_rows
from ctplatform.metrics.scores import Targets
from ctplatform.tasks.registry import get_task


def test_every_subject_is_validated_once_and_never_trained_on_beside():
    task, targets = get_task("gold_stage"), Targets(np.repeat([0.0, 1.0, 2.0, 3.0], 6))
    pairs = fold_rows(task, targets, count=3, seed=0)
    assert sorted(np.concatenate([outside for _, outside in pairs])) == list(range(24))
    for inside, outside in pairs:
        assert sorted([*inside, *outside]) == list(range(24))
        assert set(targets.value_N[outside]) == {0.0, 1.0, 2.0, 3.0}  # stratified


def test_too_few_subjects_or_events_are_not_validated():
    assert fold_rows(get_task("emphysema_extent"), Targets(np.arange(5.0)), count=3, seed=0) == []
    few = Targets(np.arange(9.0), np.arange(9) < 2)
    assert fold_rows(get_task("survival"), few, count=3, seed=0) == []
    assert chosen_steps(lambda *_: pytest.fail("no fold"), [], (1, 2)) == Choice(0)


def test_a_clear_gain_is_taken_at_its_best_mark():
    rng = np.random.default_rng(0)
    probe = 1 + 0.1 * rng.random(30)
    losses = np.stack(
        [probe, probe - 0.2 - 0.05 * rng.random(30), probe - 0.5 - 0.05 * rng.random(30), probe - 0.3]
    )
    found = choose(losses, (4, 8, 12))
    assert found.steps == 8
    assert found.gain == pytest.approx((losses[0] - losses[2]).mean())
    assert found.error == pytest.approx((losses[0] - losses[2]).std(ddof=1) / np.sqrt(30))
    assert found.validated == 30


@pytest.mark.parametrize("change", [0.05, np.nan, np.inf, 1e30])
def test_without_a_gain_the_probe_stays(change):
    rng = np.random.default_rng(1)
    probe = rng.random(12)
    assert choose(np.stack([probe, probe + change, probe + 2 * change]), (3, 6)).steps == 0


def test_a_gain_within_one_standard_error_is_none():
    probe = np.ones(16)
    noisy = probe - np.where(np.arange(16) % 2, 1.1, -1.0)  # mean gain 0.05, standard error 0.27
    assert choose(np.stack([probe, noisy]), (5,)).steps == 0


def test_noise_is_rarely_taken_for_a_gain():
    rng = np.random.default_rng(2)
    taken = [choose(np.stack([np.zeros(20), *rng.normal(size=(1, 20))]), (5,)).steps > 0 for _ in range(400)]
    assert np.mean(taken) < 0.25  # one standard error: 16%


def test_losses_of_all_folds_are_compared_together():
    table = {0: [[1.0, 1.0], [0.0, 0.1]], 1: [[1.0, 1.0], [0.2, 0.1]]}
    rows = [(np.array([1]), np.array([0])), (np.array([0]), np.array([1]))]
    found = chosen_steps(lambda inside, outside: np.array(table[int(outside[0])]), rows, (7,))
    assert (found.steps, found.validated) == (7, 4)
    assert found.gain == pytest.approx(0.9)
