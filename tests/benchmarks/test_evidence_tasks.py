"""The tasks that density fails at: the claim's arithmetic and its tables, on data whose answer is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from ctplatform.dataset.splits import Split, write_split
from ctplatform.metrics.scores import Targets
from ctplatform.storage.layout import ATLAS, ATLAS_FILE
from drasclr.encoder import FEATURES
from tests.benchmarks import evidence_own_pages, evidence_tasks, evidence_zones
from tests.benchmarks.evidence import OTHER_PARTS, phases
from tests.benchmarks.evidence_parts import FRESH, SEEDS, VARIED, VARIED_DEVELOPMENT, Evidence, recipe_of
from tests.benchmarks.evidence_scores import LabelledCohort, Score, choice


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
    assert not set(VARIED.values()) & {
        0,
        101,
        2026,
        3001,
        3002,
        *FRESH.values(),
        *VARIED_DEVELOPMENT.values(),
    }
    for cohort, seed in (VARIED | VARIED_DEVELOPMENT).items():
        recipe = recipe_of(cohort)
        assert recipe.phantom is not None
        assert recipe.phantom.seed == seed
        assert recipe.pretrain == recipe_of("development").pretrain
        assert recipe.split.test_fraction == 0.5


def test_every_part_can_be_run(tmp_path) -> None:
    evidence = Evidence(tmp_path)
    parts = [part for phase in evidence_tasks.phases(evidence) for part in phase]
    assert len({path for path, _ in parts}) == len(parts)
    for _, (method, *arguments) in parts:
        assert method in OTHER_PARTS or hasattr(Evidence, method)
        assert arguments or method == "task_choose"
    chosen_at = [method for _, (method, *_) in parts].index("task_choose")
    assert {arguments[0] for _, (_, *arguments) in parts[:chosen_at]} == set(VARIED_DEVELOPMENT)
    assert {arguments[0] for _, (_, *arguments) in parts[chosen_at + 1 :]} == set(VARIED)
    only = [part for phase in phases(evidence, only=[evidence_tasks.NAME]) for part in phase]
    assert parts == only[-len(parts) :]
    whole = [part for phase in phases(evidence) for part in phase]
    # Networks that no claim compares with are trained with `--only` alone, and the choice is made there.
    aside = [
        part
        for part in parts
        if part[1][0] in ("task_networks", "task_choose") or part[1][1] in VARIED_DEVELOPMENT
    ]
    assert [part for part in parts if part not in whole] == aside


def test_the_choice_of_before_is_kept(tmp_path) -> None:
    evidence = Evidence(tmp_path)
    evidence_tasks.keep_choice(evidence)
    kept = json.loads(evidence_tasks.representation_file(evidence).read_text())
    assert kept["local"]["pooling"] == "standardised_gradient"
    for found in kept.values():
        assert f"{found['features']} {found['pooling']}" == max(found["means"], key=found["means"].get)


def test_zones_cover_all_locations() -> None:
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, 4)] * 3), -1).reshape(-1, 3)
    zone_N = evidence_zones.zones_of(grid)
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
        "against": {evidence_zones.ZONES: tasks},
        "counts": {task: {"train": 90, "test": 90} for task in tasks},
        "scores": {
            name: {task: {"45": [0.5] * (3 if seeds == SEEDS else 1)} for task in tasks}
            for name, seeds in evidence_tasks.FROZEN.items()
        },
    }
    claim |= {"difference": 0.11, "interval": [0.01, 0.21]}
    claim["against_means"] = {evidence_zones.ZONES: {"difference": -0.12, "interval": [-0.22, 0.02]}}
    kept = {"mean": 0.61, "zones": 0.72, "standardised_spread": 0.63, "standardised_gradient": 0.74}
    claim["kept_place"] = {"local": {name: dict.fromkeys(tasks, score) for name, score in kept.items()}}
    candidates = {"last mean": 0.41, "last standardised_gradient": 0.57}
    claim["representation"] = {
        "local": {"chosen": "last standardised_gradient", "candidates": candidates},
        "random": {"chosen": "last mean", "candidates": candidates},
    }
    text = evidence_own_pages.tasks_section(claim)
    for score in kept.values():
        assert text.count(f"| {score} ") == len(tasks)
    assert "+0.11 (+0.01 to +0.21) *" in text
    assert "-0.12 (-0.22 to +0.02) |" in text
    assert "| last mean | 0.410 | **0.410** |" in text
    assert "| last standardised_gradient | **0.570** | 0.570 |" in text
    assert text.count("0.80 / 0.60 +0.20 (+0.10 to +0.30) *") == 3 * len(tasks)
    assert "0.50 / 0.50 / 0.50" in text
    assert "from scratch" not in text


def test_the_pooling_that_keeps_place_is_chosen_where_place_is_the_label(tmp_path, small_atlas) -> None:
    """Subjects with the same amount of something, above or below: the gradient shows where, mean and spread do not."""
    evidence, cohort = Evidence(tmp_path), next(iter(VARIED_DEVELOPMENT))
    rng = np.random.default_rng(0)
    subjects = tuple(f"{number:02}" for number in range(40))
    workspace = evidence.workspace(cohort)
    workspace.write_json(small_atlas.to_json(), ATLAS, ATLAS_FILE)
    write_split(workspace, Split(train=subjects[:30], test=subjects[30:]))
    height_N = small_atlas.centres_mm_N3[:, 2]
    upper_S = np.arange(len(subjects)) % 2 == 0
    x_SND = rng.normal(size=(len(subjects), len(height_N), FEATURES))
    rising_SN = np.where(upper_S, 1, -1)[:, None] * (height_N - height_N.mean()) / height_N.std()
    x_SND[:, :, : FEATURES // 4] += 0.5 * rising_SN[:, :, None]
    for seed in SEEDS:
        path = evidence.features_file(cohort, "local", seed)
        path.parent.mkdir(exist_ok=True)
        np.savez(path, subjects=np.array(subjects), vectors=x_SND)
    task = evidence_tasks.tasks()["subtype"][0]
    sides = [(subjects[part], Targets(upper_S[part].astype(int))) for part in (slice(0, 30), slice(30, None))]
    problem = LabelledCohort(task, *sides[0], *sides[1], {subject: subject for subject in subjects})
    candidates = [(name, pooling) for name, pooling in evidence_tasks.REPRESENTATIONS if name == "last"]
    found = choice(evidence, "local", {(cohort, "subtype"): (problem, "auroc")}, candidates)
    assert (found["features"], found["pooling"]) == ("last", "standardised_gradient")
    assert set(found["means"]) == {f"last {pooling}" for _, pooling in candidates}
    assert found["means"]["last standardised_gradient"] > 0.8
    others = [score for name, score in found["means"].items() if name != "last standardised_gradient"]
    assert max(others) < 0.7
