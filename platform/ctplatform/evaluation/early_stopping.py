"""How many fine-tuning steps help subjects that were not trained on: chosen in folds of the labelled subjects.

A fine-tuned model starts at the frozen probe. Each fold trains from its own probe on the other folds and notes the
loss of its own subjects on the way; every labelled subject is so validated once. Steps are taken only if they lower
the loss by more than one standard error of the paired difference (the one-standard-error rule: Breiman, Friedman,
Olshen, Stone, Classification and Regression Trees, 1984, section 3.4.3). So fine-tuning ends at the probe wherever the
labels do not show that it gains anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ctplatform.errors import StageError
from ctplatform.metrics.scores import Targets
from ctplatform.metrics.stratification import folds
from ctplatform.tasks.task import Task

#: Takes the rows to train on and those to validate; returns losses of the latter at 0 and each mark, [M + 1, n].
Run = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Choice:
    """The chosen number of steps.

    Args:
        steps: 0 is the probe.
        gain: mean decrease of the validation loss at that step, against the probe.
        error: standard error of that decrease.
        validated: losses that it rests on; 0 where there are too few subjects to validate.
    """

    steps: int
    gain: float = 0.0
    error: float = 0.0
    validated: int = 0


def fold_rows(task: Task, targets: Targets, *, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(training, validation) rows of each fold, stratified; none where a fold's training part cannot be fitted on."""
    if len(targets) < 2 * count:
        return []
    fold_N = folds(task.strata(targets), seed=seed, count=count)
    pairs = [(np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)) for fold in range(count)]
    try:
        for inside, _ in pairs:
            task.check(targets.take(inside))
    except StageError:
        return []
    return pairs


def choose(losses_MN: np.ndarray, marks: Sequence[int]) -> Choice:
    """The mark of the least mean loss, if it beats the probe by more than one standard error.

    Args:
        losses_MN: validation losses, the probe's first, then one row a mark.
        marks: steps after which the losses were noted.
    """
    count = losses_MN.shape[1]
    if count < 2 or not np.isfinite(losses_MN[0]).all():
        return Choice(0)
    gains_MN = losses_MN[:1] - losses_MN[1:]
    gains_MN = np.where(np.isfinite(gains_MN), gains_MN, -np.inf)
    best = int(np.argmax(gains_MN.mean(1)))
    gain_N = gains_MN[best]
    gain = float(gain_N.mean())
    error = float(gain_N.std(ddof=1) / np.sqrt(count)) if np.isfinite(gain) else 0.0
    return Choice(int(marks[best]) if gain > error else 0, gain if gain > error else 0.0, error, count)


def chosen_steps(run: Run, rows: Iterable[tuple[np.ndarray, np.ndarray]], marks: Sequence[int]) -> Choice:
    """Train each fold and choose; without folds the probe stays."""
    found = [run(inside, outside) for inside, outside in rows]
    return choose(np.concatenate(found, axis=1), marks) if found else Choice(0)
