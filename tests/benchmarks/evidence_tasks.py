"""The tasks that a density threshold fails at, as part of the evidence: parts, and the claim.

Two cohorts of recipe `varied` on which nothing was chosen, and the encoders of the other parts: pretrained on a cohort
of one scanner. The representation of a patient is chosen on two other cohorts of this recipe, among their training
subjects. A task is what the recipe says.

Legend: S subjects, N locations, K seeds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ctplatform.inference.pooling import Pooling
from ctplatform.metrics.bootstrap import interval
from ctplatform.metrics.scores import METRICS
from ctplatform.tasks.registry import get_task
from ctplatform.tasks.task import Task
from drasclr.encoder import FEATURES
from tests.benchmarks import evidence_scores as scores
from tests.benchmarks.evidence_networks import network
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    DENSITY,
    FEW,
    HISTOGRAM,
    MAIN,
    RANDOM,
    RESULT,
    SEEDS,
    STEPS_ALL,
    SUBSETS,
    VARIED,
    VARIED_DEVELOPMENT,
    Evidence,
    recipe_of,
    write_result,
)
from tests.benchmarks.evidence_zones import ZONES, zones, zones_of

NAME = "beats_density_where_density_fails"
LEAST = 2
SCRATCH, CEILING = "scratch", "ceiling"
FROZEN = {
    MAIN: SEEDS,
    RANDOM: SEEDS,
    BEST_RANDOM: SEEDS,
    DENSITY: (0,),
    ZONES: (0,),
    HISTOGRAM: (0,),
}
#: What a patient's representation is chosen from for these tasks; with the gradient it keeps place.
REPRESENTATIONS: tuple[tuple[str, Pooling], ...] = (
    *scores.REPRESENTATIONS,
    ("last", "standardised_gradient"),
    ("multiscale", "standardised_gradient"),
)
COMPARED_POOLINGS: tuple[Pooling, ...] = ("standardised_spread", "standardised_gradient")
Part = tuple[Path, list[str]]


def tasks() -> dict[str, tuple[Task, str]]:
    """The recipe's tasks, each with its metric."""
    recipe = recipe_of(next(iter(VARIED)))
    found = {name: get_task(name, recipe.tasks) for name in recipe.sweep.tasks}
    return {name: (task, "auroc" if task.kind == "binary" else "spearman") for name, task in found.items()}


def phases(evidence: Evidence, *, choose: bool = True) -> list[list[Part]]:
    """The parts, in phases; encoders are there already. A choice that was made is not made again.

    Args:
        evidence: the folder.
        choose: make the choice on the development cohorts, and not take the one that docs/evidence.json has.
    """

    def encoded(cohorts: dict[str, int]) -> list[list[Part]]:
        return [
            [(evidence.prepared(cohort), ["prepare", cohort]) for cohort in cohorts],
            [
                (evidence.features_file(cohort, encoder, seed), ["features", cohort, encoder, str(seed)])
                for cohort in cohorts
                for encoder in (MAIN, RANDOM)
                for seed in SEEDS
            ],
        ]

    choice = [[(representation_file(evidence), ["task_kept_choice"])]]
    if choose:
        choice = [*encoded(VARIED_DEVELOPMENT), [(representation_file(evidence), ["task_choose"])]]
    return [
        *([] if representation_file(evidence).exists() else choice),
        *encoded(VARIED),
        [
            (evidence.probed_file(cohort, encoder, seed), ["task_heads", cohort, encoder, str(seed)])
            for cohort in VARIED
            for encoder, seeds in FROZEN.items()
            for seed in seeds
        ],
        [
            (trained_file(evidence, cohort, task, start), ["task_networks", cohort, task, start])
            for start in (CEILING, SCRATCH)
            for task in tasks()
            for cohort in VARIED
        ],
    ]


def representation_file(evidence: Evidence) -> Path:
    """The representation that was chosen for these tasks, and the score of each candidate."""
    return evidence.folder / "representation-tasks.json"


def choose(evidence: Evidence) -> None:
    """Choose features and pooling for each encoder among the training subjects of the development cohorts."""
    problems = {
        (cohort, name): (scores.problem_of(evidence, cohort, task), metric)
        for cohort in VARIED_DEVELOPMENT
        for name, (task, metric) in tasks().items()
    }
    found = {
        encoder: scores.choice(evidence, encoder, problems, REPRESENTATIONS) for encoder in (MAIN, RANDOM)
    }
    write_result(representation_file(evidence), found)


def keep_choice(evidence: Evidence) -> None:
    """Take the choice that was made on the development cohorts before, with the scores of its candidates."""
    stored = _read(RESULT)["claims"]
    (claim,) = (claim for claim in stored if claim["name"] == NAME)
    found = {}
    for encoder in (MAIN, RANDOM):
        features, pooling = claim["representation"][encoder]["chosen"].split()
        means = claim["representation"][encoder]["candidates"]
        found[encoder] = {"features": features, "pooling": pooling, "means": means}
    write_result(representation_file(evidence), found)


def heads(evidence: Evidence, cohort: str, encoder: str, seed: int) -> None:
    """Heads on one frozen representation, on few labels and on all: predictions for the test subjects."""
    if encoder == DENSITY:
        x = scores.density(evidence, cohort)
    elif encoder == HISTOGRAM:
        x = scores.histogram(evidence, cohort)
    elif encoder == ZONES:
        x = zones(evidence, cohort)
    else:
        chosen = _read(representation_file(evidence))[RANDOM if encoder == BEST_RANDOM else MAIN]
        patients = scores.Patients(evidence, cohort, RANDOM if encoder == BEST_RANDOM else encoder, seed)
        x = patients.vectors(chosen["features"], chosen["pooling"])
    found: dict[str, dict[str, list[list[float]]]] = {}
    for name, (task, _) in tasks().items():
        problem = scores.problem_of(evidence, cohort, task)
        for labels, count in ((FEW, SUBSETS), (ALL, 1)):
            found.setdefault(name, {})[str(labels)] = [
                scores.probe(problem, x, scores.subset_of(problem, labels, number)).astype(float).tolist()
                for number in range(count)
            ]
    write_result(evidence.probed_file(cohort, encoder, seed), {"predictions": found})


def trained_file(evidence: Evidence, cohort: str, task: str, start: str) -> Path:
    """Predictions for the test subjects after training from scratch."""
    return evidence.folder / "trained" / f"{cohort}-{task}-{start}-{ALL}-0.json"


def networks(evidence: Evidence, cohort: str, task: str, start: str) -> None:
    """Train from scratch on all labels: for the steps of the sweep, or (`ceiling`) for `STEPS_ALL`."""
    problem = scores.problem_of(evidence, cohort, tasks()[task][0])
    pool = scores.pool_of(evidence, cohort, problem)
    cpu = time.process_time()
    model = network(recipe_of(cohort), problem, steps=STEPS_ALL if start == CEILING else None)
    model.fit(pool, list(problem.train), problem.train_targets)
    predicted = [float(value) for value in model.predict(pool, problem.test)]
    write_result(
        trained_file(evidence, cohort, task, start),
        {"prediction": predicted, "steps": model.steps, "cpu_seconds": time.process_time() - cpu},
    )


class TaskScores:
    """Scores of every method on the tasks, from the stored predictions."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence, self.tasks = evidence, tasks()
        self.problems = {
            (cohort, name): scores.problem_of(evidence, cohort, task)
            for cohort in VARIED
            for name, (task, _) in self.tasks.items()
        }

    def frozen(self, encoder: str, task: str, labels: int) -> scores.Score:
        """Heads on a frozen representation."""
        found = {
            cohort: [
                [
                    np.array(p)
                    for p in _read(self.evidence.probed_file(cohort, encoder, seed))["predictions"][task][
                        str(labels)
                    ]
                ]
                for seed in FROZEN[encoder]
            ]
            for cohort in VARIED
        }
        return self._score(task, found)

    def trained(self, start: str, task: str) -> scores.Score:
        """Networks trained on all labels."""
        found = {
            cohort: [[np.array(_read(trained_file(self.evidence, cohort, task, start))["prediction"])]]
            for cohort in VARIED
        }
        return self._score(task, found)

    def _score(self, task: str, predictions: dict[str, list[list[np.ndarray]]]) -> scores.Score:
        targets = {cohort: self.problems[cohort, task].test_targets for cohort in VARIED}
        return scores.Score(predictions, targets, self.tasks[task][1])

    def table(self) -> dict[str, dict[str, dict[str, list[float]]]]:
        """Method -> task -> number of labels -> score of each seed; networks that were not trained are left out."""
        found: dict[str, dict[str, dict[str, list[float]]]] = {}
        for task in self.tasks:
            for encoder in FROZEN:
                for labels in (FEW, ALL):
                    values = self.frozen(encoder, task, labels).values()
                    found.setdefault(encoder, {}).setdefault(task, {})[str(labels)] = _rounded(values)
            for start in (SCRATCH, CEILING):
                try:
                    values = self.trained(start, task).values()
                except FileNotFoundError:
                    continue
                found.setdefault(start, {}).setdefault(task, {})[str(ALL)] = _rounded(values)
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Labelled subjects of each task, both cohorts."""
        return {
            task: {
                side: sum(len(getattr(self.problems[cohort, task], side)) for cohort in VARIED)
                for side in ("train", "test")
            }
            for task in self.tasks
        }


def kept_place(evidence: Evidence, stored: TaskScores) -> dict[str, dict[str, dict[str, float]]]:
    """Where place goes: heads on the last layer's standardised features, pooled in several ways.

    Looked at after the claim, on its cohorts: mean score over cohorts and seeds, all labels.

    Returns:
        Encoder -> `mean` or `zones` (`pooled`), or a pooling of the platform -> task -> score.
    """
    from ctplatform.dataset.atlas import read_atlas
    from ctplatform.dataset.splits import read_split

    values: dict[str, dict[str, dict[str, list[float]]]] = {}
    for cohort in VARIED:
        workspace = evidence.workspace(cohort)
        zone_N = zones_of(np.asarray(read_atlas(workspace).coordinates_N3, float))
        train = set(read_split(workspace).train)
        for encoder in (MAIN, RANDOM):
            for seed in SEEDS:
                patients = scores.Patients(evidence, cohort, encoder, seed)
                rows = [row for row, subject in enumerate(patients.subjects) if subject in train]
                vectors = {
                    name: dict(zip(patients.subjects, x_SP, strict=True))
                    for name, x_SP in pooled(patients.vectors_SND[..., :FEATURES], rows, zone_N).items()
                } | {pooling: patients.vectors("last", pooling) for pooling in COMPARED_POOLINGS}
                for name, x in vectors.items():
                    for task, (_, metric) in stored.tasks.items():
                        problem = stored.problems[cohort, task]
                        predicted_T = scores.probe(problem, x, np.arange(len(problem.train)))
                        found = values.setdefault(encoder, {}).setdefault(name, {}).setdefault(task, [])
                        found.append(METRICS[metric].value(problem.test_targets, predicted_T))
    return {
        encoder: {
            name: {task: round(float(np.mean(of_runs)), 3) for task, of_runs in by_task.items()}
            for name, by_task in by_name.items()
        }
        for encoder, by_name in values.items()
    }


def pooled(x_SND: np.ndarray, train: Sequence[int], zone_N: np.ndarray) -> dict[str, np.ndarray]:
    """Features standardised at each place over training subjects: their mean over places, and that of each zone."""
    x_SND = x_SND.astype(float)
    z_SND = (x_SND - x_SND[train].mean(0)) / (x_SND[train].std(0) + 1e-6)
    zones_of_x = [z_SND[:, zone_N == zone].mean(1) for zone in range(int(zone_N.max()) + 1)]
    return {"mean": z_SND.mean(1), "zones": np.concatenate(zones_of_x, axis=1)}


def claim_of(pairs: dict[str, tuple[scores.Score, scores.Score]]) -> dict[str, Any]:
    """Pretrained against density, task by task; holds if the interval is above 0 in `LEAST` of them."""
    found, draws = {}, []
    for task, (first, second) in pairs.items():
        difference, draws_B = scores.difference(first, second)
        found[task] = difference.plain() | {"metric": first.metric}
        draws.append(draws_B)
    low, high = interval(np.mean(draws, axis=0))
    return {
        "name": NAME,
        "holds": sum(row["interval"][0] > 0 for row in found.values()) >= LEAST,
        "difference": round(float(np.mean([row["difference"] for row in found.values()])), 3),
        "interval": [round(low, 3), round(high, 3)],
        "n": max(sum(len(t) for t in first.targets.values()) for first, _ in pairs.values()),
        "needed": f"interval above 0 in {LEAST} of {len(found)} tasks",
        "tasks": found,
    }


def claim(evidence: Evidence) -> dict[str, Any]:
    """The claim from the stored predictions, with the scores of every method.

    Raises:
        FileNotFoundError: a part has not been run.
    """
    stored = TaskScores(evidence)

    def against(encoder: str, labels: int) -> dict[str, Any]:
        return claim_of(
            {
                task: (stored.frozen(MAIN, task, labels), stored.frozen(encoder, task, labels))
                for task in tasks()
            }
        )

    others = {encoder: against(encoder, ALL) for encoder in (ZONES, HISTOGRAM, RANDOM, BEST_RANDOM)}
    chosen = _read(representation_file(evidence))
    return against(DENSITY, ALL) | {
        "labels": ALL,
        "section": "Tasks that density fails at",
        "cohort_seeds": list(VARIED.values()),
        "few_labels": {"labels": FEW, "tasks": against(DENSITY, FEW)["tasks"]},
        "against": {encoder: found["tasks"] for encoder, found in others.items()},
        "against_means": {
            encoder: {key: found[key] for key in ("difference", "interval")}
            for encoder, found in others.items()
        },
        "representation": {
            encoder: {
                "chosen": f"{found['features']} {found['pooling']}",
                "candidates": {name: round(mean, 3) for name, mean in found["means"].items()},
            }
            for encoder, found in chosen.items()
        },
        "counts": stored.counts(),
        "scores": stored.table(),
        "kept_place": kept_place(evidence, stored),
    }


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]
