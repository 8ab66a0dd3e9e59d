"""Training on labels, as part of the evidence: from random weights, and fine-tuning of a pretrained encoder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.evidence_parts import (
    ALL,
    MAIN,
    STEPS_ALL,
    Evidence,
    recipe_of,
    tasks,
    write_result,
)
from tests.benchmarks.evidence_scores import LabelledCohort, pool_of, problem_of, subset_of

if TYPE_CHECKING:
    from ctplatform.config.recipe import Recipe
    from ctplatform.evaluation.finetune import EndToEnd


def trained_file(evidence: Evidence, cohort: str, task: str, start: str, labels: int, number: int) -> Path:
    """Predictions for the test subjects after training on labels."""
    return evidence.folder / "trained" / f"{cohort}-{task}-{start}-{labels}-{number}.json"


def network(
    recipe: Recipe, problem: LabelledCohort, *, steps: int | None, seed: int = 0, pretrained: Any = None
) -> EndToEnd:
    """A network on one thread that is still to be trained on labels.

    Args:
        recipe: of the cohort.
        problem: what it is trained on.
        steps: None: those of the sweep.
        seed: of its weights and batches.
        pretrained: the encoder that it starts from; None: random weights.
    """
    import torch

    from ctplatform.evaluation.finetune import EndToEnd
    from ctplatform.evaluation.models import training_steps

    torch.set_num_threads(1)
    return EndToEnd(
        problem.task,
        encoder=recipe.pretrain.encoder,
        config=recipe.sweep.scratch,
        steps=steps or training_steps(recipe.sweep.scratch, len(problem.train)),
        seed=seed,
        pretrained=pretrained,
        tuning=recipe.sweep.finetune,
    )


def train(evidence: Evidence, cohort: str, task: str, start: str, labels: int, number: int) -> None:
    """Train on labels end to end: from `scratch`, or `finetune` the encoder pretrained with seed `number`."""
    recipe = recipe_of(cohort)
    problem = problem_of(evidence, cohort, tasks()[task][0])
    rows = subset_of(problem, labels, number)
    pool = pool_of(evidence, cohort, problem)
    cpu = time.process_time()
    model = network(
        recipe,
        problem,
        steps=STEPS_ALL if labels == ALL else None,
        seed=number,
        pretrained=evidence.encoder(MAIN, number) if start == "finetune" else None,
    )
    subjects, targets = [problem.train[row] for row in rows], problem.train_targets.take(rows)
    result: dict[str, Any] = {}
    if start == "finetune":
        probe = problem.task.probe().fit(model.features(pool, subjects), targets, seed=number)
        start_N = problem.task.clip(probe.predict(model.features(pool, problem.test)))
        result["probe"] = [float(value) for value in start_N]
    model.fit(pool, subjects, targets)
    result["prediction"] = [float(value) for value in model.predict(pool, problem.test)]
    result["cpu_seconds"] = time.process_time() - cpu
    result["steps"] = model.choice_.steps if model.choice_ else model.steps
    write_result(trained_file(evidence, cohort, task, start, labels, number), result)
