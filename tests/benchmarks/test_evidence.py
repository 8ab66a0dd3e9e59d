"""The evidence's measures on data whose answer is known."""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np
import pandas as pd
import psutil
import pytest

from ctplatform.config.loader import load_recipe
from ctplatform.config.recipe import PhantomConfig
from ctplatform.config.section import flatten
from ctplatform.metrics.scores import Targets
from tests.benchmarks import encoded, evidence_efficiency, evidence_parts, evidence_variants
from tests.benchmarks.cost import CpuTime
from tests.benchmarks.evidence_scores import Score, difference, seed_means


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


def scored(truth_T: np.ndarray, runs: list[list[np.ndarray]]) -> Score:
    return Score({"first": runs}, {"first": Targets(truth_T)}, "spearman")


def test_a_difference_is_paired(rng):
    truth_T = rng.normal(size=60)
    good_T, shared_T = truth_T + 0.5 * rng.normal(size=60), rng.normal(size=60)
    ours = scored(truth_T, [[good_T, good_T] for _ in range(3)])
    other = scored(truth_T, [[good_T + 0.4 * shared_T] * 2 for _ in range(3)])
    found, draws_B = difference(ours, other)
    assert found.low < found.value < found.high
    own_B = seed_means(ours)
    assert found.high - found.low < np.ptp(np.quantile(own_B, [0.025, 0.975])) * 2
    assert found.value == pytest.approx(found.first - found.second)
    assert np.quantile(draws_B, 0.025) == pytest.approx(found.low)
    same, _ = difference(ours, ours)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert ours.values().shape == (3,)


def test_seeds_are_drawn_too(rng):
    truth_T = rng.normal(size=200)
    steady = scored(truth_T, [[truth_T]] * 3)
    unsteady = scored(truth_T, [[truth_T], [truth_T], [rng.normal(size=200)]])
    found, _ = difference(steady, unsteady)
    # All three draws may be the third seed's, or none of them.
    assert found.low == pytest.approx(0, abs=0.02)
    assert found.high > 0.9
    assert found.value == pytest.approx(1 / 3, abs=0.05)


def test_cohorts_are_averaged_and_resampled_apart(rng):
    truth = {name: rng.normal(size=80) for name in ("first", "second")}
    targets = {name: Targets(values) for name, values in truth.items()}
    score = Score({"first": [[truth["first"]]], "second": [[rng.normal(size=80)]]}, targets, "spearman")
    assert score.of("first").values()[0] == pytest.approx(1)
    assert score.values()[0] == pytest.approx((1 + score.of("second").values()[0]) / 2)


def test_the_recipe_of_the_evidence_is_that_of_the_demo():
    demo, evidence = load_recipe("demo"), evidence_parts.recipe_of("development")
    changed = {"epochs", "max_steps", "num_workers", "checkpoint_every"}
    plain, own = demo.pretrain.model_dump(), evidence.pretrain.model_dump()
    assert {key for key in plain if plain[key] != own[key]} == changed
    assert evidence.phantom.model_dump(exclude={"subjects"}) == demo.phantom.model_dump(exclude={"subjects"})
    fresh = evidence_parts.recipe_of("first")
    assert fresh.phantom.seed not in (0, 101, 2026, 3001, 3002)
    assert fresh.pretrain == evidence.pretrain


def settings(variant: str) -> dict[str, object]:
    return flatten("", evidence_parts.recipe_of("development", variant).pretrain.model_dump(mode="json"))


@pytest.mark.parametrize("claim", evidence_variants.COMPARED)
def test_compared_variants_differ_in_the_part_and_in_steps(claim):
    first, second = (settings(variant) for variant in evidence_variants.COMPARED[claim])
    changed = {key.strip(".") for key in first if first[key] != second[key]}
    batch = {"scans_per_batch", "locations_per_batch"}
    expected = {
        "conditioning_pays": {"encoder.conditioning", "encoder.experts"},
        "global_pays": {"beta"},
        "encode_once_loses_nothing": {"encode_once"} | batch,
    }
    assert changed == expected[claim] | {"max_steps"}


def test_the_efficiency_is_that_of_the_first_demo_and_of_todays():
    old, new = (evidence_efficiency.recipe_of(case, 1) for case in evidence_efficiency.CASES)
    assert (old.pretrain.max_steps, old.pretrain.beta, old.pretrain.augmentation.translation) == (200, 1, 12)
    demo, seen = load_recipe("demo").pretrain.model_dump(), new.pretrain.model_dump()
    assert {key for key in demo if demo[key] != seen[key]} == {"num_workers", "seed"}
    assert new.embed.pooling in evidence_efficiency.POOLINGS


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


def test_interrupted_pretraining_costs_what_all_its_steps_cost():
    run = {"cpu_seconds": 90.0, "steps": 400, "resumed_at": 100}
    assert evidence_variants.whole_cost(run) == pytest.approx(120)
    assert evidence_variants.whole_cost(run | {"resumed_at": 0}) == 90
