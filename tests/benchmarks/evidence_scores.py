"""Scores of the evidence: heads on frozen representations, and differences with their intervals.

A difference is paired over test subjects and over pretraining seeds: each resample draws subjects of every cohort and
seeds with replacement. Label subsets are fixed; number i goes with pretraining seed i.

Legend: S scans, N locations, D features, P numbers of a patient, T test subjects, B resamples, K seeds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctplatform.dataset import ledger
from ctplatform.dataset.atlas import read_atlas
from ctplatform.dataset.splits import read_split
from ctplatform.evaluation.cells import label_subset
from ctplatform.inference.pooling import LocationStatistics, Pooling, pool
from ctplatform.metrics.bootstrap import interval, resamples
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.metrics.stratification import folds
from ctplatform.tasks.task import Task
from drasclr.encoder import FEATURES

if TYPE_CHECKING:
    from ctplatform.evaluation.patch_pool import PatchPool
    from tests.benchmarks.evidence_parts import Evidence

BOOTSTRAP = 2000
FOLDS = 5
FEW_SUBSETS = 9
#: (features of a patch, pooling) that a patient's representation is chosen from.
REPRESENTATIONS: tuple[tuple[str, Pooling], ...] = (
    ("last", "mean"),
    ("last", "standardised"),
    ("last", "standardised_spread"),
    ("multiscale", "mean"),
    ("multiscale", "standardised"),
    ("multiscale", "standardised_spread"),
)


@dataclass(frozen=True)
class LabelledCohort:
    """A task's labelled subjects of a cohort on both sides of its split."""

    task: Task
    train: tuple[str, ...]
    train_targets: Targets
    test: tuple[str, ...]
    test_targets: Targets
    scan_of: Mapping[str, str]


def problem_of(evidence: Evidence, cohort: str, task: Task) -> LabelledCohort:
    """A task on a cohort's usable scans."""
    from tests.benchmarks.evidence_parts import LABELLED_KERNEL, OTHER_KERNEL

    workspace = evidence.workspace(cohort)
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
    scan_of = dict(zip(rows["subject_id"].astype(str), rows["scan_id"], strict=True))
    table = evidence.table(cohort)
    labels = task.labels(table[table["subject_id"].isin(scan_of)])
    row_of = {subject: row for row, subject in enumerate(labels.subjects)}
    split = read_split(workspace)
    train, test = (tuple(s for s in side if s in row_of) for side in (split.train, split.test))
    if task.name == OTHER_KERNEL.name:
        kernel = dict(zip(table["subject_id"], table["kernel"], strict=True))
        train = tuple(s for s in train if kernel[s] == LABELLED_KERNEL)
        test = tuple(s for s in test if kernel[s] != LABELLED_KERNEL)
    train_targets, test_targets = (
        labels.targets.take(np.array([row_of[s] for s in side])) for side in (train, test)
    )
    return LabelledCohort(task, train, train_targets, test, test_targets, scan_of)


def pool_of(evidence: Evidence, cohort: str, problem: LabelledCohort) -> PatchPool:
    """The patches that training on labels end to end reads."""
    from ctplatform.evaluation.patch_pool import PatchPool
    from tests.benchmarks.evidence_parts import recipe_of

    recipe, workspace = recipe_of(cohort), evidence.workspace(cohort)
    return PatchPool(
        workspace,
        read_atlas(workspace).coordinates_N3,
        scans={subject: (problem.scan_of[subject],) for subject in (*problem.train, *problem.test)},
        size=recipe.sweep.scratch.pool,
        hu_window=recipe.prepare.hu_window,
    )


def subset_of(problem: LabelledCohort, labels: int, number: int) -> np.ndarray:
    """Rows of a stratified subset of so many labelled training subjects."""
    fraction = min(1.0, labels / len(problem.train))
    return label_subset(problem.task, problem.train_targets, fraction=fraction, seed=number)


class Patients:
    """Vectors of a cohort's patients from one encoder, by (features of a patch, pooling).

    Statistics of locations are those of the cohort's training subjects; no label goes into them.
    """

    def __init__(self, evidence: Evidence, cohort: str, encoder: str, seed: int) -> None:
        with np.load(evidence.features_file(cohort, encoder, seed)) as stored:
            self.subjects = [str(subject) for subject in stored["subjects"]]
            self.vectors_SND = stored["vectors"]
        workspace = evidence.workspace(cohort)
        self._train = set(read_split(workspace).train)
        self._centres_mm_N3 = read_atlas(workspace).centres_mm_N3

    def vectors(
        self, features: str, pooling: Pooling, *, places: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Subject -> vector, over all places or some of them."""
        x_SND = self.vectors_SND[..., :FEATURES] if features == "last" else self.vectors_SND
        centres_mm_N3 = self._centres_mm_N3
        if places is not None:
            x_SND, centres_mm_N3 = x_SND[:, places], centres_mm_N3[places]
        inside_SN = np.ones(x_SND.shape[:2])
        train = [row for row, subject in enumerate(self.subjects) if subject in self._train]
        statistics = LocationStatistics.of(x_SND[train], inside_SN[train])
        x_SP = pool(x_SND, inside_SN, pooling, statistics, centres_mm_N3)
        return dict(zip(self.subjects, x_SP.astype(float), strict=True))


def density(evidence: Evidence, cohort: str) -> dict[str, np.ndarray]:
    """LAA-950, Perc15 and lung volume of each subject."""
    rows = ledger.usable(ledger.read_ledger(evidence.workspace(cohort)), use_flagged=True)
    return dict(zip(rows["subject_id"].astype(str), rows[list(ledger.DENSITY)].to_numpy(float), strict=True))


def histogram(evidence: Evidence, cohort: str) -> dict[str, np.ndarray]:
    """Log counts of a histogram of all patches of each subject, 32 bins of the HU window."""
    from ctplatform.dataset.shards import read_patches

    workspace = evidence.workspace(cohort)
    rows = ledger.usable(ledger.read_ledger(workspace), use_flagged=True)
    edges = np.linspace(-1024, 240, 33)
    return {
        str(subject): np.log(
            np.histogram(read_patches(workspace, scan)[1].clip(-1024, 240), bins=edges)[0] + 100.0
        )
        for subject, scan in zip(rows["subject_id"], rows["scan_id"], strict=True)
    }


def probe(problem: LabelledCohort, x: Mapping[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Predictions for the test subjects of a head that is fitted on some training subjects."""
    train_NP = np.stack([x[problem.train[row]] for row in rows])
    head = problem.task.probe().fit(train_NP, problem.train_targets.take(rows), seed=0)
    return problem.task.clip(head.predict(np.stack([x[subject] for subject in problem.test])))


def cross_validated(problem: LabelledCohort, x: Mapping[str, np.ndarray], metric: str) -> float:
    """Score of heads among the training subjects: each fold is predicted from the others."""
    targets, task = problem.train_targets, problem.task
    fold_N = folds(task.strata(targets), seed=0, count=FOLDS)
    train_NP = np.stack([x[subject] for subject in problem.train])
    predicted_N = np.full(len(targets), np.nan)
    for fold in range(FOLDS):
        outside, inside = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
        head = task.probe().fit(train_NP[inside], targets.take(inside), seed=0)
        predicted_N[outside] = task.clip(head.predict(train_NP[outside]))
    return METRICS[metric].value(targets, predicted_N)


def validated(problem: LabelledCohort, x: Mapping[str, np.ndarray], metric: str, *, labels: int) -> float:
    """Mean of two scores among the training subjects: cross-validated, and of heads fitted on a few labels.

    The latter are fitted on stratified subsets, and predict the subjects that are not among them.
    """
    task, targets = problem.task, problem.train_targets
    train_NP = np.stack([x[subject] for subject in problem.train])
    few = []
    for number in range(FEW_SUBSETS):
        rows = subset_of(problem, labels, number)
        others = np.setdiff1d(np.arange(len(targets)), rows)
        head = task.probe().fit(train_NP[rows], targets.take(rows), seed=0)
        few.append(METRICS[metric].value(targets.take(others), task.clip(head.predict(train_NP[others]))))
    return (cross_validated(problem, x, metric) + float(np.mean(few))) / 2


def choice(
    evidence: Evidence,
    encoder: str,
    problems: Mapping[tuple[str, str], tuple[LabelledCohort, str]],
    representations: Sequence[tuple[str, Pooling]],
) -> dict[str, Any]:
    """The representation of one encoder with the best mean score among training subjects (`validated`).

    Args:
        evidence: the folder, with the encoder's features.
        encoder: the mean is over its seeds.
        problems: (cohort, task) -> the labelled cohort, and the metric.
        representations: candidates.
    """
    from tests.benchmarks.evidence_parts import FEW, SEEDS

    found: dict[str, dict[str, list[float]]] = {}
    for cohort in dict.fromkeys(cohort for cohort, _ in problems):
        for seed in SEEDS:
            patients = Patients(evidence, cohort, encoder, seed)
            for features, pooling in representations:
                x = patients.vectors(features, pooling)
                by_task = found.setdefault(f"{features} {pooling}", {})
                for (of, name), (problem, metric) in problems.items():
                    if of == cohort:
                        by_task.setdefault(name, []).append(validated(problem, x, metric, labels=FEW))
    means = {
        name: float(np.mean([v for values in by_task.values() for v in values]))
        for name, by_task in found.items()
    }
    features, pooling = max(means, key=lambda name: means[name]).split()
    return {"features": features, "pooling": pooling, "means": means, "scores": found}


@dataclass(frozen=True)
class Score:
    """Predictions of one method: cohort -> seed -> label subset -> [T]. Methods without seeds have one."""

    predictions: Mapping[str, Sequence[Sequence[np.ndarray]]]
    targets: Mapping[str, Targets]
    metric: str

    def values(self) -> np.ndarray:
        """Mean score over label subsets and cohorts, of each seed, [K]."""
        metric = METRICS[self.metric]
        return np.mean(
            [
                [np.mean([metric.value(self.targets[cohort], p_T) for p_T in seed]) for seed in seeds]
                for cohort, seeds in self.predictions.items()
            ],
            axis=0,
        )

    def draws(self) -> np.ndarray:
        """The same of each resample of the subjects of every cohort, [K, B]."""
        metric, cohorts = METRICS[self.metric], []
        for number, (cohort, seeds) in enumerate(self.predictions.items()):
            rows_BT = resamples(len(self.targets[cohort]), count=BOOTSTRAP, seed=number)
            cohorts.append(
                [
                    np.mean([metric.score(self.targets[cohort], p_T, rows_BT) for p_T in seed], axis=0)
                    for seed in seeds
                ]
            )
        return np.mean(cohorts, axis=0)

    def of(self, cohort: str) -> Score:
        """On one cohort alone."""
        return Score({cohort: self.predictions[cohort]}, self.targets, self.metric)


@dataclass(frozen=True)
class Difference:
    """The score of one method minus another's, with its 95% interval over subjects and seeds."""

    value: float
    low: float
    high: float
    first: float
    second: float

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": round(self.first, 3),
            "other": round(self.second, 3),
            "difference": round(self.value, 3),
            "interval": [round(self.low, 3), round(self.high, 3)],
        }


def seed_means(score: Score) -> np.ndarray:
    """Scores of resamples of subjects and seeds together, [B]; methods with as many seeds share the draws."""
    draws_KB = score.draws()
    picks_BK = np.random.default_rng(len(draws_KB)).integers(0, len(draws_KB), (BOOTSTRAP, len(draws_KB)))
    return np.asarray(np.take_along_axis(draws_KB.T, picks_BK, axis=1).mean(1))


def difference(first: Score, second: Score) -> tuple[Difference, np.ndarray]:
    """Paired over test subjects; over seeds also, where both methods have as many. With its draws, [B]."""
    draws_B = seed_means(first) - seed_means(second)
    low, high = interval(draws_B)
    a, b = float(first.values().mean()), float(second.values().mean())
    return Difference(a - b, low, high, a, b), draws_B
