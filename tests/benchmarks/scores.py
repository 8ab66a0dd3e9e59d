"""Scores of many initialisations on the same test subjects, with paired differences across label fractions.

Legend: B bootstrap resamples, N scans or subjects, L locations, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from ctplatform.config.recipe import Recipe
from ctplatform.evaluation.cells import label_subset
from ctplatform.metrics.bootstrap import interval, resamples
from ctplatform.metrics.scores import METRICS, Targets
from ctplatform.storage.layout import EVALUATION
from ctplatform.storage.workspace import Workspace
from ctplatform.tasks import get_task

DENSITY = "density"


@dataclass(frozen=True)
class Cell:
    """One score: its value, that of each resample of the test subjects, that of each pretraining, and its labels."""

    value: float
    draws_B: np.ndarray
    by_run: tuple[float, ...]
    n_train: int


@dataclass
class Scores:
    """Scores by (task, initialisation, label fraction), each the mean over label subsets and pretraining runs."""

    metrics: Mapping[str, str]
    seeds: int
    n_test: int = 0
    cells: dict[tuple[str, str, float], Cell] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks that have scores, in their order."""
        return list(dict.fromkeys(task for task, _, _ in self.cells))

    def metric(self, task: str) -> str:
        """Name of the metric for people."""
        return METRICS[self.metrics[task]].title

    def has(self, task: str, name: str, fraction: float) -> bool:
        """Whether there is such a score."""
        return (task, name, fraction) in self.cells

    def n_train(self, task: str, fraction: float) -> int:
        """Labels at this fraction."""
        return next(cell.n_train for (t, _, f), cell in self.cells.items() if (t, f) == (task, fraction))

    def text(self, task: str, name: str, fraction: float, *, interval: bool = True) -> str:
        """The score, with its interval if wanted."""
        cell = self.cells[task, name, fraction]
        if not interval:
            return f"{cell.value:.2f}"
        low, high = _interval(cell.draws_B)
        return f"{cell.value:.2f} ({low:.2f} to {high:.2f})"

    def runs(self, task: str, name: str, fraction: float) -> str:
        """The score of each pretraining run."""
        return " / ".join(f"{value:.2f}" for value in self.cells[task, name, fraction].by_run)

    def difference(self, task: str, a: tuple[str, float], b: tuple[str, float]) -> tuple[float, float, float]:
        """a - b on the same test subjects and its interval; a and b are (initialisation, fraction)."""
        first, second = self.cells[task, *a], self.cells[task, *b]
        low, high = interval(first.draws_B - second.draws_B)
        return first.value - second.value, low, high

    def add(
        self,
        task: str,
        name: str,
        fraction: float,
        targets: Targets,
        predictions: list[list[np.ndarray]],
        *,
        bootstrap: int,
        n_train: int,
    ) -> None:
        """Score predictions, those of each label subset of each pretraining run, on the task's own resamples."""
        metric, rows_BN = METRICS[self.metrics[task]], resamples(len(targets), count=bootstrap)
        by_run = [float(np.mean([metric.value(targets, p) for p in run])) for run in predictions]
        draws_B = np.mean([metric.score(targets, p, rows_BN) for run in predictions for p in run], axis=0)
        self.cells[task, name, fraction] = Cell(float(np.mean(by_run)), draws_B, tuple(by_run), n_train)
        self.n_test = len(targets)


_interval = interval


def frozen_scores(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipes: Sequence[Recipe],
    *,
    metrics: Mapping[str, str],
    seeds: int,
    bootstrap: int,
) -> Scores:
    """Heads on the frozen representations of the recipes' initialisations, in this process.

    The recipes differ in the seed of pretraining.
    """
    from ctplatform.evaluation.assembly import assemble
    from ctplatform.training.runs import run_name

    assembled = []
    for recipe in recipes:
        plain = recipe.model_dump(mode="json")
        plain["sweep"]["tasks"] = list(metrics)
        run = run_name(workspace, recipe)
        assembled.append(assemble(workspace, cohort, Recipe.model_validate(plain), run=run)[0].problems)
    scores = Scores(metrics, seeds)
    for task in metrics:
        problem, kind = assembled[0][task], get_task(task)
        for fraction in recipes[0].sweep.fractions:
            subsets = [label_subset(kind, problem.train, fraction=fraction, seed=s) for s in range(seeds)]
            for name in problem.features:
                predictions = []
                for problems in assembled if name != DENSITY else assembled[:1]:
                    train_NP, test_NP = problems[task].features[name]
                    heads = [
                        kind.probe().fit(train_NP[rows], problem.train.take(rows), seed=seed)
                        for seed, rows in enumerate(subsets)
                    ]
                    predictions.append([kind.clip(head.predict(test_NP)) for head in heads])
                scores.add(
                    task,
                    name,
                    fraction,
                    problem.test,
                    predictions,
                    bootstrap=bootstrap,
                    n_train=len(subsets[0]),
                )
    return scores


def swept_scores(
    workspace: Workspace,
    cohort: pd.DataFrame,
    recipe: Recipe,
    *,
    run: str,
    metrics: Mapping[str, str],
    bootstrap: int,
) -> Scores:
    """The sweep's own trials, end-to-end training among them, from its tables."""
    from ctplatform.evaluation.assembly import assemble

    context, _ = assemble(workspace, cohort, recipe, run=run)
    table = workspace.read_table(EVALUATION, run, "predictions.parquet").to_pandas()
    results = workspace.read_table(EVALUATION, run, "results.parquet").to_pandas()
    scores = Scores(metrics, recipe.sweep.seeds)
    for (task, name, fraction), rows in table.groupby(["task", "initialisation", "fraction"], sort=False):
        problem = context.problems[str(task)]
        predictions = [
            part.set_index("subject_id").loc[list(problem.test_subjects), "prediction"].to_numpy()
            for _, part in rows.groupby("seed")
        ]
        same = (results["task"] == task) & (results["fraction"] == fraction)
        scores.add(
            str(task),
            str(name),
            float(fraction),
            problem.test,
            [predictions],
            bootstrap=bootstrap,
            n_train=int(results.loc[same, "n_train"].iloc[0]),
        )
    return scores


def runs_of(workspace: Workspace, recipe: Recipe, run: str) -> list[tuple[str, str, str]]:
    """(initialisation, pretraining run, encoder) of all frozen representations, density last."""
    from ctplatform.training.runs import ablation_runs

    found = [("drasclr", run, "drasclr")]
    found += [(name, source, "drasclr") for name, source in ablation_runs(workspace, recipe).items()]
    return [*found, ("random", run, "random"), (DENSITY, run, DENSITY)]


def patient_vectors(
    workspace: Workspace, recipe: Recipe, run: str, encoder: str
) -> tuple[list[str], np.ndarray]:
    """Subjects, and one vector each, [N, D]."""
    from ctplatform.dataset import ledger
    from ctplatform.inference.representations import read_representation

    scans = ledger.usable(ledger.read_ledger(workspace), use_flagged=recipe.prepare.quality.use_flagged)
    representation = read_representation(workspace, encoder, run=run, scans=scans)
    return list(representation.subjects), representation.x_NP


def patch_vectors(workspace: Workspace, run: str, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """Features of all patches [N, L, D] of all embedded scans, and how much of each lies inside its scan [N, L]."""
    import pyarrow as pa

    from ctplatform.storage.layout import EMBEDDINGS

    names = [n for n in workspace.files(EMBEDDINGS, run, "patches") if n.startswith(f"{encoder}-")]
    table = pa.concat_tables([workspace.read_table(EMBEDDINGS, run, "patches", name) for name in names])
    column = table.column("vector").combine_chunks()
    width = column.type.list_size
    vectors = column.values.to_numpy().reshape(len(table), width)
    places = int(table.column("location").to_numpy().max()) + 1
    inside = table.column("inside").to_numpy()
    return vectors.reshape(-1, places, width), inside.reshape(-1, places)
