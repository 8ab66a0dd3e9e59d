"""The order in which the parts of the evidence run: what each needs, what it costs, and which comes first.

Of the parts whose needs are there, the one comes first that the most CPU time waits for, its own included. Short parts
of one kind share a process, which imports once and keeps the patches that it has read.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from tests.benchmarks import evidence_efficiency
from tests.benchmarks.evidence_parts import (
    ALL,
    BEST_RANDOM,
    DEVELOPMENT,
    MAIN,
    RANDOM,
    SEEDS,
    VARIED_DEVELOPMENT,
    Evidence,
)
from tests.benchmarks.evidence_real import REAL

Part = tuple[Path, list[str]]  # the result, and the method with its arguments
#: CPU-seconds of a part of each kind, without the imports of its process: measured on an AMD EPYC, one thread, beside
#: other work.
CPU_SECONDS: Mapping[str, float] = {
    "prepare development": 360.0,
    "prepare": 200.0,
    "pretrain local": 300.0,
    "pretrain both": 275.0,
    "pretrain unconditioned": 285.0,
    "pretrain once": 265.0,
    "features development": 27.0,
    "features": 16.5,
    "choose": 25.0,
    "probe": 1.5,
    "train scratch": 20.0,
    "train finetune": 20.0,
    "train all": 48.0,
    "task_choose": 30.0,
    "task_kept_choice": 0.0,
    "task_heads": 1.5,
    "task_networks scratch": 19.0,
    "task_networks ceiling": 47.0,
    "tissue": 11.0,
    "real_prepare": 20.0,
    "real_pretrain": 275.0,
    "demo_sized": 1.0,
    "efficiency 0.1.0": 260.0,
    "efficiency today": 85.0,
}
UNKNOWN_SECONDS = 60.0
#: Of a process, before its first part: imports.
START_SECONDS = 2.5
#: Parts share a process up to so many CPU-seconds.
SHARED_SECONDS = 200.0


def kind_of(arguments: Sequence[str]) -> str:
    """The key of `CPU_SECONDS` for a part."""
    method, *names = arguments
    match method:
        case "pretrain" | "efficiency":
            return f"{method} {names[0]}"
        case "prepare" | "features" if names[0] == DEVELOPMENT:
            return f"{method} {names[0]}"
        case "train":
            return "train all" if names[3] == str(ALL) else f"train {names[2]}"
        case "task_networks":
            return f"{method} {names[2]}"
    return method


def cost_of(arguments: Sequence[str]) -> float:
    """Expected CPU-seconds of a part."""
    return CPU_SECONDS.get(kind_of(arguments), UNKNOWN_SECONDS)


def needs_of(evidence: Evidence, arguments: Sequence[str], earlier: Collection[Path]) -> set[Path]:
    """Results that a part reads, of those of earlier phases; all of these where it is not known which."""
    method, *names = arguments
    development = evidence.prepared(DEVELOPMENT)
    found: set[Path]
    match method:
        case "prepare":
            found = set() if names == [DEVELOPMENT] else {development}
        case "pretrain" | "demo_sized" | "real_prepare":
            found = {development}
        case "real_pretrain":
            found = {evidence.prepared(REAL)}
        case "features":
            cohort, encoder, seed = names
            found = {development, evidence.prepared(cohort), evidence.pretrained(encoder, int(seed))}
        case "choose":
            found = {
                evidence.features_file(DEVELOPMENT, encoder, seed)
                for encoder in (MAIN, RANDOM)
                for seed in SEEDS
            }
        case "task_kept_choice":
            found = set()
        case "task_choose":
            found = {
                evidence.features_file(cohort, encoder, seed)
                for cohort in VARIED_DEVELOPMENT
                for encoder in (MAIN, RANDOM)
                for seed in SEEDS
            }
        case "probe":
            cohort, encoder, seed = names
            features = RANDOM if encoder == BEST_RANDOM else encoder
            found = {
                evidence.representation_file(),
                evidence.prepared(cohort),
                evidence.features_file(cohort, features, int(seed)),
            }
        case "train":
            found = {evidence.prepared(names[0])}
            if names[2] == "finetune":
                found.add(evidence.pretrained(MAIN, int(names[4])))
        case "task_networks":
            found = {evidence.prepared(names[0])}
        case "tissue":
            found = {development, evidence.pretrained(names[0], int(names[1]))}
        case "efficiency":
            found = {evidence_efficiency.split_file(evidence)}
        case _:
            found = set(earlier)
    return found & set(earlier)


class Schedule:
    """The parts that are still to run, in the order in which they can.

    Args:
        evidence: the folder.
        phases: all parts; a part needs none of its own phase, nor of later ones.
        done: results that are there.
    """

    def __init__(
        self, evidence: Evidence, phases: Iterable[Sequence[Part]], *, done: Collection[Path] = ()
    ) -> None:
        self.done = set(done)
        self.waiting: dict[Path, list[str]] = {}
        self._needs: dict[Path, set[Path]] = {}
        earlier: set[Path] = set()
        for phase in phases:
            for result, arguments in phase:
                if result in self.done or result in self.waiting:
                    continue
                self.waiting[result] = arguments
                self._needs[result] = needs_of(evidence, arguments, earlier)
            earlier |= {result for result, _ in phase}
        self._depending = self._cost_of_what_waits()

    def _cost_of_what_waits(self) -> dict[Path, float]:
        """CPU-seconds of the longest chain that starts with each part."""
        found: dict[Path, float] = {}
        followers: dict[Path, list[Path]] = {}
        for result, needed in self._needs.items():
            for need in needed:
                followers.setdefault(need, []).append(result)

        def chain(result: Path) -> float:
            if result not in found:
                after = [chain(follower) for follower in followers.get(result, [])]
                found[result] = cost_of(self.waiting[result]) + max(after, default=0.0)
            return found[result]

        for result in self.waiting:
            chain(result)
        return found

    @property
    def seconds(self) -> float:
        """Expected CPU-seconds of what is waiting, without the starts of processes."""
        return sum(cost_of(arguments) for arguments in self.waiting.values())

    def take(self, processes: int) -> list[Part]:
        """The parts that the next process runs, one after the other; none where all that wait need others first."""
        ready = [result for result in self.waiting if self._needs[result] <= self.done]
        if not ready:
            return []
        ready.sort(key=lambda result: -self._depending[result])
        kind = kind_of(self.waiting[ready[0]])
        most = min(SHARED_SECONDS, self.seconds / (2 * processes))
        taken: list[Part] = []
        for result in ready:
            if kind_of(self.waiting[result]) != kind:
                continue
            if taken and (len(taken) + 1) * cost_of(self.waiting[result]) > most:
                break
            taken.append((result, self.waiting[result]))
        for result, _ in taken:
            del self.waiting[result]
        return taken


def forecast(schedule: Schedule, *, processes: int) -> float:
    """Seconds that the schedule takes where a CPU-second takes a second; the schedule is used up.

    The development cohort, which all else waits for, is prepared on all cores.
    """
    now, running = 0.0, list[tuple[float, int, list[Part]]]()
    number = 0
    while schedule.waiting or running:
        while len(running) < processes and (taken := schedule.take(processes)):
            seconds = START_SECONDS + sum(cost_of(arguments) for _, arguments in taken)
            if taken[0][1] == ["prepare", DEVELOPMENT]:
                seconds /= processes
            heapq.heappush(running, (now + seconds, number, taken))
            number += 1
        if not running:
            raise ValueError(f"{len(schedule.waiting)} parts wait for each other")
        now, _, ended = heapq.heappop(running)
        schedule.done |= {result for result, _ in ended}
    return now
