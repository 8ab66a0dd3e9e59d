"""Training on labels, as part of the evidence: from random weights, and fine-tuning of a pretrained encoder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from tests.benchmarks.evidence_parts import (
    ALL,
    MAIN,
    STEPS_ALL,
    Evidence,
    recipe_of,
    tasks,
    write_result,
)
from tests.benchmarks.evidence_scores import pool_of, problem_of, subset_of


def trained_file(evidence: Evidence, cohort: str, task: str, start: str, labels: int, number: int) -> Path:
    """Predictions for the test subjects after training on labels."""
    return evidence.folder / "trained" / f"{cohort}-{task}-{start}-{labels}-{number}.json"


def train(evidence: Evidence, cohort: str, task: str, start: str, labels: int, number: int) -> None:
    """Train on labels end to end: from `scratch`, or `finetune` the encoder pretrained with seed `number`."""
    import torch

    from ctplatform.evaluation.finetune import EndToEnd
    from ctplatform.evaluation.models import training_steps

    torch.set_num_threads(1)
    recipe = recipe_of(cohort)
    problem = problem_of(evidence, cohort, tasks()[task][0])
    rows = subset_of(problem, labels, number)
    pool = pool_of(evidence, cohort, problem)
    cpu = time.process_time()
    steps = STEPS_ALL if labels == ALL else training_steps(recipe.sweep.scratch, len(problem.train))
    model = EndToEnd(
        problem.task,
        encoder=recipe.pretrain.encoder,
        config=recipe.sweep.scratch,
        steps=steps,
        seed=number,
        pretrained=evidence.encoder(MAIN, number) if start == "finetune" else None,
        tuning=recipe.sweep.finetune,
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
