"""The tasks that density fails at: the claim's arithmetic and its tables, on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from ctplatform.metrics.scores import Targets
from tests.benchmarks import evidence_own_pages, evidence_tasks
from tests.benchmarks.evidence import OTHER_PARTS, phases
from tests.benchmarks.evidence_parts import FRESH, SEEDS, VARIED, Evidence, recipe_of
from tests.benchmarks.evidence_scores import Score


def scored(truth: dict[str, np.ndarray], noise: float, *, seeds: int, metric: str = "spearman") -> Score:
    rng = np.random.default_rng(seeds)
    return Score(
        {
            cohort: [[values + noise * rng.normal(size=len(values))] for _ in range(seeds)]
            for cohort, values in truth.items()
        },
        {cohort: Targets(values) for cohort, values in truth.items()},
        metric,
    )


@pytest.mark.parametrize(("better", "holds"), [(2, True), (1, False)])
def test_the_claim_needs_two_tasks(better: int, holds: bool) -> None:
    rng = np.random.default_rng(0)
    truth = {cohort: rng.normal(size=45) for cohort in VARIED}
    pairs = {
        f"task {number}": (
            scored(truth, 0.2 if number < better else 3.0, seeds=3),
            scored(truth, 3.0, seeds=1),
        )
        for number in range(4)
    }
    claim = evidence_tasks.claim_of(pairs)
    assert claim["holds"] is holds
    assert claim["n"] == 90
    above = [task for task, found in claim["tasks"].items() if found["interval"][0] > 0]
    assert above == [f"task {number}" for number in range(better)]
    differences = [found["difference"] for found in claim["tasks"].values()]
    assert claim["difference"] == pytest.approx(np.mean(differences), abs=1e-3)
    assert claim["interval"][0] < claim["difference"] < claim["interval"][1]


def test_cohorts_are_fresh_and_their_encoders_those_of_the_evidence() -> None:
    assert not set(VARIED.values()) & {0, 101, 2026, 3001, 3002, *FRESH.values()}
    for cohort, seed in VARIED.items():
        recipe = recipe_of(cohort)
        assert recipe.phantom is not None
        assert recipe.phantom.seed == seed
        assert recipe.pretrain == recipe_of("development").pretrain
        assert recipe.split.test_fraction == 0.5


def test_every_part_can_be_run(tmp_path) -> None:
    evidence = Evidence(tmp_path)
    parts = [part for phase in evidence_tasks.phases(evidence) for part in phase]
    assert len({path for path, _ in parts}) == len(parts)
    for _, (method, cohort, *_) in parts:
        assert method in OTHER_PARTS or hasattr(Evidence, method)
        assert cohort in VARIED
    only = [part for phase in phases(evidence, only=[evidence_tasks.NAME]) for part in phase]
    assert parts == only[-len(parts) :]
    whole = [part for phase in phases(evidence) for part in phase]
    # Networks that no claim compares with are trained with `--only` alone.
    assert [part for part in parts if part not in whole] == [
        part for part in parts if part[1][0] == "task_networks"
    ]


def test_zones_cover_all_locations() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 4)] * 3), -1).reshape(-1, 3)
    zone_N = evidence_tasks.zones_of(grid)
    assert set(zone_N) == set(range(6))
    for zone in range(6):
        assert np.ptp(grid[zone_N == zone, 2]) <= 2 / 3


def test_means_of_zones_keep_the_place_that_the_mean_drops() -> None:
    rng = np.random.default_rng(0)
    upper_S = rng.random(80) < 0.5
    x_SND = 0.1 * rng.normal(size=(80, 6, 2))
    x_SND[np.arange(80), np.where(upper_S, 4, 1), 0] += 1  # the same amount, above or below
    found = evidence_tasks.pooled(x_SND, range(40), np.arange(6))
    assert found["mean"].shape == (80, 2)
    assert found["zones"].shape == (80, 12)
    difference = found["zones"][upper_S].mean(0) - found["zones"][~upper_S].mean(0)
    assert difference[8] > 1.5
    assert difference[2] < -1.5
    assert np.abs(found["mean"][upper_S].mean(0) - found["mean"][~upper_S].mean(0)).max() < 0.2


def test_tables_show_every_task_and_method() -> None:
    found = {"value": 0.8, "other": 0.6, "difference": 0.2, "interval": [0.1, 0.3], "metric": "auroc"}
    tasks = dict.fromkeys(evidence_tasks.tasks(), found)
    assert set(tasks) == set(evidence_own_pages.TASKS)
    claim = {
        "tasks": tasks,
        "labels": 45,
        "few_labels": {"labels": 8, "tasks": tasks},
        "against": {evidence_tasks.ZONES: tasks},
        "counts": {task: {"train": 90, "test": 90} for task in tasks},
        "scores": {
            name: {task: {"45": [0.5] * (3 if seeds == SEEDS else 1)} for task in tasks}
            for name, seeds in evidence_tasks.FROZEN.items()
        },
    }
    claim["kept_place"] = {"local": {"mean": dict.fromkeys(tasks, 0.61), "zones": dict.fromkeys(tasks, 0.72)}}
    text = evidence_own_pages.tasks_section(claim)
    assert text.count("| 0.61 ") == text.count("| 0.72 ") == len(tasks)
    assert text.count("0.80 / 0.60 +0.20 (+0.10 to +0.30) *") == 3 * len(tasks)
    assert "0.50 / 0.50 / 0.50" in text
    assert "from scratch" not in text
