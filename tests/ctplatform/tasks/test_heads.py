"""Heads on frozen vectors: right where theory says what is right, and never better than chance on noise."""

import numpy as np
import pytest

from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.tasks.heads import Cumulative, Poisson, Ridge, Standardiser


def signal(count, width, seed=0):
    """Vectors in which one direction of three carries the label."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=(count, 3))
    vectors = hidden @ rng.normal(size=(3, width)) + 0.3 * rng.normal(size=(count, width))
    return vectors, hidden[:, 0], rng


def test_ridge_leave_one_out_is_what_leaving_out_gives():
    """The penalty chosen in closed form is the one that refitting without each subject chooses."""
    x, y, rng = signal(12, 5)
    y = y + rng.normal(size=12)
    probe = Ridge().fit(x, Targets(y), seed=0)
    z = (x - x.mean(0)) / x.std(0)
    errors = []
    for penalty in Ridge.penalties:
        left_out = []
        for i in range(12):
            inside = np.arange(12) != i
            centre = z[inside].mean(0)
            a = z[inside] - centre
            w = np.linalg.solve(a.T @ a + penalty * np.eye(5), a.T @ (y[inside] - y[inside].mean()))
            left_out.append(y[i] - y[inside].mean() - (z[i] - centre) @ w)
        errors.append(np.mean(np.square(left_out)))
    chosen = errors[list(Ridge.penalties).index(probe.penalty_)]
    assert chosen <= min(errors) * 1.02
    assert probe.predict(x).mean() == pytest.approx(y.mean())


@pytest.mark.parametrize(("count", "width"), [(40, 128), (400, 16)])
def test_ridge_finds_signal(count, width):
    x, y, _ = signal(2 * count, width)
    probe = Ridge().fit(x[:count], Targets(y[:count]), seed=0)
    assert METRICS["r2"].value(Targets(y[count:]), probe.predict(x[count:])) > 0.7


def test_ridge_on_noise_stays_near_the_mean():
    rng = np.random.default_rng(1)
    values = []
    for _ in range(20):
        x, y = rng.normal(size=(60, 128)), rng.normal(size=60)
        probe = Ridge().fit(x[:30], Targets(y[:30]), seed=0)
        values.append(METRICS["r2"].value(Targets(y[30:]), probe.predict(x[30:])))
    assert -0.4 < np.mean(values) < 0.05


def test_ridge_does_not_depend_on_units():
    x, y, rng = signal(30, 10)
    scaled = x * rng.uniform(0.01, 100, 10) + 7
    a, b = (Ridge().fit(z[:20], Targets(y[:20]), seed=0).predict(z[20:]) for z in (x, scaled))
    assert a == pytest.approx(b)


def test_features_that_do_not_vary_are_harmless():
    x, y, _ = signal(20, 4)
    x[:, 2] = 5.0
    later = x.copy()
    later[:, 2] = 6.0
    probe = Ridge().fit(x, Targets(y), seed=0)
    assert probe.predict(later) == pytest.approx(probe.predict(x))


def test_cumulative_with_two_classes_is_logistic_regression():
    from sklearn.linear_model import LogisticRegression

    x, hidden, rng = signal(200, 6)
    ill = (hidden + rng.normal(size=200) > 0).astype(float)
    probe = Cumulative(probability=True)
    probe.penalties = (0.1,)
    probe.fit(x, Targets(ill), seed=0)
    z = (x - x.mean(0)) / x.std(0) / np.sqrt(6)
    peer = LogisticRegression(C=1 / (0.1 * 200), tol=1e-8, max_iter=1000).fit(z, ill)
    assert probe.predict(x) == pytest.approx(peer.predict_proba(z)[:, 1], abs=5e-3)


@pytest.mark.parametrize(("count", "width"), [(60, 128), (400, 16)])
def test_cumulative_orders_the_classes(count, width):
    x, hidden, _ = signal(2 * count, width)
    stage = np.digitize(hidden, [-0.5, 0.3, 1.0, 1.6]).astype(float)
    predicted = Cumulative().fit(x[:count], Targets(stage[:count]), seed=0).predict(x[count:])
    truth = Targets(stage[count:])
    assert METRICS["within_one"].value(truth, predicted) > 0.9
    assert METRICS["kappa"].value(truth, predicted) > 0.6
    assert set(predicted) <= {0.0, 1.0, 2.0, 3.0, 4.0}


def test_cumulative_without_signal_says_the_median_class():
    rng = np.random.default_rng(0)
    stage = np.repeat([0.0, 1.0, 2.0], [5, 20, 5])
    predicted = (
        Cumulative().fit(rng.normal(size=(30, 64)), Targets(stage), seed=0).predict(rng.normal(size=(50, 64)))
    )
    assert (predicted == 1.0).mean() > 0.8


def test_cumulative_never_predicts_a_class_that_it_was_not_shown():
    x, hidden, _ = signal(40, 8)
    stage = np.where(hidden > 0, 3.0, 1.0)
    assert set(Cumulative().fit(x, Targets(stage), seed=0).predict(x)) == {1.0, 3.0}


def test_poisson_recovers_a_log_linear_rate():
    rng = np.random.default_rng(0)
    x_NP = rng.normal(size=(400, 5))
    rate_N = np.exp(0.3 + x_NP @ np.array([0.6, -0.4, 0, 0, 0]))
    targets = Targets(rng.poisson(rate_N).astype(float))
    train, test = np.arange(200), np.arange(200, 400)
    head = Poisson().fit(x_NP[train], targets.take(train), seed=0)
    predicted = head.predict(x_NP[test])
    weights, bias = head.linear()
    assert predicted == pytest.approx(np.exp(x_NP[test] @ weights + bias))
    found, most = (METRICS["d2"].value(targets.take(test), p) for p in (predicted, rate_N[test]))
    assert most - 0.05 < found <= most + 0.02
    assert METRICS["d2"].value(
        targets.take(test), np.full(200, targets.value_N[test].mean())
    ) == pytest.approx(0)


def test_poisson_without_signal_says_the_mean():
    rng = np.random.default_rng(1)
    targets = Targets(rng.poisson(1.0, 60).astype(float))
    predicted = Poisson().fit(rng.normal(size=(60, 200)), targets, seed=0).predict(rng.normal(size=(50, 200)))
    assert np.abs(predicted - targets.value_N.mean()).max() < 0.35


@pytest.mark.parametrize("head", [Ridge(), Cumulative(probability=True), Cumulative()])
def test_the_linear_score_orders_as_the_predictions(head):
    x, hidden, _ = signal(60, 12)
    value = hidden if isinstance(head, Ridge) else (hidden > 0).astype(float)
    head.fit(x, Targets(value), seed=0)
    weights, bias = head.linear()
    score, predicted = x @ weights + bias, head.predict(x)
    if isinstance(head, Ridge):
        assert score == pytest.approx(predicted)
    elif head.probability:
        assert np.log(predicted / (1 - predicted)) == pytest.approx(score - head.thresholds_[0], abs=1e-6)
    else:
        assert ((score > head.thresholds_[0]) == (predicted == 1)).all()


def test_ridge_and_standardiser_agree_with_scikit_learn():
    from sklearn.linear_model import RidgeCV
    from sklearn.preprocessing import StandardScaler

    for count, width, noise in ((12, 5, 0.1), (40, 128, 1.0), (100, 128, 1.0), (200, 16, 10.0)):
        x, y, rng = signal(count, width)
        y = y + noise * rng.normal(size=count)
        scaled = StandardScaler().fit_transform(x)
        assert Standardiser(x)(x) == pytest.approx(scaled, abs=1e-12)
        ours, peer = Ridge().fit(x, Targets(y), seed=0), RidgeCV(alphas=Ridge.penalties).fit(scaled, y)
        assert ours.penalty_ == peer.alpha_
        assert ours.predict(x) == pytest.approx(peer.predict(scaled), abs=1e-10)
