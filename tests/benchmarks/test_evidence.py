"""The evidence's measures on data whose answer is known."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from ctplatform.config.recipe import PhantomConfig
from ctplatform.metrics.scores import Targets
from tests.benchmarks import encoded
from tests.benchmarks.cost import CpuTime
from tests.benchmarks.scores import Scores


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_variance_is_told_apart_by_place_and_scan(rng):
    place_LD, scan_ND = rng.normal(size=(40, 3)), rng.normal(size=(60, 3))
    inside_NL = np.ones((60, 40))
    vectors_NLD = 2 * place_LD[None] + 1 * scan_ND[:, None] + np.zeros((60, 40, 3))
    place, scan = encoded.variance_shares(vectors_NLD, inside_NL)
    assert place + scan == pytest.approx(1)
    expected = 4 * place_LD.var(0) / (4 * place_LD.var(0) + scan_ND.var(0))
    assert place == pytest.approx(expected.mean())
    noise, _ = encoded.variance_shares(rng.normal(size=(60, 40, 3)), inside_NL)
    assert noise < 0.05


def test_places_outside_of_a_scan_are_left_out(rng):
    vectors_NLD = np.repeat(rng.normal(size=(20, 1, 2)), 5, axis=1)
    vectors_NLD[3, 2] = 1e6
    inside_NL = np.ones((20, 5))
    inside_NL[3, 2] = 0.1
    assert encoded.variance_shares(vectors_NLD, inside_NL)[1] == pytest.approx(1)


def test_rank_counts_the_directions(rng):
    one, rank_one = encoded.spectrum(np.outer(rng.normal(size=50), rng.normal(size=8)))
    assert (one, rank_one) == (pytest.approx(1), pytest.approx(1))
    many, share = encoded.spectrum(rng.normal(size=(5000, 8)))
    assert many == pytest.approx(8, rel=0.01)
    assert share == pytest.approx(1 / 8, rel=0.1)


def test_explained_is_of_unseen_scans(rng):
    x_ND, weights_D = rng.normal(size=(200, 4)), rng.normal(size=4)
    y_N = x_ND @ weights_D
    assert encoded.explained(x_ND[:100], x_ND[100:], y_N[:100], y_N[100:]) > 0.99
    noise_N = rng.normal(size=200)
    assert encoded.explained(x_ND[:100], x_ND[100:], noise_N[:100], noise_N[100:]) < 0.1


def test_truths_are_those_of_the_generator():
    from ctplatform.phantom.subject import make_subject

    config = PhantomConfig(subjects=3, seed=5, spacing_mm=6.0, dicom_every=2)
    subject = make_subject(1, config=config)
    row = {"scan_id": subject.scan_id, "subject_id": subject.subject_id, **subject.labels}
    truth = encoded.truths(pd.DataFrame([row]), config).iloc[0]
    assert truth["density of healthy tissue (breath)"] == subject.parameters.person.tissue_hu
    assert truth["noise, log"] == np.log(subject.parameters.scanner.noise_hu)
    assert truth["centrilobular extent"] == subject.labels["centrilobular_extent"]


def test_a_difference_is_paired(rng):
    truth_N = rng.normal(size=60)
    scores = Scores({"fev1pp": "spearman"}, seeds=2)
    targets = Targets(truth_N)
    good, shared_noise = truth_N + 0.5 * rng.normal(size=60), rng.normal(size=60)
    for name, extra in (("drasclr", 0.0), ("random", 0.4)):
        runs = [[good + extra * shared_noise for _ in range(2)] for _ in range(3)]
        scores.add("fev1pp", name, 1.0, targets, runs, bootstrap=500, n_train=30)
    difference, low, high = scores.difference("fev1pp", ("drasclr", 1.0), ("random", 1.0))
    own = scores.cells["fev1pp", "drasclr", 1.0]
    assert low < difference < high
    assert high - low < np.ptp(np.quantile(own.draws_B, [0.025, 0.975])) * 2
    assert scores.difference("fev1pp", ("drasclr", 1.0), ("drasclr", 1.0)) == (0, 0, 0)
    assert len(own.by_run) == 3
    assert own.value == pytest.approx(np.mean(own.by_run))
    assert scores.n_test == 60


def test_cpu_time_counts_children():
    with CpuTime() as cpu:
        child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        child_seconds = 0.0
        while child_seconds < 0.5:
            times = psutil.Process(child.pid).cpu_times()
            child_seconds = times.user + times.system
            time.sleep(0.05)
        cpu.look()
        seen = cpu.seconds
        child.kill()
        child.wait()
    assert seen >= 0.5
    assert cpu.seconds >= seen  # what has ended stays counted
