"""The head on windows."""

import numpy as np
import pytest

from ctplatform.evaluation.dense.head import PRIORS, WindowHead, best_prior, log_frequency, mean_dice


def test_the_head_finds_rare_classes_and_says_nothing_of_absent_ones():
    rng = np.random.default_rng(0)
    classes = rng.choice(4, 600, p=[0.85, 0.1, 0.0, 0.05])
    x = np.eye(4)[classes] @ rng.normal(size=(4, 20)) * 2 + rng.normal(size=(600, 20))
    subjects = np.arange(600) % 6
    head = WindowHead(4).fit(x[:400], classes[:400], np.ones(400), subjects[:400], seed=0)
    called = head.predict(x[400:]).argmax(1)
    for c in (1, 3):
        assert (called[classes[400:] == c] == c).mean() > 0.8
    assert head.predict(x).sum(1) == pytest.approx(1.0)
    assert (head.predict(x)[:, 2] < 1e-6).all()
    weights, bias = head.linear()
    scores = x @ weights.T + bias - head.prior_ * head.log_frequency_C
    np.testing.assert_array_equal(scores.argmax(1), head.predict(x).argmax(1))


def test_mean_dice_by_hand_and_without_any_rare_class():
    true, called = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 0, 2])
    assert mean_dice(called, true, np.ones(5), 3) == pytest.approx((2 * 1 / 4 + 1) / 2)
    assert mean_dice(called, true, np.array([1.0, 3, 1, 1, 1]), 3) == pytest.approx((2 * 1 / 6 + 1) / 2)
    assert mean_dice(called, np.zeros(5, int), np.ones(5), 3) == 0


def test_the_prior_that_finds_the_rare_class_is_chosen():
    rng = np.random.default_rng(0)
    classes = (rng.random(2000) < 0.05).astype(int)
    evidence = 3 * classes + rng.normal(size=2000)  # with the frequencies, a posterior
    frequency = log_frequency(classes, np.ones(2000), 2)
    scores = np.c_[np.zeros(2000), 3 * evidence - 4.5] + frequency
    prior, value = best_prior(scores, classes, np.ones(2000), frequency)
    by_hand = {p: mean_dice((scores - p * frequency).argmax(1), classes, np.ones(2000), 2) for p in PRIORS}
    assert value == max(by_hand.values())
    assert by_hand[prior] == value


def test_frequencies_are_weighted_and_absent_classes_have_none():
    found = log_frequency(np.array([0, 0, 2]), np.array([1.0, 1.0, 2.0]), 4)
    assert found == pytest.approx([np.log(0.5), 0, np.log(0.5), 0])


def test_one_subject_or_one_class_still_gives_a_head():
    rng = np.random.default_rng(0)
    x, classes = rng.normal(size=(30, 3)), np.repeat([0, 1], 15)
    alone = WindowHead(2).fit(x, classes, np.ones(30), np.zeros(30), seed=0)
    assert (alone.penalty_, alone.prior_) == (WindowHead.penalties[1], 0.5)
    healthy = WindowHead(3).fit(x, np.zeros(30, int), np.ones(30), np.arange(30) % 5, seed=0)
    assert (healthy.predict(x).argmax(1) == 0).all()
