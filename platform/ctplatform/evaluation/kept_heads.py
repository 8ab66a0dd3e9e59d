"""Heads that are kept after a sweep: fitted on all training subjects, chosen among the initialisations by
cross-validation on these subjects only, calibrated on the same folds, each a model folder (`inference.kept_model`).

Held-out subjects decide nothing here: their scores are copied from the sweep's tables into the card.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ctplatform import __version__
from ctplatform.compute.fan_out import fan_out
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.horizons import DAYS, YEARS
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.inference.encoders import weights_digest
from ctplatform.inference.kept_model import KeptModel
from ctplatform.inference.pooling import STANDARDISED
from ctplatform.metrics.calibration import bins, calibrate
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE
from ctplatform.tasks.fitted_head import FittedHead
from ctplatform.tasks.task import Task
from ctplatform.training.runs import ablation_runs

FOLDS = 5
COVERAGE = 0.9
SEED = 0
CONTROL = "random"
"""The control's encoder has no weights that are kept: its heads could predict nothing."""


@dataclass(frozen=True)
class Fit:
    """A head on all training subjects.

    Args:
        head: None for a head that is not the platform's.
        out_of_fold_N: each training subject predicted by a head that was fitted without it; None where a fold cannot
            be fitted.
    """

    head: FittedHead | None
    out_of_fold_N: np.ndarray | None


def keep_heads(context: SweepContext, recipe: Recipe, summary: pd.DataFrame) -> list[str]:
    """Fit and write the heads of every task on every initialisation whose features can be computed again; needs Ray.

    Args:
        context: of the sweep.
        recipe: of the sweep.
        summary: the sweep's table of scores.

    Returns:
        What could not be kept and why.
    """
    import ray

    sources = _sources(context, recipe)
    jobs = [
        (problem, initialisation)
        for problem in context.problems.values()
        if isinstance(problem, SubjectProblem)
        for initialisation in problem.features
        if initialisation in sources
    ]
    todo = [job for job in jobs if not _kept(context, *job, summary)]
    stale = {problem.task.name for problem, _ in todo}
    todo = [job for job in jobs if job[0].task.name in stale]  # which is the best depends on all of a task
    resources = dict(recipe.placement.sweep.resources)
    remote = ray.remote(num_cpus=recipe.sweep.cpus_per_trial, max_retries=3, resources=resources)(fit)
    work = [(p.task, p.features[name][0], p.train) for p, name in todo]
    try:
        fits: list[Fit] = fan_out(lambda arguments: remote.remote(*arguments), work)
    except ray.exceptions.RayTaskError as error:
        return [f"no heads were kept: {str(error).strip().splitlines()[-1]}"]
    messages = []
    for name in stale:
        mine = {job[1]: (job[0], found) for job, found in zip(todo, fits) if job[0].task.name == name}
        scored = {i: _validation(p.task, p.train, found) for i, (p, found) in mine.items()}
        best = _best(next(iter(mine.values()))[0].task, scored)
        for initialisation, (problem, found) in mine.items():
            if found.head is None:
                messages.append(
                    f"{name}: the head on {initialisation} is not kept: it is none of the platform's"
                )
                continue
            card = {
                **_card(problem, initialisation, found, sources[initialisation], summary),
                "selection": {**scored[initialisation], "best": initialisation == best},
                "fingerprint": _fingerprint(problem, initialisation, summary),
            }
            for file, data in KeptModel(found.head, card).files().items():
                context.workspace.write_bytes(
                    data, *layout.model_file(context.run, name, initialisation, file)
                )
    return messages


def fit(task: Task, x_NP: np.ndarray, targets: Targets) -> Fit:
    """A head on all training subjects, and their predictions by heads that were fitted without them."""
    head = FittedHead.of(task, task.probe().fit(x_NP, targets, seed=SEED))
    fold_N = folds(task.strata(targets), seed=SEED, count=FOLDS)
    out_of_fold_N = np.empty(len(targets))
    for fold in np.unique(fold_N):
        inside, outside = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        try:
            task.check(targets.take(inside))
            part = task.probe().fit(x_NP[inside], targets.take(inside), seed=SEED)
        except StageError:
            return Fit(head, None)
        out_of_fold_N[outside] = task.clip(part.predict(x_NP[outside]))
    return Fit(head, out_of_fold_N)


def calibration(task: Task, targets: Targets, out_of_fold_N: np.ndarray | None) -> dict[str, Any] | None:
    """How far predictions of subjects that a head was not fitted on are off.

    regression, count: half the width of an interval that holds 90% of new labels, from the absolute residuals of the
    folds (Barber, Candes, Ramdas, Tibshirani, Ann. Statist. 2021, doi:10.1214/20-AOS1965; without their correction
    between folds). binary: shares with the label 1 in bins of the predicted probability, with Wilson's 95% intervals.
    """
    if out_of_fold_N is None:
        return None
    basis = f"{len(targets)} training subjects in {FOLDS} folds"
    if task.kind in ("regression", "count"):
        rank = math.ceil((len(targets) + 1) * COVERAGE)
        if rank > len(targets):
            return None
        residual_N = np.sort(np.abs(targets.value_N - out_of_fold_N))
        return {"basis": basis, "coverage": COVERAGE, "half_width": float(residual_N[rank - 1])}
    if task.kind != "binary":
        return None
    found = bins(targets.value_N, out_of_fold_N)
    order_N = np.sort(out_of_fold_N)
    edges = np.cumsum([b.n for b in found])
    uppers = [float((order_N[e - 1] + order_N[e]) / 2) if e < len(order_N) else 1.0 for e in edges]
    agreement = calibrate(targets.value_N, out_of_fold_N[None], bootstrap=200)
    return {
        "basis": basis,
        "slope": _plain(agreement.slope),
        "in_the_large": _plain(agreement.in_the_large),
        "bins": [
            {"upper": upper, "observed": b.observed, "low": b.low, "high": b.high, "n": b.n}
            for b, upper in zip(found, uppers)
        ],
    }


def _sources(context: SweepContext, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Frozen initialisation -> what its features are."""
    runs = {"drasclr": context.run} | ablation_runs(context.workspace, recipe)
    common = {
        "atlas_hash": read_atlas(context.workspace).hash,
        "hu_window": [float(end) for end in recipe.prepare.hu_window],
        "spacing_mm": 1.0,
    }
    sources: dict[str, dict[str, Any]] = {"density": {"encoder": "density", "run": context.run}}
    for name, run in runs.items():
        if context.workspace.exists(*layout.weights(run)):
            digest = weights_digest(context.workspace, run)
            own = {
                "encoder": "drasclr",
                "run": run,
                "weights_sha256": digest,
                "layer": recipe.embed.features,
                "pooling": recipe.embed.pooling,
            }
            if recipe.embed.pooling in STANDARDISED:
                content = context.workspace.read_bytes(*layout.representation(run))
                own["statistics_sha256"] = hashlib.sha256(content).hexdigest()
            sources[name] = own | common
    return sources


def _kept(context: SweepContext, problem: SubjectProblem, initialisation: str, summary: pd.DataFrame) -> bool:
    path = layout.model_file(context.run, problem.task.name, initialisation, CARD_FILE)
    if not context.workspace.exists(*path):
        return False
    card = context.workspace.read_json(*path)
    return bool(card.get("fingerprint") == _fingerprint(problem, initialisation, summary))


def _fingerprint(problem: SubjectProblem, initialisation: str, summary: pd.DataFrame) -> str:
    scores = repr(_scores(problem, initialisation, summary))
    return config_hash(problem.digest(initialisation), scores, __version__)


def _validation(task: Task, train: Targets, found: Fit) -> dict[str, Any]:
    metric = task.scores[0]
    value = None if found.out_of_fold_N is None else metric.value(train, found.out_of_fold_N)
    defined = value is not None and math.isfinite(value)
    return {
        "metric": metric.name,
        "value": value if defined else None,
        "subjects": len(train),
        "folds": FOLDS,
    }


def _best(task: Task, scored: Mapping[str, Mapping[str, Any]]) -> str:
    """The initialisation of the best validation score; the first one where there is none."""
    sign = 1 if task.scores[0].higher_is_better else -1
    return max(scored, key=lambda i: -math.inf if scored[i]["value"] is None else sign * scored[i]["value"])


def _card(
    problem: SubjectProblem, initialisation: str, found: Fit, source: Mapping[str, Any], summary: pd.DataFrame
) -> dict[str, Any]:
    task, train = problem.task, problem.train
    card: dict[str, Any] = {
        "task": {
            "name": task.name,
            "title": task.title,
            "unit": task.unit,
            "columns": list(task.columns),
            "values": dict(task.values),
            "at_least": task.at_least,
        },
        "initialisation": initialisation,
        "features": {**source, "width": int(problem.features[initialisation][0].shape[1])},
        "trained_on": _trained_on(task, train),
        "calibration": calibration(task, train, found.out_of_fold_N),
        "scores": _scores(problem, initialisation, summary),
        "software": __version__,
    }
    if task.kind == "survival":
        days = [year * DAYS for year in YEARS if year * DAYS < train.value_N.max()]
        card["curve_times"] = days or [float(np.median(train.value_N))]
    return card


def _trained_on(task: Task, train: Targets) -> dict[str, Any]:
    """The training labels in numbers; no subject is named."""
    value_N = train.value_N.astype(float)
    found: dict[str, Any] = {"subjects": len(train), "least": value_N.min(), "most": value_N.max()}
    if train.event_N is not None:
        return found | {"events": int(train.event_N.sum())}
    if task.kind == "regression":
        return found | {"mean": float(value_N.mean()), "sd": float(value_N.std())}
    labels, counts = np.unique(value_N, return_counts=True)
    return found | {"labels": {f"{label:g}": int(count) for label, count in zip(labels, counts)}}


def _scores(problem: SubjectProblem, initialisation: str, summary: pd.DataFrame) -> list[dict[str, Any]]:
    """Scores of the sweep's heads on held-out subjects, with the largest share of labels."""
    rows = summary[(summary["task"] == problem.task.name) & (summary["initialisation"] == initialisation)]
    rows = rows[rows["fraction"] == rows["fraction"].max()]
    columns = ["metric", "value", "low", "high", "chance", "n_train", "n_test", "n_seeds"]
    plain = rows[columns].astype(object).where(rows[columns].notna(), None)
    return [dict(zip(columns, row)) for row in plain.itertuples(index=False, name=None)]


def _plain(values: tuple[float, float, float]) -> list[float | None]:
    return [float(v) if math.isfinite(v) else None for v in values]
