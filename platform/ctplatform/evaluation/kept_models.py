"""Models that are kept after a sweep: heads, fine-tuned networks and models of label maps, each a folder.

Each is fitted on all training subjects; the best of a task is chosen by a score on training subjects that the scored
fits had not seen. Held-out subjects decide nothing here: their scores are copied from the sweep's tables into the card.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from ctplatform import __version__
from ctplatform.compute.fan_out import fan_out
from ctplatform.config.digest import config_hash
from ctplatform.config.recipe import Recipe
from ctplatform.dataset.atlas import read_atlas
from ctplatform.errors import StageError
from ctplatform.evaluation.context import SweepContext
from ctplatform.evaluation.initialisations import FINETUNE
from ctplatform.evaluation.kept_candidate import Candidate, Outcome
from ctplatform.evaluation.kept_heads import HeadCandidate
from ctplatform.evaluation.kept_networks import NetworkCandidate
from ctplatform.evaluation.problems import SubjectProblem
from ctplatform.inference.encoders import weights_digest
from ctplatform.inference.pooling import STANDARDISED
from ctplatform.storage import layout
from ctplatform.storage.layout import CARD_FILE
from ctplatform.training.runs import ablation_runs


def keep_models(context: SweepContext, recipe: Recipe, summary: pd.DataFrame) -> list[str]:
    """Fit and write the models of every task whose features can be computed again; needs Ray.

    As many are fitted at a time as trials run. From-scratch networks and heads on the random encoder, the sweep's
    controls, are not kept.

    Args:
        context: of the sweep.
        recipe: of the sweep.
        summary: the sweep's table of scores.

    Returns:
        What could not be kept and why.
    """
    import ray

    candidates = list(_candidates(context, recipe))
    fingerprints = {c: _fingerprint(c, summary) for c in candidates}
    cards = {c: _card(c) for c in candidates}
    todo = []
    for candidate in (c for c in candidates if cards[c].get("fingerprint") != fingerprints[c]):
        if candidate.trains_a_network and cards[candidate].get("fit") == candidate.digest():
            _write_card(candidate, _completed(candidate, cards[candidate], summary, fingerprints[candidate]))
        else:
            todo.append(candidate)
    resources = dict(recipe.placement.sweep.resources)
    shared = ray.put(context)

    def submit(candidate: Candidate) -> ray.ObjectRef[Any]:
        gpus = recipe.sweep.gpus_per_trial if candidate.trains_a_network else 0.0
        remote = ray.remote(
            num_cpus=recipe.sweep.cpus_per_trial, num_gpus=gpus, max_retries=3, resources=resources
        )(_fit)
        started: ray.ObjectRef[Any] = remote.remote(
            shared,
            type(candidate),
            candidate.name,
            candidate.initialisation,
            candidate.features,
            candidate.fraction,
        )
        return started

    try:
        outcomes: list[Outcome | str] = fan_out(submit, todo, in_flight=recipe.sweep.max_concurrent)
    except ray.exceptions.RayTaskError as error:
        return [f"no models were kept: {str(error).strip().splitlines()[-1]}"]
    messages = []
    for candidate, outcome in zip(todo, outcomes):
        if isinstance(outcome, str):
            messages.append(
                f"{candidate.name}: the model on {candidate.initialisation} is not kept: {outcome}"
            )
        else:
            _write(candidate, outcome, summary, fingerprint=fingerprints[candidate])
    context.workspace.delete(*layout.networks(context.run))
    _mark_best(candidates)
    return messages


def best_of(selections: Mapping[str, Mapping[str, Any]], *, higher_is_better: bool) -> str:
    """The initialisation of the best validation score; the first one where there is none; empty without any."""

    def rank(initialisation: str) -> float:
        value = selections[initialisation]["value"]
        if value is None:
            return -math.inf
        return float(value if higher_is_better else -value)

    return max(selections, key=rank, default="")


def _mark_best(candidates: Sequence[Candidate]) -> None:
    """Correct `selection.best` in the cards of all models of a task."""
    for name in dict.fromkeys(candidate.name for candidate in candidates):
        cards = {c: card for c in candidates if c.name == name and (card := _card(c))}
        if not cards:
            continue
        selections = {c.initialisation: card["selection"] for c, card in cards.items()}
        best = best_of(selections, higher_is_better=next(iter(cards)).higher_is_better)
        for candidate, card in cards.items():
            right = candidate.initialisation == best
            if card["selection"]["best"] != right:
                changed = {**card, "selection": {**card["selection"], "best": right}}
                _write_card(candidate, changed)


def _candidates(context: SweepContext, recipe: Recipe) -> Iterator[Candidate]:
    sources = _sources(context, recipe)
    fraction = max(recipe.sweep.fractions)
    for name, problem in context.problems.items():
        if not isinstance(problem, SubjectProblem):
            from ctplatform.evaluation.dense.kept_maps import map_candidates

            yield from map_candidates(context, name, sources, recipe)
            continue
        for initialisation in problem.features:
            if initialisation in sources:
                yield HeadCandidate(context, name, initialisation, sources[initialisation], fraction)
        if FINETUNE in recipe.sweep.initialisations and "drasclr" in sources:
            yield NetworkCandidate(context, name, FINETUNE, sources["drasclr"], fraction)


def _fit(
    context: SweepContext,
    kind: type[Candidate],
    name: str,
    initialisation: str,
    features: Mapping[str, Any],
    fraction: float,
) -> Outcome | str:
    try:
        return kind(context, name, initialisation, features, fraction).fit()
    except StageError as error:
        return str(error)


def _completed(
    candidate: Candidate, card: Mapping[str, Any], summary: pd.DataFrame, fingerprint: str
) -> dict[str, Any]:
    """A card with what is known besides the fit: the task's texts, scores, software."""
    return {
        **card,
        "task": {**card["task"], **candidate.card()["task"]},
        "scores": candidate.scores(summary),
        "software": __version__,
        "fingerprint": fingerprint,
    }


def _write_card(candidate: Candidate, card: Mapping[str, Any]) -> None:
    content = (json.dumps(card, indent=2) + "\n").encode()
    candidate.context.workspace.write_bytes(content, *_parts(candidate, CARD_FILE))


def _write(candidate: Candidate, outcome: Outcome, summary: pd.DataFrame, *, fingerprint: str) -> None:
    fitted = {
        **candidate.card(),
        **outcome.card,
        "selection": {**outcome.validation, "best": False},
        "fit": candidate.digest(),
    }
    card = _completed(candidate, fitted, summary, fingerprint)
    for file, data in outcome.files(card).items():
        candidate.context.workspace.write_bytes(data, *_parts(candidate, *file.split("/")))


def _parts(candidate: Candidate, *names: str) -> tuple[str, ...]:
    return layout.model_file(candidate.context.run, candidate.name, candidate.initialisation, *names)


def _card(candidate: Candidate) -> dict[str, Any]:
    """The card of a kept model; empty where there is none."""
    workspace, parts = candidate.context.workspace, _parts(candidate, CARD_FILE)
    return dict(workspace.read_json(*parts)) if workspace.exists(*parts) else {}


def _fingerprint(candidate: Candidate, summary: pd.DataFrame) -> str:
    return config_hash(candidate.digest(), repr(candidate.scores(summary)), __version__)


def _sources(context: SweepContext, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Frozen initialisation -> what its features are. The random encoder has no weights that are kept."""
    workspace = context.workspace
    runs = {"drasclr": context.run} | ablation_runs(workspace, recipe)
    common = {
        "atlas_hash": read_atlas(workspace).hash,
        "hu_window": [float(end) for end in recipe.prepare.hu_window],
        "spacing_mm": 1.0,
    }
    sources: dict[str, dict[str, Any]] = {"density": {"encoder": "density", "run": context.run}}
    for name, run in runs.items():
        if workspace.exists(*layout.weights(run)):
            own = {
                "encoder": "drasclr",
                "run": run,
                "weights_sha256": weights_digest(workspace, run),
                "layer": recipe.embed.features,
                "pooling": recipe.embed.pooling,
            }
            if recipe.embed.pooling in STANDARDISED and workspace.exists(*layout.representation(run)):
                content = workspace.read_bytes(*layout.representation(run))
                own["statistics_sha256"] = hashlib.sha256(content).hexdigest()
            sources[name] = own | common
    return sources
