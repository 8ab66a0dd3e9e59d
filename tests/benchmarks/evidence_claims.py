"""The claims of the evidence: what each compares, when it holds, and what came out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ctplatform.metrics.bootstrap import interval, interval_with_infinity, labels_needed
from tests.benchmarks import (
    evidence_efficiency,
    evidence_networks,
    evidence_tables,
    evidence_tasks,
    evidence_tissue,
    evidence_variants,
)
from tests.benchmarks import evidence_parts as parts
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    CLAIMED,
    DENSITY,
    FEW,
    FRESH,
    HISTOGRAM,
    LABEL_COUNTS,
    MAIN,
    RANDOM,
    SAME_PLACES,
    SEEDS,
    TRAINED,
)
from tests.benchmarks.evidence_scores import (
    Score,
    difference,
    problem_of,
    seed_means,
)

LEAST_RANK, MOST_UNIFORMITY, LEAST_TOP1 = 1 / 3, -1.5, 10.0
LAST_LINES = 3


class Claims:
    """All claims whose parts are there."""

    def __init__(self, evidence: parts.Evidence) -> None:
        self.evidence = evidence
        self.tasks = parts.tasks() | parts.harder()
        self._targets = {
            (cohort, name): problem_of(evidence, cohort, task)
            for cohort in FRESH
            for name, (task, _) in self.tasks.items()
        }

    def all(self) -> dict[str, Any]:
        """The content of docs/evidence.json."""
        makers: tuple[Callable[[], dict[str, Any]], ...] = (
            self.no_collapse,
            lambda: self.frozen("frozen_beats_random_few_labels", MAIN, RANDOM, FEW, CLAIMED),
            lambda: self.frozen("frozen_beats_random_all_labels", MAIN, RANDOM, ALL, CLAIMED),
            lambda: self.frozen("frozen_beats_best_random_few_labels", MAIN, BEST_RANDOM, FEW, CLAIMED),
            lambda: self.frozen("frozen_beats_best_random_all_labels", MAIN, BEST_RANDOM, ALL, CLAIMED),
            lambda: self.trained("frozen_beats_scratch_few_labels", "frozen", "scratch"),
            lambda: self.trained("finetuned_beats_scratch_few_labels", "finetune", "scratch"),
            self.finetuned_not_below_probe,
            self.beats_density,
            self.labels_saved,
            *(partial(evidence_variants.pays, self, name) for name in evidence_variants.COMPARED),
            lambda: evidence_efficiency.claim(self.evidence),
            self.varied,
            lambda: evidence_tissue.claim(self.evidence),
        )
        claims = []
        for make in makers:
            try:
                claims.append(make())
            except FileNotFoundError:
                continue  # a part that has not been run
        return {
            "pretrain_seeds": len(SEEDS),
            "n_test": sum(len(self._targets[cohort, CLAIMED[0]].test) for cohort in FRESH),
            "cohort_seeds": list(FRESH.values()),
            "labels": {"few": FEW, "all": ALL},
            "representation": self._representation(),
            "claims": claims,
            "scores": evidence_tables.scores(self),
            "why": evidence_tables.why(self.evidence),
            "representations": evidence_tables.representations(self.evidence),
        }

    def _representation(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, encoder in (("", MAIN), ("random_", BEST_RANDOM)):
            chosen = self.evidence.representation(encoder)
            means = {candidate: round(value, 3) for candidate, value in chosen["means"].items()}
            found |= {
                f"{name}features": chosen["features"],
                f"{name}pooling": chosen["pooling"],
                f"{name}validated": means,
            }
        return found

    def frozen_score(self, encoder: str, task: str, labels: int, *, seeds: Sequence[int] = SEEDS) -> Score:
        """Heads on a frozen representation, of some pretraining seeds."""
        baseline = encoder in (DENSITY, HISTOGRAM)
        found = {
            cohort: [
                self._probed(cohort, encoder, seed, task, str(labels))
                for seed in (SEEDS[:1] if baseline else seeds)
            ]
            for cohort in FRESH
        }
        return self._score(task, found)

    def frozen_score_at_same_places(self, task: str) -> Score:
        """Heads on the places and the label subsets, one a seed, that training on labels takes."""
        found = {
            cohort: [[self._probed(cohort, MAIN, seed, task, SAME_PLACES)[seed]] for seed in SEEDS]
            for cohort in FRESH
        }
        return self._score(task, found)

    def _probed(self, cohort: str, encoder: str, seed: int, task: str, labels: str) -> list[np.ndarray]:
        stored = json.loads(self.evidence.probed_file(cohort, encoder, seed).read_text(encoding="utf-8"))
        return [np.array(p) for p in stored[task][labels]]

    def trained_score(self, start: str, task: str, labels: int, *, key: str = "prediction") -> Score:
        """End-to-end training, a label subset a seed."""
        found = {}
        for cohort in FRESH:
            seeds = []
            for number in SEEDS:
                path = evidence_networks.trained_file(self.evidence, cohort, task, start, labels, number)
                if labels == ALL and number and not path.exists():
                    continue
                seeds.append([np.array(json.loads(path.read_text(encoding="utf-8"))[key])])
            found[cohort] = seeds
        return self._score(task, found)

    def _score(self, task: str, predictions: dict[str, list[list[np.ndarray]]]) -> Score:
        targets = {cohort: self._targets[cohort, task].test_targets for cohort in FRESH}
        return Score(predictions, targets, self.tasks[task][1])

    def _compared(
        self, name: str, pairs: dict[str, tuple[Score, Score]], *, least: int, **more: Any
    ) -> dict[str, Any]:
        """A claim that holds if the interval of the difference is above 0 in `least` tasks."""
        tasks, draws = {}, []
        for task, (first, second) in pairs.items():
            found, draws_B = difference(first, second)
            tasks[task] = found.plain() | {"metric": first.metric}
            draws.append(draws_B)
        above = [task for task, found in tasks.items() if found["interval"][0] > 0]
        low, high = interval(np.mean(draws, axis=0))
        return {
            "name": name,
            "holds": len(above) >= least,
            "difference": round(float(np.mean([found["difference"] for found in tasks.values()])), 3),
            "interval": [round(low, 3), round(high, 3)],
            "n": sum(len(t) for t in next(iter(pairs.values()))[0].targets.values()),
            "needed": f"interval above 0 in {least} of {len(tasks)} tasks",
            "tasks": tasks,
            **more,
        }

    def frozen(
        self,
        name: str,
        first: str,
        second: str,
        labels: int,
        tasks: Sequence[str],
        *,
        least: int | None = None,
        seeds: Sequence[int] = SEEDS,
    ) -> dict[str, Any]:
        """Heads on one frozen representation against another."""
        pairs = {
            task: (
                self.frozen_score(first, task, labels, seeds=seeds),
                self.frozen_score(second, task, labels, seeds=seeds),
            )
            for task in tasks
        }
        return self._compared(name, pairs, least=len(tasks) if least is None else least, labels=labels)

    def trained(self, name: str, first: str, second: str) -> dict[str, Any]:
        """With few labels: frozen heads or fine-tuning against training from scratch, on the same places and labels."""
        pairs = {}
        for task in TRAINED:
            scores = [
                self.frozen_score_at_same_places(task)
                if start == "frozen"
                else self.trained_score(start, task, FEW)
                for start in (first, second)
            ]
            pairs[task] = (scores[0], scores[1])
        return self._compared(name, pairs, least=3, labels=FEW)

    def finetuned_not_below_probe(self) -> dict[str, Any]:
        """Fine-tuning against the probe that it starts at, which reads the same locations."""
        pairs = {
            task: (
                self.trained_score("finetune", task, FEW),
                self.trained_score("finetune", task, FEW, key="probe"),
            )
            for task in TRAINED
        }
        claim = self._compared("finetuned_not_below_probe", pairs, least=0, labels=FEW)
        claim["holds"] = all(found["difference"] >= 0 for found in claim["tasks"].values())
        claim["needed"] = "no difference below 0"
        return claim

    def beats_density(self) -> dict[str, Any]:
        """With all labels, on each cohort by itself."""
        names = tuple(parts.tasks())
        pairs = {
            task: (self.frozen_score(MAIN, task, ALL), self.frozen_score(DENSITY, task, ALL))
            for task in names
        }
        claim = self._compared("beats_density", pairs, least=3, labels=ALL)
        cohorts = {
            cohort: self._compared(
                cohort, {task: (a.of(cohort), b.of(cohort)) for task, (a, b) in pairs.items()}, least=3
            )
            for cohort in FRESH
        }
        claim["holds"] = all(found["holds"] for found in cohorts.values())
        claim["needed"] = "interval above 0 in 3 of 5 tasks on each cohort"
        claim["cohorts"] = {cohort: found["tasks"] for cohort, found in cohorts.items()}
        return claim

    def labels_saved(self) -> dict[str, Any]:
        """Labels at which a frozen head reaches training from scratch with all labels."""
        tasks: dict[str, Any] = {}
        for task in TRAINED:
            curves = [seed_means(self.frozen_score(MAIN, task, labels)) for labels in LABEL_COUNTS]
            target_B = seed_means(self.trained_score("scratch", task, ALL))
            needed_B = labels_needed(np.array(LABEL_COUNTS), np.stack(curves, axis=1), target_B)
            values = [float(self.frozen_score(MAIN, task, labels).values().mean()) for labels in LABEL_COUNTS]
            target = float(self.trained_score("scratch", task, ALL).values().mean())
            needed = labels_needed(np.array(LABEL_COUNTS), np.array([values]), np.array([target]))[0]
            low, high = interval_with_infinity(needed_B)
            tasks[task] = {
                "scratch": round(target, 3),
                "frozen": {str(n): round(value, 3) for n, value in zip(LABEL_COUNTS, values, strict=True)},
                "labels": _number(needed),
                "interval": [_number(low), _number(high)],
            }
        reached = [found for found in tasks.values() if found["interval"][1] is not None]
        return {
            "name": "labels_saved",
            "holds": len(reached) >= 3,
            "interval": [None, None],
            "n": sum(len(self._targets[cohort, CLAIMED[0]].test) for cohort in FRESH),
            "needed": f"scratch with all {ALL} labels is reached with {ALL} or fewer, the whole interval, in 3 tasks",
            "tasks": tasks,
        }

    def varied(self) -> dict[str, Any]:
        """The claim of the tasks that density fails at.

        Raises:
            FileNotFoundError: a part has not been run.
        """
        for cohort in parts.VARIED:
            if not self.evidence.prepared(cohort).exists():
                raise FileNotFoundError(f"{evidence_tasks.NAME}: the {cohort} cohort has not been prepared")
        return evidence_tasks.claim(self.evidence)

    def no_collapse(self) -> dict[str, Any]:
        """Rank of a batch, uniformity and top-1 at the end of pretraining, in every seed."""
        runs = []
        for seed in SEEDS:
            log = evidence_variants.pretrained(self, MAIN, seed)["log"]
            first, last = log[0], log[-LAST_LINES:]
            end = {key: float(np.mean([line[key] for line in last])) for key in (*MONITORED, "negatives")}
            runs.append(
                {
                    "seed": seed,
                    "rank_start": round(first["effective_rank"], 1),
                    "rank_end": round(end["effective_rank"], 1),
                    "uniformity": round(end["uniformity"], 2),
                    "top1": round(end["top1"], 3),
                    "chance": round(1 / (end["negatives"] + 1), 4),
                }
            )
        shares = [run["rank_end"] / run["rank_start"] for run in runs]
        return {
            "name": "no_collapse",
            "holds": all(
                share >= LEAST_RANK
                and run["uniformity"] <= MOST_UNIFORMITY
                and run["top1"] >= LEAST_TOP1 * run["chance"]
                for share, run in zip(shares, runs, strict=True)
            ),
            "interval": [round(min(shares), 2), round(max(shares), 2)],
            "n": len(runs),
            "needed": "in every seed: rank at least a third of its start (the interval is its range over seeds), "
            "uniformity at most -1.5, top-1 at least ten times chance",
            "runs": runs,
        }


MONITORED = ("effective_rank", "uniformity", "top1")


def _number(value: float) -> float | None:
    """A number of labels; None: not with all of them."""
    return round(float(value), 1) if np.isfinite(value) else None
